"""What the model says of one study: findings, the descriptors they follow from, and what kind of numbers these are.

A number that nothing was calibrated for is a *similarity*: it ranks images.  A *probability* comes of a calibration
file alone.  `Diagnosis.to_json` is the source of truth that tables, statements and reports are made from.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from vlp.inference.evidence import Where
from vlp.inference.pooling import Scale
from vlp.inference.statement import Contrast, Decide, Statement, contrast, side_of_undecided, statement

SCHEMA_VERSION = 1
KIND = "similarity-based, uncalibrated"
NOTE = "research use, not a medical device"
State = Literal["positive", "negative", "indeterminate", "not assessable", "uncalibrated"]
Fusion = Literal["mean", "max", "frontal"]
"""How the images of a study are brought together, see `Evidence.fused`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DescriptorEvidence:
    """What one descriptor says about the images of one study."""

    id: str
    text: str
    anatomy: str
    positive: str
    negative: str
    positive_similarity: float
    negative_similarity: float | None
    """None where only the positive sentence was asked."""
    probability: float
    """sigma((s+ - s-) / T), in (0, 1): the softmax over the pair of sentences, uncalibrated; 0.5 is undecided."""
    contribution: float
    """Share in the finding's total, relative to undecided: positive speaks for the finding."""
    where: tuple[Where, ...] = ()
    """Where its map reaches the threshold, on each image that was answered for; empty where nobody asked."""

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return {
            "id": self.id,
            "text": self.text,
            "anatomy": self.anatomy,
            "positive": self.positive,
            "negative": self.negative,
            "positive_similarity": self.positive_similarity,
            "negative_similarity": self.negative_similarity,
            "pair_softmax": self.probability,
            "contribution": self.contribution,
            "where": [place.to_json() for place in self.where],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingEvidence:
    """One finding: its score and the descriptors it follows from."""

    finding: str
    score: float
    """What the pooling makes of the descriptors, in (0, 1); similarity-based and uncalibrated."""
    scale: Scale
    """Whether `total` is the log of the score or its logit."""
    offset: float
    """The total of a finding all of whose descriptors are undecided."""
    total: float
    """Offset plus the sum of the descriptors' contributions."""
    descriptors: tuple[DescriptorEvidence, ...]
    """In the order of the vocabulary; the pair that names the finding comes first."""
    probability: float | None = None
    """The calibrated probability; None without a calibration of this finding."""
    state: State = "uncalibrated"
    conformal: tuple[str, ...] | None = None
    """What a conformal set holds of "present" and "absent"; None without a calibration of this finding."""
    decide: Decide = field(default=side_of_undecided, repr=False, compare=False)
    """What a score of this finding leads to; with a calibration, its state and probability."""

    @property
    def log_score(self) -> float:
        """The logarithm of the score."""
        return self.total if self.scale == "log" else float(np.log(self.score))

    @property
    def contrast(self) -> Contrast | None:
        """The smallest change of one descriptor that would change the decision; computed when it is asked for."""
        return contrast(self, decide=self.decide)

    @property
    def statement(self) -> Statement:
        """The finding in words, every number of which is in `to_json`."""
        return statement(self)

    def strongest(self) -> tuple[DescriptorEvidence | None, DescriptorEvidence | None]:
        """The descriptors that speak loudest for and against the finding; None where nothing does."""
        if not self.descriptors:
            return None, None
        loudest = max(self.descriptors, key=lambda descriptor: descriptor.contribution)
        softest = min(self.descriptors, key=lambda descriptor: descriptor.contribution)
        return (loudest if loudest.contribution > 0 else None), (softest if softest.contribution < 0 else None)

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        contrasted = self.contrast
        return {
            "finding": self.finding,
            "state": self.state,
            "similarity": self.score,
            "probability": self.probability,
            "conformal_set": list(self.conformal) if self.conformal is not None else None,
            "scale": self.scale,
            "offset": self.offset,
            "total": self.total,
            "descriptors": [descriptor.to_json() for descriptor in self.descriptors],
            "contrast": asdict(contrasted) if contrasted is not None else None,
            "statement": self.statement.to_json(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Digests:
    """What an answer came of, so that it can be had again; None where there is none."""

    model: str | None = None
    prompts: str | None = None
    preprocess: str | None = None
    calibration: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """What the gate made of the images of a study, in their order."""

    accepted: bool
    """Whether any image may be answered for; the others were left out."""
    images: tuple[Mapping[str, Any], ...]
    """Per image: accepted, reason, message, score."""

    @property
    def message(self) -> str:
        """Why nothing was answered, in words; empty where something was."""
        if self.accepted:
            return ""
        return "; ".join(dict.fromkeys(str(image["message"]) for image in self.images))


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What the model says of one study (or one image)."""

    findings: tuple[FindingEvidence, ...]
    """Empty where the gate let no image pass."""
    num_images: int
    """How many images the answer follows from."""
    prompts: str
    """descriptors, finding, both, or the name of a protocol."""
    temperature: float | None
    """T where one was given; None: the scorer's own."""
    vocabulary: str
    """Version and review state of the descriptors."""
    pooling: Mapping[str, Any]
    """The rule by which descriptors became scores, with its numbers."""
    fusion: Fusion = "mean"
    gate: GateResult | None = None
    """None where no gate was asked."""
    not_assessable: tuple[str, ...] = ()
    """The findings that were asked for where the gate let no image pass."""
    digests: Digests = Digests()
    warnings: tuple[str, ...] = ()
    timings_s: Mapping[str, float] = field(default_factory=dict)

    @property
    def refused(self) -> bool:
        """Whether the gate let no image pass."""
        return self.gate is not None and not self.gate.accepted

    @property
    def calibrated(self) -> bool:
        """Whether any finding has a calibrated probability."""
        return any(evidence.probability is not None for evidence in self.findings)

    @property
    def scores(self) -> dict[str, float]:
        """Score by finding."""
        return {evidence.finding: evidence.score for evidence in self.findings}

    def ranked(self) -> tuple[FindingEvidence, ...]:
        """The findings, highest score first; ties by name."""
        return tuple(sorted(self.findings, key=lambda evidence: (-evidence.score, evidence.finding)))

    def to_json(self) -> dict[str, Any]:
        """The diagnosis as plain values (schema version 1); every key is always there, null where nothing is known."""
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": "calibrated where a probability is given, else " + KIND if self.calibrated else KIND,
            "note": NOTE,
            "gate": None if self.gate is None else {**asdict(self.gate), "message": self.gate.message},
            "findings": [evidence.to_json() for evidence in self.findings]
            or [_not_assessable(finding) for finding in self.not_assessable],
            "num_images": self.num_images,
            "prompts": self.prompts,
            "temperature": self.temperature,
            "vocabulary": self.vocabulary,
            "pooling": dict(self.pooling),
            "fusion": self.fusion,
            "digests": asdict(self.digests),
            "warnings": list(self.warnings),
            "timings_s": dict(self.timings_s),
        }


def _not_assessable(finding: str) -> dict[str, Any]:
    state: State = "not assessable"
    return {
        "finding": finding,
        "state": state,
        "similarity": None,
        "probability": None,
        "conformal_set": None,
        "scale": None,
        "offset": None,
        "total": None,
        "descriptors": [],
        "contrast": None,
        "statement": {"text": f"{finding.capitalize()}: not assessable.", "numbers": []},
    }
