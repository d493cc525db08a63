"""Zero-shot diagnosis with its evidence: a finding is what its descriptors say, and nothing else.

For a descriptor d with the sentences "There is d" and "There is no d" and their similarities s+ and s- to an image

    p_d = sigma((s+ - s-) / T)                          T: the scorer's own temperature, unless another is given
    score = exp(mean_d log p_d)                         the geometric mean, p_d clipped to [1e-6, 1 - 1e-6]
    log score = log 1/2 + sum_d contribution_d          contribution_d = (log p_d - log 1/2) / number of descriptors

so the evidence adds up to the score exactly, and a contribution speaks for the finding when it is positive and
against it when it is negative.  The form is Xplainer's (Pellegrini et al., 2023), with the temperature the model was
trained with in place of a fixed one.  The pair that names the finding itself is descriptor number 0.  Other rules of
pooling, weights that were fitted among them, are in `vlp.inference.pooling`.

Scores are similarity-based and uncalibrated: they rank images, they are not probabilities of disease.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Protocol

import numpy as np
from jaxtyping import Float

from vlp.errors import CheckpointError, DataError
from vlp.inference.diagnosis import DescriptorEvidence, Diagnosis, FindingEvidence, Fusion
from vlp.inference.pooling import GeometricMean, Groups, Pooling, sigma
from vlp.prompts.descriptors import Descriptor, DescriptorSet, Prompts, load_descriptors
from vlp.reports.findings import NO_FINDING
from vlp.tensors import ImageFeatures

WORDINGS = " | "
"""Stands between several wordings of one side of a pair, where a protocol has them (`vlp.inference.scoring`)."""
_LEAST = 1e-300
"""Keeps the logarithm of "no finding" as one minus the highest of the others finite."""


class Scoring(Protocol):
    """What diagnosing needs of a model; `vlp.Engine` is one."""

    def scores(
        self, texts: Sequence[str], features: ImageFeatures
    ) -> tuple[Float[np.ndarray, "text image"], Float[np.ndarray, "text image"]]:
        """(similarity in [-1, 1], logits) of every text with every image."""
        ...


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
    """Not a number where only the positive sentence was asked."""
    probability: Float[np.ndarray, "image descriptor"]
    num_images: tuple[int, ...]
    """How many images each row stands for."""
    prompts: str
    """What was asked: descriptors, finding, both, or the name of a protocol."""
    temperature: float | None
    vocabulary: str
    pooling: Pooling = field(default_factory=GeometricMean)
    fusion: Fusion = "mean"
    """How the images of a row were brought together."""
    one_minus_max: bool = False
    """Whether "no finding" is one minus the highest of the other scores (Xplainer)."""

    @property
    def groups(self) -> Groups:
        """Which descriptors belong to which finding."""
        ids = tuple(descriptor.id for descriptor in self.descriptors)
        return Groups(findings=self.findings, ids=ids, starts=self.starts)

    @property
    def counts(self) -> tuple[int, ...]:
        """How many descriptors each finding has."""
        return self.groups.counts

    @property
    def contributions(self) -> Float[np.ndarray, "image descriptor"]:
        """Each descriptor's share in the total of its finding (log score, or logit), relative to undecided."""
        return self.pooling.contributions(self.probability, self.groups)

    @property
    def scores(self) -> Float[np.ndarray, "image finding"]:
        """What the pooling makes of the descriptors' probabilities, per finding."""
        scores = self.pooling.pool(self.probability, self.groups)
        if self.one_minus_max:
            column = self.findings.index(NO_FINDING)
            scores[:, column] = 1.0 - np.delete(scores, column, axis=1).max(axis=1)
        return scores

    def fused(self, owner: Sequence[int], *, fusion: Fusion = "mean", frontal: Sequence[bool] = ()) -> "Evidence":
        """One row per study, from the evidence on its images, before any logarithm.

        Args:
            owner: per row the number of its study, 0 ... number of studies - 1, each at least once.
            fusion: "mean": similarities and probabilities are averaged; "max": each descriptor is what the image
                says on which it is most probable; "frontal": as "mean", over the frontal views alone.
            frontal: per row whether it is a frontal view; needed for "frontal".

        Raises:
            DataError: for a study without a frontal view, where only these are to count.
        """
        owners = np.asarray(owner)
        assert owners.shape == (len(self.num_images),), "one owner per row"
        sizes = np.bincount(owners)
        assert sizes.min() > 0, "every study has an image"
        counted = np.ones(owners.size, dtype=bool)
        if fusion == "frontal":
            counted = np.asarray(frontal, dtype=bool)
            assert counted.shape == owners.shape, "one view per row"
            if np.bincount(owners[counted], minlength=sizes.size).min() == 0:
                raise DataError("a study has no frontal view; fuse its views by mean or max")
        together = _maximum if fusion == "max" else _mean
        positive, negative, probability = together(
            (self.positive[counted], self.negative[counted], self.probability[counted]), owners[counted], sizes.size
        )
        num_images = np.bincount(owners[counted], weights=np.asarray(self.num_images)[counted])
        return replace(
            self,
            positive=positive,
            negative=negative,
            probability=probability,
            num_images=tuple(int(total) for total in num_images),
            fusion=fusion,
        )

    def diagnoses(self) -> list[Diagnosis]:
        """One diagnosis per row."""
        groups = self.groups
        owned = [groups.columns(column) for column in range(len(self.findings))]
        contributions, offsets = self.pooling.contributions(self.probability, groups), self.pooling.offsets(groups)
        totals = offsets + groups.sums(contributions)
        # Plain lists: taking single numbers out of arrays is what would take the time here.
        answers = zip(self.positive, self.negative, self.probability, contributions, strict=True)
        numbers = zip(self.scores, totals, answers, self.num_images, strict=True)
        return [
            Diagnosis(
                findings=tuple(
                    self._finding(finding, own, values, members)
                    for finding, own, values, members in zip(
                        self.findings,
                        owned,
                        zip(row_scores.tolist(), row_totals.tolist(), offsets.tolist(), strict=True),
                        self._descriptors(row_answers, owned),
                        strict=True,
                    )
                ),
                num_images=num_images,
                prompts=self.prompts,
                temperature=self.temperature,
                vocabulary=self.vocabulary,
                pooling=self.pooling.to_json(),
                fusion=self.fusion,
            )
            for row_scores, row_totals, row_answers, num_images in numbers
        ]

    def _finding(
        self,
        finding: str,
        own: slice,
        numbers: tuple[float, float, float],
        descriptors: tuple[DescriptorEvidence, ...],
    ) -> FindingEvidence:
        score, total, offset = numbers
        scale = self.pooling.scale
        if own.start == own.stop:  # "no finding" as one minus the highest of the others
            scale, total = "log", float(np.log(max(score, _LEAST)))
            offset = total
        return FindingEvidence(
            finding=finding, score=score, scale=scale, offset=offset, total=total, descriptors=descriptors
        )

    def _descriptors(
        self, answers: tuple[np.ndarray, ...], owned: Sequence[slice]
    ) -> Iterator[tuple[DescriptorEvidence, ...]]:
        """Per finding what its descriptors say, given one row of each array."""
        shown = [
            DescriptorEvidence(
                id=descriptor.id,
                text=descriptor.text,
                anatomy=descriptor.anatomy,
                positive=descriptor.positive,
                negative=descriptor.negative,
                positive_similarity=there,
                negative_similarity=None if math.isnan(not_there) else not_there,
                probability=probability,
                contribution=contribution,
            )
            for descriptor, there, not_there, probability, contribution in zip(
                self.descriptors, *(values.tolist() for values in answers), strict=True
            )
        ]
        return (tuple(shown[own]) for own in owned)


def weigh(
    engine: Scoring,
    features: ImageFeatures,
    findings: Sequence[str] | None = None,
    *,
    descriptors: DescriptorSet | None = None,
    prompts: Prompts = "both",
    temperature: float | None = None,
    pooling: Pooling | None = None,
) -> Evidence:
    """The evidence for and against `findings` on every image, as arrays; every sentence is encoded once.

    Args:
        engine: the model.
        features: of the images, from `Engine.features`.
        findings: in any known spelling; None: all of the descriptor set.
        descriptors: the vocabulary; None: the package's.
        prompts: whether a finding follows from its descriptors, from its own name, or from both.
        temperature: T; None: the scorer's own, by way of its logits.
        pooling: how descriptors become a score; None: their geometric mean.

    Raises:
        DataError: for an unknown finding, a temperature that is not positive, or a descriptor that `pooling` has no
            weight for.
    """
    if temperature is not None and not temperature > 0:
        raise DataError(f"the temperature must be positive, not {temperature}")
    vocabulary = descriptors if descriptors is not None else package_descriptors()
    names = resolved(vocabulary, findings)
    asked = [vocabulary.of(name, prompts=prompts) for name in names]
    pairs = tuple(descriptor for group in asked for descriptor in group)
    sentences = tuple(dict.fromkeys(text for pair in pairs for text in (pair.positive, pair.negative)))
    row = {text: index for index, text in enumerate(sentences)}
    positive_rows, negative_rows = [row[pair.positive] for pair in pairs], [row[pair.negative] for pair in pairs]
    similarity, logits = finite(*engine.scores(sentences, features))
    exponents = logits if temperature is None else similarity / temperature
    return Evidence(
        findings=names,
        descriptors=pairs,
        starts=starts_of(asked),
        positive=similarity[:, positive_rows],
        negative=similarity[:, negative_rows],
        probability=sigma(exponents[:, positive_rows] - exponents[:, negative_rows]),
        num_images=(1,) * len(similarity),
        prompts=prompts,
        temperature=temperature,
        vocabulary=reviewed(vocabulary),
        pooling=pooling if pooling is not None else GeometricMean(),
    )


@cache
def package_descriptors() -> DescriptorSet:
    """The package's own vocabulary, read once."""
    return load_descriptors()


def resolved(vocabulary: DescriptorSet, findings: Sequence[str] | None) -> tuple[str, ...]:
    """The findings by their one name, each once; all of the vocabulary for None or none.

    Raises:
        DataError: for an unknown finding.
    """
    return tuple(dict.fromkeys(vocabulary.resolve(name) for name in (findings or vocabulary.findings)))


def starts_of(asked: Iterable[Sequence[object]]) -> tuple[int, ...]:
    """Where each group begins once all are laid side by side."""
    return tuple(int(start) for start in np.cumsum([0, *(len(group) for group in asked)])[:-1])


def finite(
    similarity: Float[np.ndarray, "text image"], logits: Float[np.ndarray, "text image"]
) -> tuple[Float[np.ndarray, "image text"], Float[np.ndarray, "image text"]]:
    """An engine's scores, one row per image, in float64.

    Raises:
        CheckpointError: if any is not a number.
    """
    if not (np.isfinite(similarity).all() and np.isfinite(logits).all()):
        raise CheckpointError("the model's scores are not finite numbers; its training may have diverged")
    return similarity.T.astype(np.float64), logits.T.astype(np.float64)


def reviewed(vocabulary: DescriptorSet) -> str:
    """Version and review state of the descriptors, for people."""
    return f"version {vocabulary.version}, " + (
        f"reviewed by {vocabulary.reviewed_by}" if vocabulary.reviewed_by else vocabulary.note or "not reviewed"
    )


_Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


def _mean(arrays: _Arrays, owners: np.ndarray, num_studies: int) -> _Arrays:
    def mean(values: np.ndarray) -> np.ndarray:
        total = np.zeros((num_studies, values.shape[1]))
        np.add.at(total, owners, values)
        averaged: np.ndarray = total / np.bincount(owners, minlength=num_studies)[:, None]
        return averaged

    positive, negative, probability = arrays
    return mean(positive), mean(negative), mean(probability)


def _maximum(arrays: _Arrays, owners: np.ndarray, num_studies: int) -> _Arrays:
    """Of every descriptor what the image says on which it is most probable; ties: the first image."""
    probability = arrays[2]
    rows = np.zeros((num_studies, probability.shape[1]), dtype=int)
    for study in range(num_studies):
        own = np.flatnonzero(owners == study)
        rows[study] = own[probability[own].argmax(axis=0)]
    positive, negative, probability = (np.take_along_axis(values, rows, axis=0) for values in arrays)
    return positive, negative, probability
