"""What is made small: a weighted sum of objectives, each on one kind of text-image or image-image agreement.

Everything here is computed in float32, outside autocast, over whole `[text image]` matrices: all ranks' texts against
this rank's images.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import NonNegativeInt, PositiveFloat, model_validator
from torch import Tensor

from vlp.config import Config
from vlp.objectives import Across, AnyObjective, Pairs, SoftTargetsConfig
from vlp.objectives.positives import (
    Found,
    PositivesConfig,
    TextWeights,
    agreement,
    find_positives,
    own_pairs,
    shares,
    text_weights,
)
from vlp.tensors import IGNORE, Statements
from vlp.train.gather import Joined

SHARES = ("collisions", "ignored", "contradictions")
"""What every step reports of its pairs; see `pair_shares`."""


class TermConfig(Config):
    """One further term beside the objective on the scorer's logits."""

    objective: AnyObjective
    on: Literal["pooled", "image_image"]
    """pooled: cosines of the text and image vectors that retrieval compares (`scorer.embed_texts`, `embed_images`);
    image_image: cosines of the image vectors, the views of one study against all other images."""
    weight: PositiveFloat = 1.0
    temperature: PositiveFloat = 0.07
    """What the cosines are divided by; fixed, since the learned temperature belongs to the scorer."""

    @model_validator(mode="after")
    def _images_say_nothing(self) -> "TermConfig":
        if self.on == "image_image" and isinstance(self.objective, SoftTargetsConfig):
            raise ValueError("soft_targets compares what texts say; on image_image use multi_positive_nce")
        return self


class HardNegativesConfig(Config):
    """How much a flipped sentence (`loader.flips`) counts as a negative of the images it is untrue of."""

    weight: PositiveFloat = 1.0
    """How many times such a pair stands in the sums over negatives; an ordinary negative stands once."""
    ramp_steps: NonNegativeInt = 0
    """Steps in which the weight grows from 0 in a straight line: first what findings look like, then their polarity
    and side."""

    def hardness(self, step: int) -> float:
        """The weight while `step` (counted from 0) is being trained."""
        return self.weight * (min(step / self.ramp_steps, 1.0) if self.ramp_steps else 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairRules:
    """What decides how the texts and images of a batch belong together."""

    positives: PositivesConfig
    weights: TextWeights
    flip_hardness: float | None
    """Of flipped texts and the images they contradict; None where no text is flipped."""
    with_agreement: bool
    """Whether an objective asks for it."""


def make_pairs(
    rules: PairRules,
    joined: Joined,
    *,
    known: Statements,
    vectors: Float[Tensor, "unique dim"] | None = None,
) -> tuple[Pairs, Found]:
    """The pairs of all texts and this rank's images, and what was found of them.

    Args:
        rules: What decides.
        joined: The texts and images.
        known: All that this rank's studies say, as `joined.known_study` numbers them.
        vectors: Of the distinct sentences, where near duplicates are looked for.
    """
    sentence, owner, flipped, study = joined.sentence, joined.owner, joined.flipped, joined.study
    found = find_positives(
        rules.positives,
        said=joined.said,
        sentence=sentence,
        flipped=flipped,
        owner=owner,
        study=study,
        known=known,
        known_study=joined.known_study,
        vectors=vectors,
    )
    hardness = found.hardness
    if rules.flip_hardness is not None:
        base = torch.ones_like(found.contradicts, dtype=torch.float32) if hardness is None else hardness
        hardness = base.masked_fill(found.contradicts & flipped[:, None], rules.flip_hardness)
    agreeing = agreement(joined.said, sentence, known, joined.known_study, study) if rules.with_agreement else None
    pairs = Pairs(
        positives=found.positives,
        own=own_pairs(owner, study, flipped),
        weights=text_weights(rules.weights, sentence=sentence, owner=owner, flipped=flipped),
        hardness=hardness,
        agreement=agreeing,
    )
    return pairs, found


def pair_shares(pairs: Pairs, found: Found, joined: Joined, *, across: Across) -> Mapping[str, Float[Tensor, ""]]:
    """Of all ranks' pairs of different studies, the shares that are no plain negatives; flipped texts left out.

    collisions: positive all the same, what plain CLIP gets wrong; ignored; contradictions: the text says the contrary
    of what the image's study says.
    """
    own = shares(found, pairs.own, flipped=joined.flipped)
    others = (~pairs.own & ~joined.flipped[:, None]).sum().clamp_min(1).float()
    counts = across.sum(torch.stack([*(share * others for share in own.values()), others]))
    return dict(zip(SHARES, (counts[:-1] / counts[-1]).unbind(), strict=True))


def pooled_logits(
    texts: Float[Tensor, "unique dim"],
    images: Float[Tensor, "image dim"],
    *,
    sentence: Int[Tensor, " text"],
    temperature: float,
) -> Float[Tensor, "text image"]:
    """Cosines of unit vectors over `temperature`; row s is the distinct text that `sentence[s]` names."""
    return (texts @ images.T)[sentence] / temperature


def view_pairs(
    everyone: Float[Tensor, "everyone dim"],
    images: Float[Tensor, "image dim"],
    *,
    joined: Joined,
    temperature: float,
) -> tuple[Float[Tensor, "view image"], Pairs] | None:
    """Logits and pairs between each image of any rank that has a sibling and this rank's images.

    Positives are the other views of the same study; an image with itself says nothing and is ignored.

    Args:
        everyone: Unit vectors of all ranks' images.
        images: Those of this rank's.
        joined: Whose images they are.
        temperature: What cosines are divided by.

    Returns:
        None where no study of any rank has two views.
    """
    studies = joined.every_study
    same = studies[:, None] == joined.study[None, :]
    views = torch.nonzero((studies[:, None] == studies[None, :]).sum(dim=1) > 1).squeeze(1)
    if views.numel() == 0:
        return None
    itself = torch.zeros_like(same)
    itself[joined.first_image :].fill_diagonal_(fill_value=True)
    positives = same.to(torch.int8).masked_fill_(itself, IGNORE)[views]
    return (everyone[views] @ images.T) / temperature, Pairs(positives=positives, own=positives == 1)
