"""Blocks that keep nothing but their input for the backward pass, and run once more when the gradient comes to them.

torch's checkpointing (Chen et al. 2016, arXiv 1604.06174), put around blocks in one way for all towers.  The libraries
that towers come from have switches of their own; those leave out some models and read-outs, and batch statistics move
twice.  Here random numbers and batch statistics are those of the first run, so gradients are the same.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class BuffersKept:
    """Keeps a module's buffers (running statistics) and puts them back: what some looks at images must not move.

    As a context it does so for its block, for a second look at the same images.
    """

    def __init__(self, module: nn.Module) -> None:
        self._buffers = [buffer for part in module.modules() if part.training for buffer in part.buffers(recurse=False)]
        self._values: list[Tensor] = []

    def keep(self) -> None:
        """Remembers the buffers as they are."""
        self._values = [buffer.detach().clone() for buffer in self._buffers]

    @torch.no_grad()
    def put_back(self) -> None:
        """Makes the buffers what they were when they were kept."""
        for buffer, value in zip(self._buffers, self._values, strict=True):
            buffer.copy_(value)
        self._values = []

    def __enter__(self) -> None:
        self.keep()

    def __exit__(self, *_: object) -> None:
        self.put_back()


def set_recomputation(blocks: Iterable[nn.Module], on: bool) -> None:
    """Switches it on or off for modules that are called one after another; names of parameters stay."""
    for block in blocks:
        if on:
            # Bound, so that a copy of the block runs the copy's layers.
            block.forward = MethodType(_recomputed, block)
        else:
            block.__dict__.pop("forward", None)


def _recomputed(block: nn.Module, *arguments: Any, **options: Any) -> Any:
    forward = type(block).forward
    if not torch.is_grad_enabled():
        return forward(block, *arguments, **options)
    # DenseNets hand on one list that grows afterwards; the second run must see it as it was.
    given = [list(value) if isinstance(value, list) else value for value in arguments]
    if any(part.training and getattr(part, "track_running_stats", False) for part in block.modules()):
        return _with_statistics(block, given, options)
    return checkpoint(forward, block, *given, use_reentrant=False, **options)


@torch.compiler.disable  # a compiled block cannot be told to put its statistics back
def _with_statistics(block: nn.Module, given: list[Any], options: dict[str, Any]) -> Any:
    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), BuffersKept(block)

    return checkpoint(type(block).forward, block, *given, use_reentrant=False, context_fn=contexts, **options)
