"""What an objective is told about the pairs of a batch, beside their logits."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int8
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Every text against every image.  On several ranks: all ranks' texts against this rank's images."""

    positives: Int8[Tensor, "text image"]
    """1 positive, 0 negative, `tensors.IGNORE` neither: an ignored pair stands in no sum."""
    own: Bool[Tensor, "text image"]
    """True where a text was written of the study the image belongs to: all that single-positive objectives know."""
    weights: Float[Tensor, " text"] | None = None
    """How much each text counts as an anchor, >= 0; 1 where None.  A text of weight 0 is still a negative."""
    hardness: Float[Tensor, "text image"] | None = None
    """How many times a negative pair stands in the sums over negatives, >= 0; 1 where None."""
    agreement: Float[Tensor, "text image"] | None = None
    """For soft targets: how far what a text says agrees with what is known of an image, in [-1, 1]."""


def exact(logits: Float[Tensor, "text image"], pairs: Pairs) -> Float[Tensor, "text image"]:
    """The logits in float32, float64 ones as they are, once pairs are seen to be pairs of the same texts and images.

    Raises:
        ValueError: naming what has another shape.
    """
    if logits.ndim != 2:
        raise ValueError(f"logits {tuple(logits.shape)} are one [text image]")
    for name in ("positives", "own", "hardness", "agreement", "weights"):
        value, expected = getattr(pairs, name), logits.shape[:1] if name == "weights" else logits.shape
        if value is not None and value.shape != expected:
            raise ValueError(f"{name} {tuple(value.shape)} do not belong to logits {tuple(logits.shape)} [text image]")
    return logits if logits.dtype == torch.float64 else logits.float()


def anchor_weights(pairs: Pairs, z: Float[Tensor, "text image"]) -> Float[Tensor, " text"]:
    """How much each text counts, in the type of `z`."""
    return z.new_ones(z.shape[0]) if pairs.weights is None else pairs.weights.to(z)
