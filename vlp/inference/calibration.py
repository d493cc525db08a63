"""What `vlp calibrate` learned of a model, as a file of plain numbers: probabilities, sets, states, thresholds.

For a finding with pooled score s in (0, 1), let l = logit(s).  Three maps lead from there to a probability:

    temperature   p = sigma(l / T)                        one T for all findings (Guo et al., 2017)
    platt         p = sigma(a l + b)                      (Platt, 1999), never falling: a >= 0
    isotonic      p = (1 - e) f(l) + e sigma(a l + b)     f: monotone between knots (Zadrozny and Elkan, 2002); the
                                                          share e keeps different scores different

and a label-conditional conformal set (Vovk, 2012), with q1 and q0 the quantiles of 1 - p over present and of p over
absent studies that were held out:

    "present" in the set  <=>  1 - p <= q1          "absent" in the set  <=>  p <= q0

so that of the studies with the finding at least 1 - alpha have "present" in their set, and likewise for "absent", as
long as studies are like those that were calibrated on.  A set that holds both or neither decides nothing.
"""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Protocol

import numpy as np
from jaxtyping import Float
from pydantic import Field, ValidationError, model_validator

from vlp.config import Config
from vlp.errors import CheckpointError, DataError, VlpError
from vlp.inference.pooling import GeometricMean, LogOdds, Pooling, PoolingKind, logit, sigma
from vlp.records import Split
from vlp.reports import findings as vocabulary

if TYPE_CHECKING:
    from vlp.data.transforms import Preprocess

FILE = "calibration.json"
FOLDER = "calibration"
"""Beside `checkpoints` in a run folder."""

Answer = Literal["present", "absent"]
State = Literal["positive", "negative", "indeterminate"]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=0)]


class Model(Protocol):
    """What a calibration compares of a model; `vlp.Engine` is one."""

    @property
    def fingerprint(self) -> str:
        """Equal only for models that give equal vectors."""
        ...


class Sentences(Protocol):
    """What a calibration compares of a descriptor set; `DescriptorSet` is one."""

    @property
    def digest(self) -> str:
        """Equal only for sets that ask the same sentences."""
        ...


class Temperature(Config):
    """p = sigma(l / T)."""

    kind: Literal["temperature"] = "temperature"
    temperature: Annotated[float, Field(gt=0.0, allow_inf_nan=False)]

    def apply(self, logits: Float[np.ndarray, " row"]) -> Float[np.ndarray, " row"]:
        """The probabilities of logits of scores."""
        return sigma(logits / self.temperature)


class Platt(Config):
    """p = sigma(a l + b)."""

    kind: Literal["platt"] = "platt"
    slope: Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
    """0 for a score that says nothing of the finding: then every study has the same probability."""
    bias: Finite

    def apply(self, logits: Float[np.ndarray, " row"]) -> Float[np.ndarray, " row"]:
        """The probabilities of logits of scores."""
        return sigma(self.slope * logits + self.bias)


class Isotonic(Config):
    """p = (1 - e) f(l) + e sigma(a l + b), f linear between knots and constant beyond them."""

    kind: Literal["isotonic"] = "isotonic"
    knots: Annotated[tuple[Finite, ...], Field(min_length=1)]
    """Logits of scores, rising."""
    values: Annotated[tuple[Share, ...], Field(min_length=1)]
    """f at the knots, never falling."""
    platt: Platt
    platt_share: Share
    """e."""

    @model_validator(mode="after")
    def _rises(self) -> "Isotonic":
        if len(self.knots) != len(self.values):
            raise ValueError("there is one value per knot")
        if (np.diff(self.knots) <= 0.0).any() or (np.diff(self.values) < 0.0).any():
            raise ValueError("knots and values must rise")
        return self

    def apply(self, logits: Float[np.ndarray, " row"]) -> Float[np.ndarray, " row"]:
        """The probabilities of logits of scores."""
        steps = np.interp(logits, self.knots, self.values)
        mixed: np.ndarray = (1.0 - self.platt_share) * steps + self.platt_share * self.platt.apply(logits)
        return mixed


ScoreMap = Annotated[Temperature | Platt | Isotonic, Field(discriminator="kind")]


class Conformal(Config):
    """The quantiles of a label-conditional conformal set; 1 where too few studies were held out to exclude anything."""

    alpha: Annotated[float, Field(gt=0.0, lt=1.0)]
    """Share of the studies of either label whose set may miss their label."""
    q0: Share
    """Largest probability that still leaves "absent" possible."""
    q1: Share
    """Largest 1 - p that still leaves "present" possible."""


class Figures(Config):
    """What calibration did to a finding's scores, on studies that each map had not seen (cross-validation by patient).

    None where a value is undefined.
    """

    ece_before: Finite | None
    """Expected calibration error over 15 bins of the score, read as if it were a probability."""
    ece_cv: Finite | None
    brier_before: Finite | None
    brier_cv: Finite | None
    coverage_present_cv: Share | None
    """Share of the studies with the finding whose set holds "present"."""
    coverage_absent_cv: Share | None
    indeterminate_cv: Share | None
    """Share of all studies whose set holds both or neither."""


class FindingCalibration(Config):
    """One finding."""

    map: ScoreMap
    studies: Count
    """Labelled studies behind the numbers."""
    positives: Count
    conformal: Conformal
    figures: Figures


class MapThreshold(Config):
    """The cosine from which the map of a finding, or of a part of the body, counts as its region."""

    threshold: Annotated[float, Field(ge=-1.0, le=1.0)]
    texts: Annotated[tuple[str, ...], Field(min_length=1)]
    """The sentences whose highest map it was chosen for."""
    dice: Share
    """Mean Dice at it on the studies it was chosen on: the best of many thresholds, so a little flattering."""
    images: Annotated[int, Field(ge=1)]
    """Images with such a region."""


class PooledBy(Config):
    """How descriptors become a score."""

    kind: PoolingKind = "geometric_mean"
    weights: dict[str, Annotated[float, Field(ge=0.0, allow_inf_nan=False)]] = Field(default_factory=dict)
    """log_odds: weight by descriptor id."""
    bias: dict[str, Finite] = Field(default_factory=dict)
    """log_odds: constant by finding."""


class FittedOn(Config):
    """The studies behind a calibration."""

    archive: str
    """Name of the folder of shards."""
    shards_sha256: str
    split: Split
    studies: Count
    patients: Count
    synthetic: bool = False
    """Whether any study was drawn by a program: then nothing here says anything of patients."""


class Calibration(Config):
    """Everything a model's answers need besides the model to be read as probabilities."""

    schema_version: Literal[1] = 1
    vlp_version: str
    model_fingerprint: str
    prompts_digest: str
    preprocess_digest: str
    protocol: str = "vlp"
    prompts: Literal["descriptors", "finding", "both"] = "both"
    """What a score follows from."""
    views: Literal["frontal", "mean"] = "frontal"
    """Whether a study's score is that of its first frontal image, or the mean over its images."""
    uncertain: Literal["ignore", "positive", "negative"] = "ignore"
    pooled_by: PooledBy
    fitted_on: FittedOn
    findings: dict[str, FindingCalibration]
    left_out: dict[str, str] = Field(default_factory=dict)
    """Findings that were asked for and could not be calibrated, with the reason."""
    maps: dict[str, MapThreshold] = Field(default_factory=dict)
    """By finding, or by the name of a part of the body."""

    @classmethod
    def load(cls, path: Path | str) -> "Calibration":
        """The calibration in a file, or in the `calibration.json` of a folder.

        Raises:
            DataError: one line, if the file is missing or is no calibration.
        """
        file = Path(path) / FILE if Path(path).is_dir() else Path(path)
        try:
            content = file.read_bytes()
        except OSError as error:
            raise DataError(f"{file}: cannot read the calibration: {error.strerror}; run vlp calibrate") from None
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            fault = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(part) for part in fault["loc"]) or "the file"
            raise DataError(f"{file}: not a calibration of this version: {where}: {fault['msg']}") from None

    def to_json(self) -> str:
        """The text of a calibration file; `load` reads it back to an equal object."""
        return json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @property
    def digest(self) -> str:
        """16 hex digits that identify the calibration in results."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def misfit(
        self,
        engine: Model,
        descriptors: Sentences | None = None,
        *,
        prompts: str | None = None,
        protocol: str | None = None,
    ) -> VlpError | None:
        """Why the calibration does not hold for these scores, or None if it does.

        Args:
            engine: the model that scored.
            descriptors: the vocabulary it was asked with; None: the same as was calibrated.
            prompts: what the scores follow from; None: the same.
            protocol: by which protocol they were made; None: the same.
        """
        if engine.fingerprint != self.model_fingerprint:
            return CheckpointError(
                f"the calibration was made for another model ({self.model_fingerprint[:8]}, not "
                f"{engine.fingerprint[:8]}); run vlp calibrate for this one"
            )
        if descriptors is not None and descriptors.digest != self.prompts_digest:
            return DataError(
                f"the calibration was made with other sentences ({self.prompts_digest}, not {descriptors.digest}); "
                "run vlp calibrate with these"
            )
        for what, asked, calibrated in (("prompts", prompts, self.prompts), ("protocol", protocol, self.protocol)):
            if asked is not None and asked != calibrated:
                return DataError(f"the calibration is for {what} {calibrated!r}, not {asked!r}; ask as was calibrated")
        return None

    def refuse_other(
        self,
        engine: Model,
        descriptors: Sentences | None = None,
        *,
        prompts: str | None = None,
        protocol: str | None = None,
    ) -> None:
        """Ends where the calibration does not hold; arguments as in `misfit`.

        Raises:
            CheckpointError: for another model.
            DataError: for other sentences, or other use of them.
        """
        fault = self.misfit(engine, descriptors, prompts=prompts, protocol=protocol)
        if fault is not None:
            raise fault

    def knows(self, finding: str) -> bool:
        """Whether the finding, by its name in the descriptor set or any known spelling, was calibrated."""
        return self._name(finding) in self.findings

    def probability(self, finding: str, scores: Float[np.ndarray, " row"] | float) -> Float[np.ndarray, " row"]:
        """The probabilities of a finding, given its pooled scores in [0, 1]; float64 of the same shape.

        Raises:
            DataError: for a finding that was not calibrated, or scores that are no numbers in [0, 1].
        """
        values = np.asarray(scores, dtype=np.float64)
        if not ((values >= 0.0) & (values <= 1.0)).all():
            raise DataError("a calibration reads pooled scores in [0, 1], not cosines or logits")
        return self._of(finding).map.apply(logit(values))

    def conformal_set(self, finding: str, probability: float) -> frozenset[Answer]:
        """The answers that remain possible at a calibrated probability.

        Raises:
            DataError: for a finding that was not calibrated.
        """
        present, absent = possible(self._of(finding).conformal, np.asarray(probability))
        answers: tuple[tuple[Answer, bool], ...] = (("present", bool(present)), ("absent", bool(absent)))
        return frozenset(answer for answer, holds in answers if holds)

    def state(self, finding: str, probability: float) -> State:
        """What may be said at a calibrated probability: one answer left is a decision, both or neither is none.

        Raises:
            DataError: for a finding that was not calibrated.
        """
        left = self.conformal_set(finding, probability)
        if left == {"present"}:
            return "positive"
        return "negative" if left == {"absent"} else "indeterminate"

    def map_threshold(self, text_or_finding: str) -> float | None:
        """The cosine from which a map counts as a region, by finding, part of the body or sentence; None: unknown."""
        found = self.maps.get(self._name(text_or_finding))
        if found is None:
            wanted = _plain(text_or_finding)
            found = next((one for one in self.maps.values() if wanted in map(_plain, one.texts)), None)
        return None if found is None else found.threshold

    @property
    def pooling(self) -> Pooling:
        """The rule by which descriptors become the score that was calibrated."""
        if self.pooled_by.kind == "geometric_mean":
            return GeometricMean()
        return LogOdds(weights=self.pooled_by.weights, bias=self.pooled_by.bias)

    def _name(self, finding: str) -> str:
        wanted = " ".join(finding.lower().replace("_", " ").split())
        return wanted if wanted in self.findings else vocabulary.canonical(finding) or wanted

    def _of(self, finding: str) -> FindingCalibration:
        found = self.findings.get(self._name(finding))
        if found is None:
            raise DataError(f"the finding {finding[:60]!r} was not calibrated; {len(self.findings)} others were")
        return found


def folder_of(checkpoint: Path | str) -> Path:
    """Where the calibration of a checkpoint is kept: beside the `checkpoints` of its run, or else inside it."""
    path = Path(checkpoint)
    run = path.parent.parent if path.absolute().parent.name == "checkpoints" else path
    return run / FOLDER


def find(checkpoint: Path | str) -> Path | None:
    """The file of a run's or a checkpoint's calibration, if there is one; perhaps of another (`misfit`)."""
    file = folder_of(checkpoint) / FILE
    return file if file.is_file() else None


def preprocess_digest(preprocess: "Preprocess") -> str:
    """16 hex digits, equal only for models that are shown images in the same way."""
    content = json.dumps(preprocess.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def possible(conformal: Conformal, probabilities: Float[np.ndarray, " row"]) -> tuple[np.ndarray, np.ndarray]:
    """Whether "present" and whether "absent" remain possible at calibrated probabilities, each of the same shape."""
    return 1.0 - probabilities <= conformal.q1, probabilities <= conformal.q0


def _plain(text: str) -> str:
    return " ".join(text.lower().rstrip(" .").split())
