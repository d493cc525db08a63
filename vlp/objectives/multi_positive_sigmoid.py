"""Every pair a yes-or-no question of its own: any number of positives, no normaliser, usable probabilities.

Scale and bias are learned in the scorer; logits come ready.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from vlp.config import Config
from vlp.objectives.across import ALONE, Across
from vlp.objectives.pairs import Pairs, anchor_weights, exact
from vlp.objectives.sums import over, softplus
from vlp.tensors import IGNORE


class MultiPositiveSigmoidConfig(Config):
    """Is this text true of this image?  Asked of every pair that is not ignored."""

    kind: Literal["multi_positive_sigmoid"] = "multi_positive_sigmoid"

    def __call__(
        self, logits: Float[Tensor, "text image"], pairs: Pairs, *, across: Across = ALONE
    ) -> Float[Tensor, ""]:
        """The loss of a batch, see `multi_positive_sigmoid`."""
        return multi_positive_sigmoid(logits, pairs, across=across)


def multi_positive_sigmoid(
    logits: Float[Tensor, "text image"], pairs: Pairs, *, across: Across = ALONE
) -> Float[Tensor, ""]:
    """Binary cross-entropy of every pair, summed, per image of the whole batch (Zhai et al. 2023, many positives).

        ( sum_P w -log sigma(z)  +  sum_N h -log sigma(-z) ) / images                    floor 0

    w is the text's weight over the mean weight of the positive pairs, so that weights move mass between texts and
    never between positives and negatives; h is the negative pair's hardness.  A text of weight 0 is still a
    negative.  No pair's term depends on another pair's logit: the loss is exact in any pieces.

    Args:
        logits: Scaled and shifted similarities; on several ranks all texts against this rank's images.
        pairs: `positives`, `weights` and `hardness` are read.
        across: The ranks that share the batch; the loss is that of the whole batch on each.

    Raises:
        ValueError: for shapes that do not belong together.
    """
    z = exact(logits, pairs)
    positive, ignored = pairs.positives > 0, pairs.positives == IGNORE
    cost = softplus(torch.where(positive, -z, z)).masked_fill(ignored, 0.0)
    of_text = cost.masked_fill(~positive, 0.0).sum(dim=1)
    negatives = cost.masked_fill(positive, 0.0)
    if pairs.hardness is not None:
        negatives = negatives * pairs.hardness.to(z)
    counted = across.sum(torch.cat([positive.sum(dim=1, dtype=z.dtype), z.new_full((1,), z.shape[1])]))
    held, images = counted[:-1], counted[-1]
    weights = anchor_weights(pairs, z)
    weights = weights * over(held.sum(), (weights * held).sum())
    return over(across.sum((of_text * weights).sum() + negatives.sum()), images)
