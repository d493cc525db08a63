"""AdamW over named parameter groups, and a learning rate that is a pure function of the step."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat
from torch import nn

from vlp.config import Config
from vlp.errors import ConfigError
from vlp.model.towers import Tower

_FUSED_DEVICES = ("cpu", "cuda")
_NO_TOWERS: Mapping[str, Tower] = MappingProxyType({})

Share = Annotated[float, Field(gt=0.0, le=1.0)]


class LrScale(Config):
    """What the learning rate is multiplied by in each part of the model; 0 leaves a part as it is."""

    image: NonNegativeFloat = 1.0
    """Image tower."""
    text: NonNegativeFloat = 1.0
    """Text tower."""
    rest: NonNegativeFloat = 1.0
    """Heads, align layers, scorer."""


class LayerDecay(Config):
    """How much slower every block of a tower learns than the one above it, as BEiT has it (arXiv 2106.08254).

    The block that is n-th from the top has the part's rate times decay^n, the stem below the lowest block once more.
    """

    image: Share | None = None
    """Image tower, e.g. 0.75; null: all blocks alike."""
    text: Share | None = None
    """Text tower."""


class OptimizerConfig(Config):
    """AdamW (Loshchilov & Hutter 2019).  Weights decay; norms, biases and temperatures do not."""

    lr: PositiveFloat = 1e-4
    """Learning rate at the top of the schedule."""
    lr_scale: LrScale = LrScale()
    layer_decay: LayerDecay = LayerDecay()
    weight_decay: NonNegativeFloat = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    fused: Literal["auto"] | bool = "auto"
    """One kernel for the whole update instead of several for each of its operations; the same arithmetic.  auto: where
    torch has it (CPUs and NVIDIA GPUs)."""


class ScheduleConfig(Config):
    """Linear warm-up, then half a cosine down to the end of `max_steps`."""

    warmup_steps: NonNegativeInt = 50
    final_share: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of the learning rate that is left at the last step."""

    def share(self, step: int, *, max_steps: int) -> float:
        """The factor on the learning rate while `step` (counted from 0) is being trained.

        It depends on the step alone, so a resumed run needs no state to go on with the same rates.
        """
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(max_steps - self.warmup_steps, 1)
        return self.final_share + (1.0 - self.final_share) * 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))


def make_optimizer(
    groups: Mapping[str, Sequence[nn.Parameter]],
    config: OptimizerConfig,
    *,
    towers: Mapping[str, Tower] = _NO_TOWERS,
) -> torch.optim.AdamW:
    """The optimizer over the trainable parameters of `groups` (names as in `LrScale`).

    Every group of the result carries its `name` and its `scale`, which `set_lr` reads.

    Args:
        groups: What learns, by part.
        config: How.
        towers: The part that is a tower by its name in `groups`; layer decay needs to know its blocks.

    Raises:
        ConfigError: when every part of the model is frozen, a tower has no blocks that layer decay could tell apart,
            or there is no fused kernel where the parameters are.
    """
    scales = config.lr_scale.model_dump()
    made: list[dict[str, Any]] = []
    for name, parameters in groups.items():
        if name not in scales:
            raise ConfigError(f"optimizer.lr_scale: the model has a part {name!r} that has no scale")
        trainable = [parameter for parameter in parameters if parameter.requires_grad]
        if scales[name] > 0.0 and trainable:
            for share, members in _layers(name, trainable, config, towers):
                made += _by_decay(members, name=name, scale=scales[name] * share, weight_decay=config.weight_decay)
    if not made:
        raise ConfigError("nothing to train: every part of the model is frozen or has a learning rate scale of 0")
    fused = _fused(config, made)
    optimizer = torch.optim.AdamW(made, lr=config.lr, betas=config.betas, fused=fused or None)
    if fused:
        # A fused step offers to undo 16-bit loss scaling by itself; the gradient would be clipped before that.
        optimizer._step_supports_amp_scaling = False
    return optimizer


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Gives every parameter group `lr` times its own scale."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["scale"]


def _layers(
    name: str, trainable: Sequence[nn.Parameter], config: OptimizerConfig, towers: Mapping[str, Tower]
) -> list[tuple[float, list[nn.Parameter]]]:
    """The parameters of a part by the share of its rate they have, from the input up."""
    decay: float | None = config.layer_decay.model_dump().get(name)
    if decay is None:
        return [(1.0, list(trainable))]
    assert name in towers, f"layer decay of {name!r} needs its tower"
    layers = towers[name].layers()
    wanted = {id(parameter) for parameter in trainable}
    found = [
        (decay ** (len(layers) - depth), [parameter for parameter in layer if id(parameter) in wanted])
        for depth, layer in enumerate(layers)
    ]
    assert sum(len(members) for _, members in found) == len(trainable), f"tower {name!r} names not all it learns"
    return [(share, members) for share, members in found if members]


def _by_decay(
    parameters: Sequence[nn.Parameter], *, name: str, scale: float, weight_decay: float
) -> list[dict[str, Any]]:
    groups = []
    for decay in (True, False):
        members = [parameter for parameter in parameters if _decays(parameter) == decay]
        if members:
            rate = weight_decay if decay else 0.0
            groups.append({"params": members, "name": name, "scale": scale, "weight_decay": rate})
    return groups


def _fused(config: OptimizerConfig, groups: Sequence[Mapping[str, Any]]) -> bool:
    parameters = [parameter for group in groups for parameter in group["params"]]
    elsewhere = sorted({parameter.device.type for parameter in parameters} - set(_FUSED_DEVICES))
    if config.fused is True and elsewhere:
        raise ConfigError(f"optimizer.fused: torch has no fused AdamW on {elsewhere[0]}; use auto")
    return config.fused is True or (config.fused == "auto" and not elsewhere)


def _decays(parameter: nn.Parameter) -> bool:
    # Norm scales, biases, LayerScale factors, temperatures: all are vectors or scalars.
    return parameter.ndim >= 2
