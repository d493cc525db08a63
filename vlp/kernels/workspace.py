"""Memory that one call of a kernel makes once and writes into again and again, and the spans it walks."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


class Workspace:
    """Named buffers of one type and device.  On a CPU fresh memory costs more than most arithmetic on it."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._buffers: dict[str, Tensor] = {}

    def take(self, name: str, shape: Sequence[int]) -> Tensor:
        """The memory of one purpose, the same on every call; it holds whatever was left there."""
        numbers = torch.Size(shape).numel()
        kept = self._buffers.get(name)
        if kept is None or kept.numel() < numbers:
            kept = self._buffers[name] = self._like.new_empty(numbers)
        return kept[:numbers].view(*shape)


def spans(total: int, size: int) -> Iterator[slice]:
    """0 .. total in slices of `size`, the last one shorter."""
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))
