"""CLIP's own objective: one image, one text, everything else in the batch a negative, duplicates included."""

from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vlp.config import Config
from vlp.errors import ConfigError
from vlp.objectives.across import ALONE, Across
from vlp.objectives.multi_positive_nce import multi_positive_nce
from vlp.objectives.pairs import Pairs


class ClipConfig(Config):
    """Symmetric cross-entropy with one positive per row and column: the baseline others are compared with."""

    kind: Literal["clip"] = "clip"

    def __call__(
        self, logits: Float[Tensor, "text image"], pairs: Pairs, *, across: Across = ALONE
    ) -> Float[Tensor, ""]:
        """The loss of a batch, see `clip`."""
        return clip(logits, pairs, across=across)


def clip(logits: Float[Tensor, "text image"], pairs: Pairs, *, across: Across = ALONE) -> Float[Tensor, ""]:
    """(cross-entropy over rows + cross-entropy over columns) / 2 (Radford et al. 2021), in float32.

    A text of weight 0 belongs to no image: one more negative for all (NegCLIP's hard negative texts).

    Args:
        logits: Similarities over temperature; on several ranks all texts against this rank's images.
        pairs: `own` and `weights` are read; that a text is true of other images too is not CLIP's to know.
        across: The ranks that share the batch; the loss is that of the whole batch on each.

    Raises:
        ConfigError: on the CPU, on all ranks alike, unless every text that counts has exactly one own image and
            every image exactly one own text.  Elsewhere, and in a compiled graph, reading the verdict would make the
            device wait at every step: there the loss is not a number instead, and training stops at it.
    """
    # With one positive all modes are one; this one keeps the least for the backward pass.
    own = replace(pairs, positives=pairs.own.to(torch.int8), hardness=None)
    loss = multi_positive_nce(logits, own, mode="mil", across=across)
    paired = _one_to_one(pairs, across)
    if torch.compiler.is_compiling() or paired.device.type != "cpu":
        return torch.where(paired, loss, torch.nan)
    if not bool(paired):
        raise ConfigError(
            "the clip objective pairs one text with one image: set loader.texts=report (or "
            "loader.sentences_per_study=1) and loader.images_per_study=1, or use the multi_positive_nce objective"
        )
    return loss


def _one_to_one(pairs: Pairs, across: Across) -> Bool[Tensor, ""]:
    """Whether each text that counts has one own image among all ranks' and each image one own text."""
    unpaired = (pairs.own.sum(dim=0) != 1).sum()
    joined = across.sum(torch.cat([pairs.own.sum(dim=1), unpaired[None]]))
    wanted = 1 if pairs.weights is None else (pairs.weights > 0)
    return (joined[:-1] == wanted).all() & (joined[-1] == 0)
