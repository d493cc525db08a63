import itertools
import math

import pytest
import torch
from torch import nn

from vlp.errors import ConfigError
from vlp.model.towers import Tower
from vlp.train.optimizer import LayerDecay, LrScale, OptimizerConfig, ScheduleConfig, make_optimizer, set_lr


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


class Stack(Tower):
    """A stem and three blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Linear(2, 2) for _ in range(4))

    def layers(self) -> list[list[nn.Parameter]]:
        return [list(part.parameters()) for part in self.parts]

    def blocks(self) -> list[nn.Module]:
        return list(self.parts[1:])

    def example(self) -> torch.Tensor:
        return torch.zeros(1, 2)

    def encode(self, given: torch.Tensor, /) -> torch.Tensor:
        return nn.Sequential(*self.parts)(given)


def rates(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return {names[id(value)]: group["lr"] for group in optimizer.param_groups for value in group["params"]}


def test_a_lower_block_learns_more_slowly() -> None:
    model = nn.ModuleDict({"image": Stack(), "text": Stack(), "head": nn.Linear(2, 2)})
    groups = {name: list(model[part].parameters()) for name, part in (("image", "image"), ("text", "text"))}
    groups["rest"] = list(model["head"].parameters())
    config = OptimizerConfig(lr=1.0, lr_scale=LrScale(image=0.1), layer_decay=LayerDecay(image=0.5))
    optimizer = make_optimizer(groups, config, towers={"image": model["image"], "text": model["text"]})
    set_lr(optimizer, 2.0)
    found = rates(model, optimizer)
    assert len(found) == len(list(model.parameters()))
    for depth, share in enumerate((1 / 16, 1 / 8, 1 / 4, 1 / 2)):  # BEiT: decay ** (blocks + 1 - depth)
        assert found[f"image.parts.{depth}.weight"] == pytest.approx(0.2 * share)
        assert found[f"image.parts.{depth}.bias"] == pytest.approx(0.2 * share)
        assert found[f"text.parts.{depth}.weight"] == pytest.approx(2.0)
    assert found["head.weight"] == pytest.approx(2.0)
    decays = {group["weight_decay"] for group in optimizer.param_groups if group["name"] == "image"}
    assert decays == {0.0, config.weight_decay}


def test_frozen_blocks_do_not_change_the_rates_of_the_others() -> None:
    tower = Stack()
    tower.freeze(1)
    config = OptimizerConfig(lr=1.0, layer_decay=LayerDecay(image=0.5))
    optimizer = make_optimizer({"image": list(tower.parameters())}, config, towers={"image": tower})
    set_lr(optimizer, 1.0)
    assert rates(tower, optimizer) == pytest.approx(
        {"parts.2.weight": 0.25, "parts.2.bias": 0.25, "parts.3.weight": 0.5, "parts.3.bias": 0.5}
    )


def test_without_layer_decay_the_groups_are_the_parts() -> None:
    tower = Stack()
    groups = {"image": list(tower.parameters())}
    optimizer = make_optimizer(groups, OptimizerConfig(), towers={"image": tower})
    assert [(group["name"], group["scale"], len(group["params"])) for group in optimizer.param_groups] == [
        ("image", 1.0, 4),
        ("image", 1.0, 4),
    ]


def _train(fused: bool, *, steps: int = 20) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    part = nn.Sequential(nn.Linear(3, 8), nn.GELU(), nn.Linear(8, 2))
    optimizer = make_optimizer({"rest": list(part.parameters())}, OptimizerConfig(lr=1e-2, fused=fused))
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        set_lr(optimizer, 1e-2 * (step + 1) / steps)
        optimizer.zero_grad()
        part(torch.randn(16, 3, generator=generator)).square().mean().backward()
        optimizer.step()
    return part, optimizer


def test_fused_or_not_the_weights_are_the_same() -> None:
    (fused, optimizer), (plain, _) = _train(True), _train(False)
    assert optimizer.defaults["fused"]
    for one, other in zip(fused.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_auto_is_fused_where_torch_can() -> None:
    part = nn.Linear(2, 2)
    assert make_optimizer({"rest": list(part.parameters())}, OptimizerConfig()).defaults["fused"]
    elsewhere = {"rest": list(nn.Linear(2, 2, device="meta").parameters())}
    assert not make_optimizer(elsewhere, OptimizerConfig()).defaults["fused"]
    with pytest.raises(ConfigError, match="no fused AdamW on meta"):
        make_optimizer(elsewhere, OptimizerConfig(fused=True))


def test_a_scaled_loss_is_unscaled_before_the_gradient_is_clipped() -> None:
    """A fused step would unscale by itself, after the clipping: gradients of 16-bit runs would all but vanish."""
    moved = []
    for scale in (1.0, 2.0**12):
        torch.manual_seed(0)
        part = nn.Linear(4, 1, bias=False)
        optimizer = make_optimizer({"rest": list(part.parameters())}, OptimizerConfig(lr=1e-1, betas=(0.0, 0.0)))
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, enabled=True)
        scaler.scale(part(torch.ones(2, 4)).square().sum()).backward()
        if not getattr(optimizer, "_step_supports_amp_scaling", False):  # what Lightning asks
            scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(part.parameters(), 1e-8)  # so small that AdamW's epsilon shows its size
        scaler.step(optimizer)
        moved.append((part.weight.detach().clone(), norm))
    torch.testing.assert_close(moved[0], moved[1])


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
