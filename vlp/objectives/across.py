"""Sums over the ranks that share a batch, with gradients.

Ranks hold different images and all texts.  What runs along images (the sums of a text's row) is joined here; what
runs along texts (an image's column) never leaves its rank.

The gradient convention: every rank ends with the same loss, that of the whole batch, and starts its own backward
pass from it.  A sum is differentiated with its true adjoint, the sum of all ranks' gradients, so what reaches a rank
is the number of ranks times its share of the gradient, and the mean over ranks that `DistributedDataParallel` takes
is the gradient one process would have found.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed
from torch import Tensor


class Across(Protocol):
    """The ranks that share a batch.  Every rank makes the same calls in the same order."""

    def sum(self, value: Tensor) -> Tensor:
        """The elementwise sum over ranks, the same on each."""

    def logsumexp(self, value: Tensor) -> Tensor:
        """Log sum exp over ranks, elementwise, the same on each."""


class Alone:
    """One rank: nothing to join."""

    def sum(self, value: Tensor) -> Tensor:
        """The value itself."""
        return value

    def logsumexp(self, value: Tensor) -> Tensor:
        """The value itself."""
        return value


ALONE = Alone()


@dataclass(frozen=True, slots=True)
class Ranks:
    """The ranks of a process group of `torch.distributed`; values have one shape and type on all of them."""

    group: torch.distributed.ProcessGroup | None = None
    """The default group, all ranks, where None."""

    def sum(self, value: Tensor) -> Tensor:
        """The elementwise sum over ranks; its gradient is the sum of all ranks' gradients."""
        total: Tensor = _Sum.apply(value, self.group)
        return total

    def logsumexp(self, value: Tensor) -> Tensor:
        """Log sum exp over ranks; where every rank says minus infinity, the lowest finite number.

        The largest value comes off first: it cancels, and so needs no gradient.
        """
        finite = torch.finfo(value.dtype)
        largest = value.detach().clamp(finite.min, finite.max).contiguous()
        torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX, group=self.group)
        # The sum is at least 1 but where all is minus infinity; there the clamp keeps log and gradient finite.
        return largest + self.sum((value - largest).exp()).clamp_min(finite.tiny).log()


class _Sum(torch.autograd.Function):
    """All-reduce, differentiated by all-reduce."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, group: torch.distributed.ProcessGroup | None) -> Tensor:
        ctx.group = group
        return _all_reduced(value, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _all_reduced(gradients[0], ctx.group), None


def _all_reduced(value: Tensor, group: torch.distributed.ProcessGroup | None) -> Tensor:
    total = value.clone(memory_format=torch.contiguous_format)
    torch.distributed.all_reduce(total, group=group)
    return total
