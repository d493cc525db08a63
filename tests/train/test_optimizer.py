import itertools
import math

import pytest
import torch
from torch import nn

from vlp.errors import ConfigError
from vlp.train.optimizer import LrScale, OptimizerConfig, ScheduleConfig, make_optimizer, set_lr


class Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.norm = nn.LayerNorm(2)
        self.temperature = nn.Parameter(torch.tensor(0.0))


def names_by_decay(module: nn.Module, optimizer: torch.optim.Optimizer, decay: float) -> set[str]:
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    groups = [group for group in optimizer.param_groups if group["weight_decay"] == decay]
    return {names[id(parameter)] for group in groups for parameter in group["params"]}


def test_norms_biases_and_temperatures_do_not_decay() -> None:
    part = Part()
    optimizer = make_optimizer({"rest": list(part.parameters())}, OptimizerConfig(weight_decay=0.2))
    assert names_by_decay(part, optimizer, 0.2) == {"linear.weight"}
    assert names_by_decay(part, optimizer, 0.0) == {"linear.bias", "norm.weight", "norm.bias", "temperature"}


def test_every_group_has_its_own_rate() -> None:
    groups = {name: list(nn.Linear(2, 2).parameters()) for name in ("image", "text", "rest")}
    scale = LrScale(image=1.0, text=0.1, rest=3.0)
    optimizer = make_optimizer(groups, OptimizerConfig(lr=1e-3, lr_scale=scale))
    set_lr(optimizer, 2e-3)
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates == pytest.approx({"image": 2e-3, "text": 2e-4, "rest": 6e-3})


def test_frozen_parts_and_parts_of_scale_zero_are_left_out() -> None:
    frozen, still, moving = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
    frozen.requires_grad_(requires_grad=False)
    groups = {"image": list(frozen.parameters()), "text": list(still.parameters()), "rest": list(moving.parameters())}
    optimizer = make_optimizer(groups, OptimizerConfig(lr_scale=LrScale(text=0.0)))
    assert {group["name"] for group in optimizer.param_groups} == {"rest"}


def test_nothing_to_train_is_an_error() -> None:
    with pytest.raises(ConfigError, match="nothing to train"):
        make_optimizer({"image": [], "text": [], "rest": []}, OptimizerConfig())


def test_a_part_without_a_scale_is_an_error() -> None:
    with pytest.raises(ConfigError, match="'decoder'"):
        make_optimizer({"decoder": list(nn.Linear(2, 2).parameters())}, OptimizerConfig())


def test_schedule_rises_then_falls_to_its_floor() -> None:
    schedule = ScheduleConfig(warmup_steps=4, final_share=0.1)
    shares = [schedule.share(step, max_steps=24) for step in range(25)]
    assert shares[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert shares[4] == 1.0
    assert all(later <= earlier for earlier, later in itertools.pairwise(shares[4:]))
    assert shares[14] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 2)))
    assert shares[24] == pytest.approx(0.1)
    assert schedule.share(10_000, max_steps=24) == pytest.approx(0.1)


def test_schedule_agrees_with_torch_after_the_warm_up() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30)
    schedule = ScheduleConfig(warmup_steps=0)
    for step in range(30):
        assert schedule.share(step, max_steps=30) == pytest.approx(reference.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        reference.step()
