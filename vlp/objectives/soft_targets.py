"""Targets from what is known of both sides: the more a text agrees with an image, the higher it should score it."""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import PositiveFloat
from torch import Tensor

from vlp.config import Config
from vlp.errors import ConfigError
from vlp.objectives.across import ALONE, Across
from vlp.objectives.pairs import Pairs, anchor_weights, exact
from vlp.objectives.sums import log_sums, mean_of_both, over
from vlp.tensors import IGNORE


class SoftTargetsConfig(Config):
    """Cross-entropy against a softmax of agreements (MedCLIP's semantic matching)."""

    kind: Literal["soft_targets"] = "soft_targets"
    temperature: PositiveFloat = 0.1
    """What agreements, in [-1, 1], are divided by: the lower, the more of the target goes to the best of a line.
    MedCLIP's 1 spreads it almost evenly over a batch of thousands."""

    def __call__(
        self, logits: Float[Tensor, "text image"], pairs: Pairs, *, across: Across = ALONE
    ) -> Float[Tensor, ""]:
        """The loss of a batch, see `soft_targets`."""
        return soft_targets(logits, pairs, temperature=self.temperature, across=across)


def soft_targets(
    logits: Float[Tensor, "text image"], pairs: Pairs, *, temperature: float, across: Across = ALONE
) -> Float[Tensor, ""]:
    """Mean of the cross-entropies over images per text and over texts per image (Wang et al. 2022), in float32.

    With z the logits and A the agreements, at least 1 where the text is the image's own:

        q = softmax(A / temperature)        of an anchor:  -sum q log softmax(z)         floor: the entropy of q

    Ignored pairs leave both softmaxes; an anchor with nothing left has no term.  Texts count by their weights; an
    image's terms each by their text's, as in "supcon", whose 1 / |P| is q here.

    Args:
        logits: Similarities over temperature; on several ranks all texts against this rank's images.
        pairs: `agreement`, `own`, `weights` are read, and `positives` for what is ignored.
        temperature: Of the agreements; that of the logits is the scorer's.
        across: The ranks that share the batch; the loss is that of the whole batch on each.

    Raises:
        ConfigError: where pairs have no agreement.
        ValueError: for shapes that do not belong together.
    """
    if pairs.agreement is None:
        raise ConfigError(
            "the soft_targets objective needs to know how far texts and images agree, and here nothing says so: "
            "use it between texts and images only, or use the multi_positive_nce objective"
        )
    z = exact(logits, pairs)
    counted = pairs.positives != IGNORE
    weights = anchor_weights(pairs, z).masked_fill(across.sum(counted.sum(dim=1)) == 0, 0.0)
    agreement = pairs.agreement.to(z)
    wanted = torch.where(pairs.own, agreement.clamp_min(1.0), agreement) / temperature
    wanted_rows, wanted_columns = log_sums(wanted, counted, across)
    rows, columns = log_sums(z, counted, across)
    target = (wanted - wanted_rows[:, None]).exp().masked_fill(~counted, 0.0)
    rows = rows - across.sum((target * z).sum(dim=1))
    target = (wanted - wanted_columns).exp().masked_fill(~counted, 0.0) * weights[:, None]
    of_image = target.sum(dim=0)
    columns = columns - over((target * z).sum(dim=0), of_image)
    return mean_of_both(rows, weights, columns, of_image, across)
