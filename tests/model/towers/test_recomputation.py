"""A second run gives the first one's gradients, moves no statistics twice, and is really there."""

import copy
import math

import pytest
import torch
from torch import nn

from benchmarks.memory import saved_bytes
from vlp.model.towers import OpenClipImageConfig, TimmTowerConfig
from vlp.model.towers.recomputation import BuffersKept, set_recomputation

VIT = {"patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2, "proj_drop_rate": 0.3}
CNNS = {
    "resnet": ("test_resnet", {}),
    "one_stage": ("test_resnet", {"stage": 2}),
    "convnext": ("test_convnext", {}),
    "efficientnet": ("test_efficientnet", {}),
    "densenet": ("densenet121", {"arguments": {"growth_rate": 4, "block_config": [2, 2]}}),
    "dropout": ("vit_tiny_patch16_224", {"arguments": VIT}),
}


def _tower(name, options, *, recomputed):
    torch.manual_seed(0)
    tower = TimmTowerConfig(name=name, **options).build(size=(64, 64), channels=1, saved=None).train()
    tower.set_checkpointing(recomputed)
    return tower


@pytest.mark.parametrize("case", CNNS)
def test_gradients_and_statistics_are_those_of_one_run(case):
    """Statistics that moved twice, other dropout, or a list that grew meanwhile would show here."""
    images = torch.rand(4, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    found = []
    for recomputed in (False, True):
        tower = _tower(*CNNS[case], recomputed=recomputed)
        torch.manual_seed(2)
        tower(images).patches.square().sum().backward()
        gradients = {name: value.grad for name, value in tower.named_parameters() if value.grad is not None}
        found.append(gradients | dict(tower.named_buffers()))
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_open_clips_resnets_are_recomputed_too():
    """open_clip's own switch does nothing for them."""
    config = OpenClipImageConfig(name="RN50", arguments={"layers": [1, 2, 1, 1], "width": 8})
    tower = config.build(size=(64, 64), channels=3, saved=None).train()
    images = torch.rand(2, 3, 64, 64)
    plain = saved_bytes(lambda: tower(images))
    tower.set_checkpointing(True)
    assert saved_bytes(lambda: tower(images)) < 0.8 * plain


def test_a_deeper_tower_keeps_one_input_a_block_and_no_more():
    kept = {}
    for depth in (2, 6):
        options = {"arguments": VIT | {"depth": depth}}
        for recomputed in (False, True):
            tower = _tower("vit_tiny_patch16_224", options, recomputed=recomputed)
            kept[depth, recomputed] = saved_bytes(lambda: tower(torch.rand(4, 1, 64, 64)))  # noqa: B023
    one_input = 4 * 65 * 16 * 4
    assert kept[6, True] - kept[2, True] <= 4 * (one_input + 64)
    assert kept[6, False] - kept[2, False] > 10 * (kept[6, True] - kept[2, True])


def test_a_block_runs_twice_for_a_gradient_and_once_without():
    calls = []
    block = nn.Sequential(nn.Linear(2, 2))
    block[0].register_forward_pre_hook(lambda *_: calls.append("called"))
    set_recomputation([block], True)
    with torch.no_grad():
        block(torch.ones(1, 2))
    assert len(calls) == 1
    block(torch.ones(1, 2)).sum().backward()
    assert len(calls) == 3


def test_a_copy_runs_its_own_layers_and_off_is_off():
    block = nn.Sequential(nn.Linear(2, 2))
    set_recomputation([block], True)
    names = list(block.state_dict())
    again = copy.deepcopy(block)
    with torch.no_grad():
        again[0].weight.zero_()
        again[0].bias.zero_()
    x = torch.ones(1, 2, requires_grad=True)
    assert again(x).abs().sum() == 0
    assert block(x).abs().sum() > 0
    set_recomputation([block], False)
    assert list(block.state_dict()) == names
    assert "forward" not in vars(block)


def test_buffers_of_still_parts_are_left_alone():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2)).train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.named_buffers()}
    with BuffersKept(model):
        model(torch.rand(4, 2))
        model[1].running_mean += 1.0
    after = dict(model.named_buffers())
    assert torch.equal(after["0.running_mean"], before["0.running_mean"])
    assert torch.equal(after["0.num_batches_tracked"], before["0.num_batches_tracked"])
    assert torch.equal(after["1.running_mean"], before["1.running_mean"] + 1.0)


def test_statistics_come_back_and_frozen_ones_are_not_touched() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3))
    model[1].eval()
    before = BuffersKept(model)
    before.keep()
    kept = {name: value.clone() for name, value in model.named_buffers()}
    model(torch.full((4, 3), math.nan))
    assert torch.isnan(model[0].running_mean).all()
    before.put_back()
    assert all(torch.equal(value, kept[name]) for name, value in model.named_buffers())
    assert int(model[0].num_batches_tracked) == 0
