"""What is made small: a weighted sum of objectives, each on one kind of text-image or image-image agreement.

Everything here is computed in float32, outside autocast, over whole `[text image]` matrices.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Int8, Shaped
from pydantic import PositiveFloat
from torch import Tensor

from vlp.config import Config
from vlp.objectives import AnyObjective
from vlp.tensors import IGNORE, Batch


class TermConfig(Config):
    """One further term beside the objective on the scorer's logits."""

    objective: AnyObjective
    on: Literal["pooled", "image_image"]
    """pooled: cosines of the text and image vectors that retrieval compares (`scorer.embed_texts`, `embed_images`);
    image_image: cosines of the image vectors, the views of one study against all other images."""
    weight: PositiveFloat = 1.0
    temperature: PositiveFloat = 0.07
    """What the cosines are divided by; fixed, since the learned temperature belongs to the scorer."""


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
    images: Float[Tensor, "image dim"], *, study: Int[Tensor, " image"], temperature: float
) -> tuple[Float[Tensor, "view image"], Int8[Tensor, "view image"]] | None:
    """Logits and positives between each image that has a sibling and all images; None where no study has two views.

    Positives are the other views of the same study; an image with itself says nothing and is ignored.
    """
    same = study[:, None] == study[None, :]
    views = torch.nonzero(same.sum(dim=1) > 1).squeeze(1)
    if views.numel() == 0:
        return None
    positives = same.to(torch.int8)
    positives.fill_diagonal_(IGNORE)
    return (images[views] @ images.T) / temperature, positives[views]


def shared_pairs(positives: Shaped[Tensor, "text image"], own: Bool[Tensor, "text image"]) -> Float[Tensor, ""]:
    """Share of pairs of different studies that count as positive all the same: what plain CLIP gets wrong."""
    other = ~own
    return ((positives == 1) & other).sum() / other.sum().clamp(min=1)


def own_pairs(batch: Batch) -> Bool[Tensor, "text image"]:
    """Which texts and images come from the same study."""
    return batch.owner[:, None] == batch.study[None, :]


def distinct_weights(batch: Batch) -> Float[Tensor, " text"]:
    """1 / (texts of the batch with the identical sentence): every distinct sentence counts once in all."""
    times = torch.bincount(batch.sentence, minlength=batch.tokens.ids.shape[0])
    return times[batch.sentence].float().reciprocal()
