"""Contrastive learning where a sentence may be true of several images, and an image has many sentences.

Every term is a log-sum-exp in float32: nothing overflows, whatever the temperature, and no epsilon biases it.
"""

from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional

from vlp.config import Config
from vlp.tensors import IGNORE

Mode = Literal["mp", "mil", "supcon"]

_NOTHING = -1e30
"""Stands for minus infinity in a log-sum-exp; finite, so that a sum over nothing has a gradient (of zero)."""


class MultiPositiveNceConfig(Config):
    """Every positive against the negatives, both from texts to images and from images to texts."""

    kind: Literal["multi_positive_nce"] = "multi_positive_nce"
    mode: Mode = "mp"
    """mp: positives never compete with each other (UniCLIP, RadZero); mil: one good positive suffices (MIL-NCE);
    supcon: every positive competes with every other pair (SupCon, UniCL)."""

    @property
    def duplicates_are_positive(self) -> bool:
        """True: wants the collision-aware positives, where an identical sentence elsewhere is no negative."""
        return True

    def __call__(
        self,
        logits: Float[Tensor, "text image"],
        positives: Shaped[Tensor, "text image"],
        *,
        weights: Float[Tensor, "text"] | None = None,
    ) -> Float[Tensor, ""]:
        """The loss of a batch, see `multi_positive_nce`."""
        return multi_positive_nce(logits, positives, mode=self.mode, weights=weights)


def multi_positive_nce(
    logits: Float[Tensor, "text image"],
    positives: Shaped[Tensor, "text image"],
    *,
    mode: Mode = "mp",
    weights: Float[Tensor, "text"] | None = None,
) -> Float[Tensor, ""]:
    """Mean of the text-to-image and image-to-text losses, in float32 (float64 for float64 logits).

    With z the logits, P the positives and N the negatives of an anchor (a row for texts, a column for images):

        mp      of a positive p:   -log( e^z_p / (e^z_p + sum_N e^z) )               floor 0
        mil     of an anchor:      -log( sum_P e^z / (sum_P e^z + sum_N e^z) )       floor 0
        supcon  of a positive p:   -log( e^z_p / (sum_P e^z + sum_N e^z) )           floor log |P|

    "mp" averages over texts in both directions, each text over its images, as RadZero does (arXiv 2504.07416,
    eq. 6-7 with UniCLIP's denominators): an image with many sentences counts more.  "mil" and "supcon" average
    over anchors.  With one positive per row and column all three are CLIP's loss.

    Args:
        logits: Similarities over temperature.
        positives: 1 positive, 0 negative, -1 neither: an ignored pair stands in no sum.
        mode: See above.
        weights: How much each text counts, >= 0; every text 1 where None.  1 / (sentences of its study) makes
            studies equal.  A text of weight 0 is still a negative.

    A text or an image without positives has no term of its own and is a negative for others; a batch without any
    positive has loss 0 and gradient 0.

    Raises:
        ValueError: for shapes that do not belong together or an unknown mode.
    """
    if logits.ndim != 2 or logits.shape != positives.shape:
        raise ValueError(f"logits {tuple(logits.shape)} and positives {tuple(positives.shape)} are one [text image]")
    if weights is not None and weights.shape != logits.shape[:1]:
        raise ValueError(f"weights {tuple(weights.shape)} are one number for each of {logits.shape[0]} texts")
    z = logits if logits.dtype == torch.float64 else logits.float()
    positive = positives > 0
    per_text = torch.ones_like(z[:, 0]) if weights is None else weights.to(z)
    spread = positive * per_text[:, None]
    by_text = spread / positive.sum(dim=1, keepdim=True).clamp_min(1)
    by_image = by_text if mode == "mp" else spread / positive.sum(dim=0, keepdim=True).clamp_min(1)
    rows = _mean(_pair_losses(z, positives, mode, dim=1), by_text)
    columns = _mean(_pair_losses(z, positives, mode, dim=0), by_image)
    return (rows + columns) / 2


def _pair_losses(z: Tensor, positives: Tensor, mode: Mode, dim: int) -> Tensor:
    """What each positive pair costs its anchor, [text image]; anchors are lines along `dim`."""
    if mode == "mp":
        return -functional.logsigmoid(z - _log_sum(z, positives == 0, dim))
    everything = _log_sum(z, positives != IGNORE, dim)
    if mode == "mil":
        return (everything - _log_sum(z, positives > 0, dim)).expand_as(z)
    if mode == "supcon":
        return everything - z
    raise ValueError(f"unknown mode {mode!r}: mp, mil or supcon")


def _log_sum(z: Tensor, members: Tensor, dim: int) -> Tensor:
    return torch.logsumexp(z.masked_fill(~members, _NOTHING), dim=dim, keepdim=True)


def _mean(losses: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean over positive pairs; 0 (with a graph) where there are none."""
    total = weights.sum()
    return (losses.masked_fill(weights == 0, 0.0) * weights).sum() / total.masked_fill(total == 0, 1.0)
