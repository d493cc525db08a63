"""SigLIP's own objective: a pair is positive where the text was written of the image, negative everywhere else."""

from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from vlp.config import Config
from vlp.objectives.across import ALONE, Across
from vlp.objectives.multi_positive_sigmoid import multi_positive_sigmoid
from vlp.objectives.pairs import Pairs


class SiglipConfig(Config):
    """Pairwise sigmoid loss, duplicates as negatives: the baseline `multi_positive_sigmoid` is compared with."""

    kind: Literal["siglip"] = "siglip"

    def __call__(
        self, logits: Float[Tensor, "text image"], pairs: Pairs, *, across: Across = ALONE
    ) -> Float[Tensor, ""]:
        """The loss of a batch, see `siglip`."""
        return siglip(logits, pairs, across=across)


def siglip(logits: Float[Tensor, "text image"], pairs: Pairs, *, across: Across = ALONE) -> Float[Tensor, ""]:
    """Binary cross-entropy of every pair, summed, per image of the whole batch (Zhai et al. 2023), in float32.

    Args:
        logits: Scaled and shifted similarities (SigLIP: e^a cosine + b, from a = log 10 and b = -10).
        pairs: `own` and `weights` are read; that a text is true of other images too is not SigLIP's to know.
        across: The ranks that share the batch; the loss is that of the whole batch on each.

    Raises:
        ValueError: for shapes that do not belong together.
    """
    own = replace(pairs, positives=pairs.own.to(torch.int8), hardness=None)
    return multi_positive_sigmoid(logits, own, across=across)
