"""Contrastive learning where a sentence may be true of several images, and an image has many sentences.

Every term is a log-sum-exp in float32: nothing overflows, whatever the temperature, and no epsilon biases it.
"""

from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor

from vlp.config import Config
from vlp.objectives.across import ALONE, Across
from vlp.objectives.pairs import Pairs, anchor_weights, exact
from vlp.objectives.sums import log_sums, mean_of_both, over, softplus

Mode = Literal["mp", "mil", "supcon"]


class MultiPositiveNceConfig(Config):
    """Every positive against the negatives, both from texts to images and from images to texts."""

    kind: Literal["multi_positive_nce"] = "multi_positive_nce"
    mode: Mode = "mp"
    """mp: positives never compete with each other (UniCLIP, RadZero); mil: one good positive suffices (MIL-NCE);
    supcon: every positive competes with every other pair (SupCon, UniCL)."""

    def __call__(
        self, logits: Float[Tensor, "text image"], pairs: Pairs, *, across: Across = ALONE
    ) -> Float[Tensor, ""]:
        """The loss of a batch, see `multi_positive_nce`."""
        return multi_positive_nce(logits, pairs, mode=self.mode, across=across)


def multi_positive_nce(
    logits: Float[Tensor, "text image"], pairs: Pairs, *, mode: Mode = "mp", across: Across = ALONE
) -> Float[Tensor, ""]:
    """Mean of the text-to-image and image-to-text losses, in float32 (float64 for float64 logits).

    With z the logits, P the positives and N the negatives of an anchor (a row for texts, a column for images), a
    negative of hardness h standing h times in its sum:

        mp      of a positive p:   -log( e^z_p / (e^z_p + sum_N h e^z) )               floor 0
        mil     of an anchor:      -log( sum_P e^z / (sum_P e^z + sum_N h e^z) )       floor 0
        supcon  of a positive p:   -log( e^z_p / (sum_P e^z + sum_N h e^z) )           floor log |P|

    "mp" averages over texts in both directions, each text over its images, as RadZero does (arXiv 2504.07416,
    eq. 6-7 with UniCLIP's denominators): an image with many sentences counts more.  "mil" and "supcon" average
    over anchors, an image counting as its positives do on the mean.  With one positive per row and column all three
    are CLIP's loss.

    Args:
        logits: Similarities over temperature; on several ranks all texts against this rank's images.
        pairs: `positives`, `weights` and `hardness` are read.  Weights need not sum to anything: 1 / (sentences of
            its study) for every text makes studies equal.
        mode: See above.
        across: The ranks that share the batch; the loss is that of the whole batch on each.

    A text or an image without positives has no term of its own and is a negative for others; a batch without any
    positive has loss 0 and gradient 0.

    Raises:
        ValueError: for shapes that do not belong together or an unknown mode.
    """
    if mode not in get_args(Mode):
        raise ValueError(f"unknown mode {mode!r}: mp, mil or supcon")
    z = exact(logits, pairs)
    positive = pairs.positives > 0
    held = across.sum(positive.sum(dim=1, dtype=z.dtype))
    weights = anchor_weights(pairs, z).masked_fill(held == 0, 0.0)
    negatives = _negative_sums(z, pairs, across)
    if mode == "mp":
        cost = softplus(negatives[0][:, None] - z) + softplus(negatives[1] - z)
        of_text = cost.masked_fill(~positive, 0.0).sum(dim=1) / held.clamp_min(1)
        return over(across.sum((of_text * weights).sum()), 2 * weights.sum())
    positives = log_sums(z, positive, across)
    rows, columns = (softplus(negative - good) for negative, good in zip(negatives, positives, strict=True))
    of_image = (positive * weights[:, None]).sum(dim=0)
    if mode == "supcon":
        chosen = z.masked_fill(~positive, 0.0)
        rows = rows + positives[0] - across.sum(chosen.sum(dim=1)) / held.clamp_min(1)
        columns = columns + positives[1] - over((chosen * weights[:, None]).sum(dim=0), of_image)
    of_image = of_image / positive.sum(dim=0).clamp_min(1)
    return mean_of_both(rows, weights, columns, of_image, across)


def _negative_sums(z: Tensor, pairs: Pairs, across: Across) -> tuple[Tensor, Tensor]:
    negative = pairs.positives == 0
    if pairs.hardness is None:
        return log_sums(z, negative, across)
    hardness = pairs.hardness.to(z)
    return log_sums(z + hardness.log(), negative & (hardness > 0), across)
