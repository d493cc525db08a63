"""Zero-shot diagnosis with its evidence: a finding is what its descriptors say, and nothing else.

For a descriptor d with the sentences "There is d" and "There is no d" and their similarities s+ and s- to an image

    p_d = sigma((s+ - s-) / T)                          T: the scorer's own temperature, unless another is given
    score = exp(mean_d log p_d)                         the geometric mean, p_d clipped to [1e-6, 1 - 1e-6]
    log score = log 1/2 + sum_d contribution_d          contribution_d = (log p_d - log 1/2) / number of descriptors

so the evidence adds up to the score exactly, and a contribution speaks for the finding when it is positive and
against it when it is negative.  The form is Xplainer's (Pellegrini et al., 2023), with the temperature the model was
trained with in place of a fixed one.  The pair that names the finding itself is descriptor number 0.

Scores are similarity-based and uncalibrated: they rank images, they are not probabilities of disease.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float

from vlp.errors import CheckpointError, DataError
from vlp.prompts.descriptors import Descriptor, DescriptorSet, Prompts, load_descriptors
from vlp.tensors import ImageFeatures

CLIP = 1e-6
"""Probabilities are kept this far from 0 and 1, so that one descriptor cannot veto all others by itself."""
KIND = "similarity-based, uncalibrated"
_UNDECIDED = float(np.log(0.5))


class Scoring(Protocol):
    """What diagnosing needs of a model; `vlp.Engine` is one."""

    def scores(
        self, texts: Sequence[str], features: ImageFeatures
    ) -> tuple[Float[np.ndarray, "text image"], Float[np.ndarray, "text image"]]:
        """(similarity in [-1, 1], logits) of every text with every image."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DescriptorEvidence:
    """What one descriptor says about the images of one study."""

    id: str
    text: str
    anatomy: str
    positive: str
    negative: str
    positive_similarity: float
    negative_similarity: float
    probability: float
    """sigma((s+ - s-) / T), in (0, 1); 0.5 is undecided."""
    contribution: float
    """Share in the finding's log score, relative to undecided: positive speaks for the finding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingEvidence:
    """One finding: its score and the descriptors it follows from."""

    finding: str
    score: float
    """Geometric mean of the descriptors' probabilities, in (0, 1); similarity-based and uncalibrated."""
    log_score: float
    """log 1/2 plus the sum of the descriptors' contributions."""
    descriptors: tuple[DescriptorEvidence, ...]
    """In the order of the vocabulary; the pair that names the finding comes first."""

    def strongest(self) -> tuple[DescriptorEvidence | None, DescriptorEvidence | None]:
        """The descriptors that speak loudest for and against the finding; None where nothing does."""
        loudest = max(self.descriptors, key=lambda descriptor: descriptor.contribution)
        softest = min(self.descriptors, key=lambda descriptor: descriptor.contribution)
        return (loudest if loudest.contribution > 0 else None), (softest if softest.contribution < 0 else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What the model says of one study (or one image)."""

    findings: tuple[FindingEvidence, ...]
    num_images: int
    prompts: Prompts
    temperature: float | None
    """T where one was given; None: the scorer's own."""
    vocabulary: str
    """Version and review state of the descriptors."""

    @property
    def scores(self) -> dict[str, float]:
        """Score by finding."""
        return {evidence.finding: evidence.score for evidence in self.findings}

    def ranked(self) -> tuple[FindingEvidence, ...]:
        """The findings, highest score first; ties by name."""
        return tuple(sorted(self.findings, key=lambda evidence: (-evidence.score, evidence.finding)))

    def to_json(self) -> dict[str, Any]:
        """The diagnosis as plain values, with what kind of number a score is."""
        return {"score": KIND, "note": "research use, not a medical device", **asdict(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The evidence on many images (or studies) as arrays; the fast path for evaluation."""

    findings: tuple[str, ...]
    descriptors: tuple[Descriptor, ...]
    """All descriptors asked for, those of one finding side by side, in the order of `findings`."""
    starts: tuple[int, ...]
    """Where each finding's descriptors begin in `descriptors`."""
    positive: Float[np.ndarray, "image descriptor"]
    negative: Float[np.ndarray, "image descriptor"]
    probability: Float[np.ndarray, "image descriptor"]
    num_images: tuple[int, ...]
    """How many images each row stands for."""
    prompts: Prompts
    temperature: float | None
    vocabulary: str

    @property
    def counts(self) -> tuple[int, ...]:
        """How many descriptors each finding has."""
        return tuple(int(count) for count in np.diff((*self.starts, len(self.descriptors))))

    @property
    def contributions(self) -> Float[np.ndarray, "image descriptor"]:
        """Each descriptor's share in the log score of its finding, relative to undecided."""
        clipped = np.log(np.clip(self.probability, CLIP, 1.0 - CLIP))
        shares: np.ndarray = (clipped - _UNDECIDED) / np.repeat(self.counts, self.counts)
        return shares

    @property
    def scores(self) -> Float[np.ndarray, "image finding"]:
        """Geometric mean of the descriptors' probabilities per finding."""
        result: np.ndarray = np.exp(_UNDECIDED + np.add.reduceat(self.contributions, self.starts, axis=1))
        return result

    def fused(self, owner: Sequence[int]) -> "Evidence":
        """One row per study: similarities and probabilities averaged over its images, before any logarithm.

        Args:
            owner: per row the number of its study, 0 ... number of studies - 1, each at least once.
        """
        owners = np.asarray(owner)
        assert owners.shape == (len(self.num_images),), "one owner per row"
        sizes = np.bincount(owners)
        assert sizes.min() > 0, "every study has an image"

        def mean(values: np.ndarray) -> np.ndarray:
            total = np.zeros((sizes.size, values.shape[1]))
            np.add.at(total, owners, values)
            averaged: np.ndarray = total / sizes[:, None]
            return averaged

        return Evidence(
            findings=self.findings,
            descriptors=self.descriptors,
            starts=self.starts,
            positive=mean(self.positive),
            negative=mean(self.negative),
            probability=mean(self.probability),
            num_images=tuple(int(total) for total in np.bincount(owners, weights=self.num_images)),
            prompts=self.prompts,
            temperature=self.temperature,
            vocabulary=self.vocabulary,
        )

    def diagnoses(self) -> list[Diagnosis]:
        """One diagnosis per row."""
        scores, contributions = self.scores, self.contributions
        return [
            Diagnosis(
                findings=tuple(
                    self._finding(row, column, float(scores[row, column]), contributions[row])
                    for column in range(len(self.findings))
                ),
                num_images=self.num_images[row],
                prompts=self.prompts,
                temperature=self.temperature,
                vocabulary=self.vocabulary,
            )
            for row in range(len(self.num_images))
        ]

    def _finding(self, row: int, column: int, score: float, contributions: np.ndarray) -> FindingEvidence:
        start = self.starts[column]
        return FindingEvidence(
            finding=self.findings[column],
            score=score,
            log_score=float(np.log(score)),
            descriptors=tuple(
                DescriptorEvidence(
                    id=self.descriptors[index].id,
                    text=self.descriptors[index].text,
                    anatomy=self.descriptors[index].anatomy,
                    positive=self.descriptors[index].positive,
                    negative=self.descriptors[index].negative,
                    positive_similarity=float(self.positive[row, index]),
                    negative_similarity=float(self.negative[row, index]),
                    probability=float(self.probability[row, index]),
                    contribution=float(contributions[index]),
                )
                for index in range(start, start + self.counts[column])
            ),
        )


def weigh(
    engine: Scoring,
    features: ImageFeatures,
    findings: Sequence[str] | None = None,
    *,
    descriptors: DescriptorSet | None = None,
    prompts: Prompts = "both",
    temperature: float | None = None,
) -> Evidence:
    """The evidence for and against `findings` on every image, as arrays; every sentence is encoded once.

    Args:
        engine: the model.
        features: of the images, from `Engine.features`.
        findings: in any known spelling; None: all of the descriptor set.
        descriptors: the vocabulary; None: the package's.
        prompts: whether a finding follows from its descriptors, from its own name, or from both.
        temperature: T; None: the scorer's own, by way of its logits.

    Raises:
        DataError: for an unknown finding, or a temperature that is not positive.
    """
    if temperature is not None and not temperature > 0:
        raise DataError(f"the temperature must be positive, not {temperature}")
    vocabulary = descriptors if descriptors is not None else load_descriptors()
    names = tuple(dict.fromkeys(vocabulary.resolve(name) for name in (findings or vocabulary.findings)))
    asked = [vocabulary.of(name, prompts=prompts) for name in names]
    pairs = tuple(descriptor for group in asked for descriptor in group)
    sentences = tuple(dict.fromkeys(text for pair in pairs for text in (pair.positive, pair.negative)))
    row = {text: index for index, text in enumerate(sentences)}
    positive_rows, negative_rows = [row[pair.positive] for pair in pairs], [row[pair.negative] for pair in pairs]
    similarity, logits = (values.T.astype(np.float64) for values in engine.scores(sentences, features))
    if not (np.isfinite(similarity).all() and np.isfinite(logits).all()):
        raise CheckpointError("the model's scores are not finite numbers; its training may have diverged")
    exponents = logits if temperature is None else similarity / temperature
    return Evidence(
        findings=names,
        descriptors=pairs,
        starts=tuple(int(start) for start in np.cumsum([0, *(len(group) for group in asked[:-1])])),
        positive=similarity[:, positive_rows],
        negative=similarity[:, negative_rows],
        probability=_sigma(exponents[:, positive_rows] - exponents[:, negative_rows]),
        num_images=(1,) * len(similarity),
        prompts=prompts,
        temperature=temperature,
        vocabulary=f"version {vocabulary.version}, "
        + (f"reviewed by {vocabulary.reviewed_by}" if vocabulary.reviewed_by else vocabulary.note or "not reviewed"),
    )


def _sigma(values: np.ndarray) -> np.ndarray:
    # By way of tanh, which does not overflow.
    result: np.ndarray = 0.5 * (1.0 + np.tanh(0.5 * values))
    return result
