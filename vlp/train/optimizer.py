"""AdamW over named parameter groups, and a learning rate that is a pure function of the step."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat
from torch import nn

from vlp.config import Config
from vlp.errors import ConfigError


class LrScale(Config):
    """What the learning rate is multiplied by in each part of the model; 0 leaves a part as it is."""

    image: NonNegativeFloat = 1.0
    """Image tower."""
    text: NonNegativeFloat = 1.0
    """Text tower."""
    rest: NonNegativeFloat = 1.0
    """Heads, align layers, scorer."""


class OptimizerConfig(Config):
    """AdamW (Loshchilov & Hutter 2019).  Weights decay; norms, biases and temperatures do not."""

    lr: PositiveFloat = 1e-4
    """Learning rate at the top of the schedule."""
    lr_scale: LrScale = LrScale()
    weight_decay: NonNegativeFloat = 0.05
    betas: tuple[float, float] = (0.9, 0.999)


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


def make_optimizer(groups: Mapping[str, Sequence[nn.Parameter]], config: OptimizerConfig) -> torch.optim.AdamW:
    """The optimizer over the trainable parameters of `groups` (names as in `LrScale`).

    Every group of the result carries its `name` and its `scale`, which `set_lr` reads.

    Raises:
        ConfigError: when every part of the model is frozen.
    """
    scales = config.lr_scale.model_dump()
    made: list[dict[str, Any]] = []
    for name, parameters in groups.items():
        if name not in scales:
            raise ConfigError(f"optimizer.lr_scale: the model has a part {name!r} that has no scale")
        trainable = [parameter for parameter in parameters if parameter.requires_grad]
        for decay in (True, False):
            members = [parameter for parameter in trainable if _decays(parameter) == decay]
            if members and scales[name] > 0.0:
                made.append(
                    {
                        "params": members,
                        "name": name,
                        "scale": scales[name],
                        "weight_decay": config.weight_decay if decay else 0.0,
                    }
                )
    if not made:
        raise ConfigError("nothing to train: every part of the model is frozen or has a learning rate scale of 0")
    return torch.optim.AdamW(made, lr=config.lr, betas=config.betas)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Gives every parameter group `lr` times its own scale."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["scale"]


def _decays(parameter: nn.Parameter) -> bool:
    # Norm scales, biases, LayerScale factors, temperatures: all are vectors or scalars.
    return parameter.ndim >= 2
