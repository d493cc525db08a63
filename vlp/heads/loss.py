"""The loss of masks: every pixel by cross-entropy, every mask by its overlap."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

_SMOOTH = 1.0
"""Pixels added above and below the overlap, so that a mask of a pixel or two does not make it jump."""


class MaskLoss(NamedTuple):
    """Both terms, each a scalar."""

    cross_entropy: Float[Tensor, ""]
    """Mean over all pixels of all pairs that are known."""
    dice: Float[Tensor, ""]
    """One minus the soft Dice, mean over pairs that have a mask; 0 where none has."""


def mask_loss(
    logits: Float[Tensor, "image class rows columns"],
    truth: Float[Tensor, "image class rows columns"],
    known: Bool[Tensor, "image class"],
    valid: Float[Tensor, "image rows columns"],
) -> MaskLoss:
    """Cross-entropy and soft Dice (Milletari et al. 2016, V-Net) of predicted masks.

    Args:
        logits: What is predicted.
        truth: Share of each pixel that the mask covers.
        known: Pairs that count: masks, and classes known to be absent.
        valid: Share of each pixel that shows the image and not padding.
    """
    seen = valid[:, None]
    each = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    per_pair = (each * seen).sum(dim=(2, 3)) / seen.sum(dim=(2, 3)).clamp(min=1.0)
    weights = known.float()
    cross_entropy = (per_pair * weights).sum() / weights.sum().clamp(min=1.0)
    marked = known & (truth.sum(dim=(2, 3)) > 0)
    probability = torch.sigmoid(logits) * seen
    shared = (probability * truth).sum(dim=(2, 3))
    total = probability.sum(dim=(2, 3)) + (truth * seen).sum(dim=(2, 3))
    lost = 1.0 - (2.0 * shared + _SMOOTH) / (total + _SMOOTH)
    dice = (lost * marked.float()).sum() / marked.float().sum().clamp(min=1.0)
    return MaskLoss(cross_entropy=cross_entropy, dice=dice)
