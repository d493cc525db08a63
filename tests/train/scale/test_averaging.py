"""The average is what its formula says, goes on after a stop as without one, and lends itself without a trace."""

import copy

import numpy as np
import pytest
import torch
import torch.distributed as dist
from pydantic import ValidationError
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from vlp.errors import CheckpointError
from vlp.train.scale.averaging import Averaged, AveragingConfig


def _model(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model[2].requires_grad_(requires_grad=False)
    model.register_buffer("constants", torch.ones(2), persistent=False)
    return model


def _step(model, number):
    """Moves everything: weights by a known amount, batch statistics by looking at something."""
    generator = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator))
        model(torch.randn(8, 3, generator=generator))


def _bits(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("warmup", [True, False])
def test_it_is_the_average_of_the_formula(warmup):
    model = _model()
    averaged = Averaged(model, AveragingConfig(decay=0.7, warmup=warmup))
    expected = model[0].weight.detach().numpy().astype(np.float64)
    for step in range(1, 30):
        _step(model, step)
        averaged.update(step)
        decay = min(0.7, (1 + step) / (10 + step)) if warmup else 0.7
        expected = decay * expected + (1 - decay) * model[0].weight.detach().numpy()
        if step in (1, 2, 29):
            np.testing.assert_allclose(averaged.state()["0.weight"].numpy(), expected, rtol=1e-5, atol=1e-6)


def test_the_first_weights_are_forgotten_early_and_the_last_ones_late():
    config = AveragingConfig(decay=0.999)
    assert config.decay_at(1) == pytest.approx(2 / 11)
    assert config.decay_at(10) == pytest.approx(11 / 20)
    assert config.decay_at(100_000) == 0.999
    with pytest.raises(ValidationError):
        AveragingConfig(decay=1.0)


def test_what_is_frozen_or_made_anew_has_no_average_and_statistics_are_copied():
    model = _model()
    averaged = Averaged(model, AveragingConfig(decay=0.5))
    for step in (1, 2, 3):
        _step(model, step)
        averaged.update(step)
    state = averaged.state()
    learned = {"0.weight", "0.bias", "1.weight", "1.bias"}
    assert set(state) == learned | {"1.running_mean", "1.running_var"}
    assert torch.equal(state["1.running_mean"], model[1].running_mean)
    assert not any(torch.equal(state[name], model.get_parameter(name)) for name in learned)


def test_an_interrupted_average_is_the_uninterrupted_one_bit_for_bit():
    model, config = _model(), AveragingConfig(decay=0.9)
    averaged = Averaged(model, config)
    for step in range(1, 4):
        _step(model, step)
        averaged.update(step)
    saved = {name: value.clone() for name, value in averaged.state().items()}
    model_again = _model(seed=7)
    model_again.load_state_dict(model.state_dict())
    again = Averaged(model_again, config)
    again.load(saved)
    for step in range(4, 7):
        for one, its_average in ((model, averaged), (model_again, again)):
            _step(one, step)
            its_average.update(step)
    assert all(torch.equal(value, again.state()[name]) for name, value in averaged.state().items())


def test_loading_copies():
    averaged = Averaged(_model(), AveragingConfig())
    given = {name: value.clone() for name, value in averaged.state().items()}
    averaged.load(given)
    given["0.weight"].zero_()
    assert averaged.state()["0.weight"].abs().sum() > 0


@pytest.mark.parametrize("change", ["another_name", "another_shape", "missing"])
def test_the_average_of_another_model_is_refused(change):
    averaged = Averaged(_model(), AveragingConfig())
    state = dict(averaged.state())
    value = state.pop("0.bias")
    state |= {"another_name": {"0.gain": value}, "another_shape": {"0.bias": value[:1]}, "missing": {}}[change]
    with pytest.raises(CheckpointError, match=r"another model.*0\.bias"):
        averaged.load(state)


def test_applied_lends_the_average_and_gives_back_the_weights_bit_for_bit():
    model = _model()
    averaged = Averaged(model, AveragingConfig(decay=0.5))
    for step in (1, 2):
        _step(model, step)
        averaged.update(step)
    before, average = _bits(model), {name: value.clone() for name, value in averaged.state().items()}
    parameters = dict(model.named_parameters())
    model.train()
    with averaged.applied():
        inside = _bits(model)
        model(torch.randn(8, 3))  # moves the running statistics
    assert all(torch.equal(inside[name], value) for name, value in average.items())
    assert not torch.equal(inside["0.weight"], before["0.weight"])
    after = _bits(model)
    assert all(torch.equal(after[name], before[name]) for name in before if "num_batches" not in name)
    assert all(torch.equal(averaged.state()[name], value) for name, value in average.items())
    assert all(parameters[name] is value for name, value in model.named_parameters())


def test_applied_gives_back_the_weights_after_an_error():
    model = _model()
    averaged = Averaged(model, AveragingConfig(decay=0.5, warmup=False))
    _step(model, 1)
    averaged.update(1)
    before = _bits(model)
    with pytest.raises(RuntimeError, match="evaluation"), averaged.applied():
        raise RuntimeError("evaluation failed")
    assert all(torch.equal(value, before[name]) for name, value in _bits(model).items())


def test_half_precision_weights_are_averaged_in_float32():
    """In bfloat16 a step of 1e-3 would be lost beside 1."""
    model = nn.Linear(1, 1, bias=False).bfloat16()
    with torch.no_grad():
        model.weight.fill_(1.0)
    averaged = Averaged(model, AveragingConfig(decay=0.999, warmup=False))
    with torch.no_grad():
        model.weight.fill_(2.0)
    averaged.update(1)
    assert averaged.state()["weight"].item() == pytest.approx(1.001, abs=1e-6)
    with averaged.applied():
        assert model.weight.dtype == torch.bfloat16
    assert model.weight.item() == 2.0


def test_nothing_that_learns_is_no_error():
    averaged = Averaged(nn.ReLU(), AveragingConfig())
    averaged.update(1)
    with averaged.applied():
        assert averaged.state() == {}


def test_sharded_weights_are_averaged_in_their_parts_and_saved_whole(connected):
    def work(rank):
        mesh = init_device_mesh("cpu", (2,))
        whole = nn.Linear(3, 4)
        with torch.no_grad():
            whole.weight.copy_(torch.arange(12.0).view(4, 3))
        sharded = copy.deepcopy(whole)
        sharded.weight = nn.Parameter(distribute_tensor(whole.weight.detach(), mesh, [Shard(0)]))
        with torch.no_grad():
            sharded.bias.copy_(whole.bias.fill_(1.0))
        config = AveragingConfig(decay=0.5, warmup=False)
        mine, reference = Averaged(sharded, config), Averaged(whole, config)
        with torch.no_grad():
            whole.weight.mul_(3.0)
            sharded.weight.mul_(3.0)
        mine.update(1)
        reference.update(1)
        assert torch.equal(mine.state()["weight"], reference.state()["weight"])
        mine.load({name: value + 1.0 for name, value in reference.state().items()})
        with mine.applied():
            assert torch.equal(sharded.weight.full_tensor(), reference.state()["weight"] + 1.0)
        assert torch.equal(sharded.weight.full_tensor(), whole.weight)
        dist.barrier()

    assert connected(2, work) == [0, 0]
