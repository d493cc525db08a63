"""The few sums that objectives are made of, in numbers that neither overflow nor lose their gradient."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from vlp.objectives.across import Across

_NOTHING = -1e30
"""Stands for minus infinity in a log-sum-exp; finite, so that a sum over nothing has a gradient (of zero)."""


def log_sums(
    z: Float[Tensor, "text image"], members: Bool[Tensor, "text image"], across: Across
) -> tuple[Float[Tensor, " text"], Float[Tensor, " image"]]:
    """Log sum exp over each text's members among all ranks' images, and over each image's members among all texts."""
    kept = z.masked_fill(~members, _NOTHING)
    # The clamp is for lines of length 0: a rank without images, a batch without texts.
    rows, columns = (torch.logsumexp(kept, dim=dim).clamp_min(_NOTHING) for dim in (1, 0))
    return across.logsumexp(rows), columns


def softplus(value: Tensor) -> Tensor:
    """log(1 + e^value), exact to the last digit of float64 (torch's own default stops at 1e-9)."""
    return functional.softplus(value, threshold=40.0)


def over(total: Tensor, mass: Tensor) -> Tensor:
    """Total / mass, and total where there is no mass (nothing was added: 0, with a graph)."""
    return total / mass.masked_fill(mass == 0, 1.0)


def mean_of_both(
    rows: Float[Tensor, " text"],
    of_text: Float[Tensor, " text"],
    columns: Float[Tensor, " image"],
    of_image: Float[Tensor, " image"],
    across: Across,
) -> Float[Tensor, ""]:
    """Half the weighted mean over all texts (equal on all ranks) and half that over all ranks' images."""
    by_image = across.sum(torch.stack([_total(columns, of_image), of_image.sum()]))
    return (over(_total(rows, of_text), of_text.sum()) + over(by_image[0], by_image[1])) / 2


def _total(cost: Tensor, weight: Tensor) -> Tensor:
    """Weighted sum; what weighs nothing may cost anything."""
    return (cost.masked_fill(weight == 0, 0.0) * weight).sum()
