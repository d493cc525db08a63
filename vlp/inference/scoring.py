"""Scores by the protocols of published work, and what a model makes of negated sentences.

What is asked, and how answers become scores, stands in `vlp.prompts.protocols`; here it is carried out with our model:

    pair      p = sigma(z+ - z-)         z: logits of the model, or similarity / T where the protocol has a T of its own
    single    p = sigma(z+)

Several wordings of one polarity are averaged as vectors, before they are brought to unit length (BioViL).  The weighing
of several asks, the fusion of views and what "no finding" is are the protocol's too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vlp.errors import DataError
from vlp.inference.classify import (
    WORDINGS,
    Evidence,
    Scoring,
    finite,
    package_descriptors,
    resolved,
    reviewed,
    starts_of,
)
from vlp.inference.pooling import CLIP, GeometricMean, sigma
from vlp.prompts.descriptors import Descriptor, DescriptorSet
from vlp.reports.findings import NO_FINDING
from vlp.tensors import ImageFeatures

if TYPE_CHECKING:
    from vlp.prompts.protocols import Ask
    from vlp.prompts.protocols import Protocol as Asking

_NEVER_CLIPPED = 1e-300
"""Keeps the logarithm finite, and the order of scores as it is."""


class VectorScoring(Protocol):
    """What protocols need of a model; `vlp.Engine` is one."""

    def text_vectors(self, texts: Sequence[str]) -> Float[Tensor, "text dim"]:
        """One vector per text, before any normalisation."""
        ...

    def score_vectors(
        self, vectors: Float[Tensor, "text dim"], features: ImageFeatures
    ) -> tuple[Float[np.ndarray, "text image"], Float[np.ndarray, "text image"]]:
        """(similarity in [-1, 1], logits) of every vector with every image."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Negation:
    """Three scores of the same finding: what a model that reads negations ranks alike (algorithms of Bi-MCQ, VECL)."""

    findings: tuple[str, ...]
    pos: Float[np.ndarray, "image finding"]
    """Logit of "There is F."."""
    neg: Float[np.ndarray, "image finding"]
    """Minus the logit of "There is no F."."""
    pnc: Float[np.ndarray, "image finding"]
    """sigma(logit of the one - logit of the other), in (0, 1): the softmax over the pair."""


def score(
    engine: VectorScoring,
    features: ImageFeatures,
    findings: Sequence[str] | None,
    protocol: "Asking",
    *,
    descriptors: DescriptorSet | None = None,
    owner: Sequence[int] | None = None,
) -> Float[np.ndarray, "image finding"]:
    """Scores in (0, 1) as a published protocol makes them; higher means more likely.

    Args:
        engine: The model.
        features: Of the images.
        findings: In any known spelling, each once; None: all of the descriptor set.
        protocol: What is asked and how answers are put together.
        descriptors: The vocabulary; None: the package's.
        owner: Per image the number of its study, to have the views of a study fused as the protocol says; None: one
            row per image.

    Returns:
        [image finding], or [study finding] with `owner`; columns in the order of `findings`.

    Raises:
        DataError: for an unknown finding, or "no finding" alone where it is one minus the highest of the others.
    """
    evidence = ask(engine, features, findings, protocol, descriptors=descriptors)
    if owner is None:
        return evidence.scores
    if protocol.fusion == "mean_score":
        owners = np.asarray(owner)
        return np.stack([evidence.scores[owners == number].mean(axis=0) for number in range(int(owners.max()) + 1)])
    return evidence.fused(owner).scores


def ask(
    engine: VectorScoring,
    features: ImageFeatures,
    findings: Sequence[str] | None,
    protocol: "Asking",
    *,
    descriptors: DescriptorSet | None = None,
) -> Evidence:
    """As `score`, with what every single question was answered.

    Where a protocol asks only for what is there (rule "single"), the negative similarities are not a number.
    """
    vocabulary = descriptors if descriptors is not None else package_descriptors()
    names = resolved(vocabulary, findings)
    one_minus_max = protocol.no_finding == "one_minus_max" and NO_FINDING in names
    # It follows from the others, so nothing is asked for it itself.
    if one_minus_max and len(names) == 1:
        raise DataError(
            f"by the protocol {protocol.name!r} {NO_FINDING!r} is one minus the highest of the others; ask for some"
        )
    asked = [protocol.pairs(name, vocabulary) for name in names]
    asks = tuple(one for group in asked for one in group)
    single = protocol.rule == "single"
    sentences = [one.positives for one in asks] + ([] if single else [one.negatives for one in asks])
    similarity, logits = compare(engine, features, sentences)
    exponents = logits if protocol.temperature is None else similarity / protocol.temperature
    positive = similarity[:, : len(asks)]
    margin = exponents if single else exponents[:, : len(asks)] - exponents[:, len(asks) :]
    return Evidence(
        findings=names,
        descriptors=tuple(
            _descriptor(one, finding) for finding, group in zip(names, asked, strict=True) for one in group
        ),
        starts=starts_of(asked),
        positive=positive,
        negative=np.full_like(positive, np.nan) if single else similarity[:, len(asks) :],
        probability=sigma(margin),
        num_images=(1,) * len(positive),
        prompts=protocol.name,
        temperature=protocol.temperature,
        vocabulary=reviewed(vocabulary),
        pooling=GeometricMean(clip=CLIP if protocol.pooling == "geometric_mean" else _NEVER_CLIPPED),
        one_minus_max=one_minus_max,
    )


def compare(
    engine: VectorScoring, features: ImageFeatures, wordings: Sequence[Sequence[str]]
) -> tuple[Float[np.ndarray, "image wording"], Float[np.ndarray, "image wording"]]:
    """(similarity, logits) of images with the mean vector of each group of sentences; a sentence is encoded once.

    Raises:
        CheckpointError: if the model gives no finite numbers.
    """
    distinct = tuple(dict.fromkeys(tuple(group) for group in wordings))
    vectors = engine.text_vectors([text for group in distinct for text in group])
    means = torch.stack([part.mean(dim=0) for part in vectors.split([len(group) for group in distinct])])
    row = {group: index for index, group in enumerate(distinct)}
    rows = [row[tuple(group)] for group in wordings]
    similarity, logits = finite(*engine.score_vectors(means, features))
    return similarity[:, rows], logits[:, rows]


def negation(
    engine: Scoring,
    features: ImageFeatures,
    findings: Sequence[str] | None,
    *,
    descriptors: DescriptorSet | None = None,
) -> Negation:
    """How every image answers "There is F." and "There is no F.", by the sentences that name a finding directly.

    Args:
        engine: The model.
        features: Of the images.
        findings: In any known spelling; None: all of the descriptor set.
        descriptors: The vocabulary; None: the package's.

    Raises:
        DataError: for an unknown finding.
    """
    vocabulary = descriptors if descriptors is not None else package_descriptors()
    names = resolved(vocabulary, findings)
    pairs = [vocabulary.of(name, prompts="finding")[0] for name in names]
    sentences = [pair.positive for pair in pairs] + [pair.negative for pair in pairs]
    _, logits = finite(*engine.scores(sentences, features))
    there, not_there = logits[:, : len(pairs)], logits[:, len(pairs) :]
    return Negation(findings=names, pos=there, neg=-not_there, pnc=sigma(there - not_there))


def _descriptor(one: "Ask", finding: str) -> Descriptor:
    return Descriptor(
        id=one.id,
        finding=finding,
        text=one.text,
        anatomy=one.anatomy,
        positive=WORDINGS.join(one.positives),
        negative=WORDINGS.join(one.negatives),
    )
