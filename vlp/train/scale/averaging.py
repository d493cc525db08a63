"""The running average of a model's weights: steadier than the weights of any one step, and better for it.

Polyak averaging with exponential weights, in float32 beside the weights that are trained (Tarvainen & Valpola 2017,
arXiv 1703.01780; Izmailov et al. 2018, arXiv 1803.05407, on why it helps).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Shaped
from pydantic import Field
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from vlp.config import Config
from vlp.errors import CheckpointError


class AveragingConfig(Config):
    """average <- decay * average + (1 - decay) * weights, after every step."""

    decay: float = Field(default=0.9999, ge=0.0, lt=1.0)
    """Share of the average that stays; 0.9999 looks back over about 10,000 steps."""
    warmup: bool = True
    """While few steps are trained, (1 + step) / (10 + step) where that is less: the average must forget the first
    weights, which nobody chose."""

    def decay_at(self, step: int) -> float:
        """The decay after `step` trained steps; of the step alone, so a resumed run needs no state for it."""
        return min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay


class Averaged:
    """The average of everything in a model that learns; batch statistics are copied as they are.

    Make it when the model is where it will be trained (on its device, sharded or not): every process averages the
    part it holds.  Frozen parts have no average, being the same at every step.
    """

    def __init__(self, model: nn.Module, config: AveragingConfig) -> None:
        self.config = config
        self._weights = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self._buffers = _float_buffers(model)
        self._averages = {name: _precise(value) for name, value in self._weights.items()}
        self._copies = {name: value.detach().clone() for name, value in self._buffers.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the weights as they are after `step` trained steps (1 after the first)."""
        self._follow()
        averages = _local(list(self._averages.values()))
        weights = [
            weight.detach().to(average.dtype)
            for weight, average in zip(_local(list(self._weights.values())), averages, strict=True)
        ]
        if averages:
            torch._foreach_lerp_(averages, weights, 1.0 - self.config.decay_at(step))
        _put(self._copies, self._buffers)

    def state(self) -> dict[str, Shaped[Tensor, "..."]]:
        """Averages and copied statistics, whole, by the names they have in the model; what `load` takes.

        Where weights are sharded every process must call this at the same time.  Unsharded tensors are the live ones:
        copy them before the next update.
        """
        return {name: _whole(value) for name, value in (self._averages | self._copies).items()}

    @torch.no_grad()
    def load(self, state: Mapping[str, Shaped[Tensor, "..."]]) -> None:
        """Goes on from what `state` gave.

        Raises:
            CheckpointError: if it is of another model, or of one that learned elsewhere.
        """
        self._follow()
        own = self._averages | self._copies
        different = sorted(own.keys() ^ state.keys())
        different += sorted(name for name in own.keys() & state.keys() if own[name].shape != state[name].shape)
        if different:
            raise CheckpointError(
                f"averaged weights: of another model than this one: {len(different)} tensors differ, "
                f"e.g. {different[0]}; name another output"
            )
        for name, value in own.items():
            value.copy_(_laid_out(state[name], like=value))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the average for its weights inside the block, and after it its own again, bit for bit."""
        self._follow()
        live = self._weights | self._buffers
        kept = {name: value.detach().clone() for name, value in live.items()}
        try:
            _put(live, self._averages | self._copies)
            yield
        finally:
            _put(live, kept)

    def _follow(self) -> None:
        """A model may have moved to another device since."""
        for live, mine in ((self._weights, self._averages), (self._buffers, self._copies)):
            for name, value in live.items():
                if mine[name].device != value.device:
                    mine[name] = mine[name].to(value.device)


def _float_buffers(model: nn.Module) -> dict[str, Tensor]:
    """What batch normalisation remembers, and the like; constants that are made anew are not kept in a model."""
    kept = model.state_dict(keep_vars=True)
    return {name: value for name, value in model.named_buffers() if name in kept and value.is_floating_point()}


def _precise(weight: Tensor) -> Tensor:
    value = weight.detach()
    return value.clone() if value.dtype == torch.float64 else value.float().clone()


@torch.no_grad()
def _put(targets: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    if targets:
        torch._foreach_copy_(_local(list(targets.values())), _local([values[name] for name in targets]))


def _local(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The part of each that this process holds; arithmetic on it needs nobody else."""
    return [value.to_local() if isinstance(value, DTensor) else value for value in tensors]


def _whole(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


def _laid_out(value: Tensor, *, like: Tensor) -> Tensor:
    """A whole tensor cut into parts as another one is."""
    if not isinstance(like, DTensor):
        return value
    moved = value.to(like.device)
    return distribute_tensor(moved, like.device_mesh, like.placements, src_data_rank=None)
