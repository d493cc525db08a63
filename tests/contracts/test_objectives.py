"""What every objective promises.  A new member of the union is checked without being named here."""

import os
import subprocess
import sys
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import get_args

import pytest
import torch

from vlp.config import dump
from vlp.errors import ConfigError
from vlp.objectives import ALONE, AnyObjective, MultiPositiveNceConfig, Pairs, Ranks

OBJECTIVES = [member() for member in get_args(get_args(AnyObjective)[0])]
OBJECTIVES += [MultiPositiveNceConfig(mode="mil"), MultiPositiveNceConfig(mode="supcon")]
NAMES = [f"{objective.kind} {getattr(objective, 'mode', '')}".strip() for objective in OBJECTIVES]
OWN_ALONE = ("clip", "siglip")
"""Baselines that know whose text it is and nothing else: neither what is ignored nor what is hard."""
SPLITS = {1: (7,), 2: (5, 2), 4: (4, 0, 2, 1)}
"""Images of each rank, by number of ranks.  Images 4 and 5, all that rank 2 of 4 has, have no positive text."""

pytestmark = pytest.mark.parametrize("objective", OBJECTIVES, ids=NAMES)


def _logits(shape=(6, 6), scale=1.0, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).mul(scale).float()


def _pairs(positives, **others):
    own = positives > 0
    agreement = torch.where(own, 1.0, -1.0)
    return Pairs(**{"positives": positives.to(torch.int8), "own": own, "agreement": agreement} | others)


def _take(pairs, texts=slice(None), images=slice(None)):
    """Some rows and columns of everything."""
    given = {field.name: getattr(pairs, field.name) for field in fields(pairs)}
    return Pairs(
        **{
            name: value if value is None else (value[texts] if name == "weights" else value[texts][:, images])
            for name, value in given.items()
        }
    )


def _rich(objective):
    """9 texts, 7 images, everything set: ignored pairs, weights and hardness of 0, lines without a positive."""
    generator = torch.Generator().manual_seed(3)
    positives = torch.randint(-1, 2, (9, 7), generator=generator, dtype=torch.int8)
    positives[:, 4:6].clamp_(max=0)
    positives[2].clamp_(max=0)
    positives[6] = positives[:, 6] = -1
    positives[1, 6] = 1
    own = (positives > 0) & (torch.rand(9, 7, generator=generator) > 0.4)
    weights = torch.rand(9, generator=generator) * 2
    weights[7:] = 0
    if objective.kind == "clip":
        own = torch.eye(9, 7)[torch.tensor([3, 0, 6, 1, 2, 5, 4, 7, 8])] > 0
    hardness = torch.randint(0, 4, (9, 7), generator=generator).double()
    agreement = torch.rand(9, 7, generator=generator).double() * 2 - 1
    return _logits((9, 7), scale=3.0, seed=5).double(), Pairs(
        positives=positives, own=own, weights=weights, hardness=hardness, agreement=agreement
    )


def _gradient(objective, logits, pairs, across=ALONE):
    """Loss and gradient, without a NaN on the way, even one that is masked in the end."""
    leaf = logits.detach().clone().requires_grad_()
    with torch.autograd.set_detect_anomaly(True):
        loss = objective(leaf, pairs, across=across)
        loss.backward()
    return loss.detach(), leaf.grad


def test_it_is_one_finite_number_with_a_gradient(objective):
    loss, gradient = _gradient(objective, _logits(), _pairs(torch.eye(6)))
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().max() > 0


def test_its_gradient_is_right(objective):
    logits, pairs = _rich(objective)
    assert torch.autograd.gradcheck(lambda z: objective(z, pairs), logits.requires_grad_())


def test_order_does_not_matter(objective):
    logits, pairs = _rich(objective)
    texts = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    images = torch.randperm(7, generator=torch.Generator().manual_seed(2))
    loss, gradient = _gradient(objective, logits, pairs)
    permuted, its_gradient = _gradient(objective, logits[texts][:, images], _take(pairs, texts, images))
    torch.testing.assert_close(permuted, loss)
    torch.testing.assert_close(its_gradient, gradient[texts][:, images])


def test_better_scores_cost_less_and_perfect_ones_nothing(objective):
    logits, pairs = _logits(), _pairs(torch.eye(6))
    worse, better = (objective(logits + step * pairs.positives, pairs) for step in (0.0, 1.0))
    assert better < worse
    perfect = 30.0 * (2.0 * pairs.positives - 1.0)
    assert objective(perfect, pairs).item() == pytest.approx(0.0, abs=1e-6)
    assert objective(-perfect, pairs) > 10.0


def test_gradients_raise_positives_and_lower_negatives(objective):
    _, gradient = _gradient(objective, _logits(), _pairs(torch.eye(6)))
    assert (gradient[torch.eye(6) > 0] < 0).all()
    assert (gradient[torch.eye(6) == 0] > 0).all()


@pytest.mark.parametrize("scale", [1e-6, 200.0, 1e4])
def test_extreme_logits_stay_finite(objective, scale):
    """A cosine over a temperature of 0.005 is 200, and e^200 is no float32."""
    loss, gradient = _gradient(objective, _logits(scale=scale), _pairs(torch.eye(6)))
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()


def test_ignored_pairs_stand_in_no_sum(objective):
    positives = torch.eye(6, dtype=torch.int8)
    positives[0, 1] = positives[4, 2] = -1
    logits, pairs = _logits(), _pairs(positives)
    loss, gradient = _gradient(objective, logits, pairs)
    if objective.kind in OWN_ALONE:
        torch.testing.assert_close(loss, objective(logits, _pairs(torch.eye(6))))
        return
    assert (gradient[positives == -1] == 0).all()
    torch.testing.assert_close(objective(logits + 9.0 * (positives == -1), pairs), loss)


def test_everything_ignored_costs_nothing(objective):
    if objective.kind in OWN_ALONE:
        pairs = _pairs(torch.full((6, 6), -1), own=torch.eye(6) > 0)
        torch.testing.assert_close(objective(_logits(), pairs), objective(_logits(), _pairs(torch.eye(6))))
        return
    loss, gradient = _gradient(objective, _logits(), _pairs(torch.full((6, 6), -1)))
    assert loss == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize("shape", [(6, 6), (0, 4), (4, 0), (0, 0)], ids=str)
def test_without_positives_it_is_defined(objective, shape):
    if objective.kind == "clip" and shape != (0, 0):
        with pytest.raises(ConfigError):
            objective(_logits(shape), _pairs(torch.zeros(shape)))
        return
    loss, gradient = _gradient(objective, _logits(shape), _pairs(torch.zeros(shape)))
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()


def test_only_ratios_of_weights_matter(objective):
    logits, pairs = _logits(), _pairs(torch.eye(6))
    plain = objective(logits, pairs)
    for constant in (1.0, 0.125, 1e-3):
        torch.testing.assert_close(objective(logits, _pairs(torch.eye(6), weights=torch.full((6,), constant))), plain)
    weights = torch.tensor([5.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    assert not torch.isclose(objective(logits, _pairs(torch.eye(6), weights=weights)), plain)


def test_a_text_that_counts_nothing_is_still_a_negative(objective):
    """Such a text must not be raised anywhere, and is lowered where it is not true."""
    pairs = _pairs(torch.eye(7, 6), weights=torch.tensor([1.0] * 6 + [0.0]))
    _, gradient = _gradient(objective, _logits((7, 6)), pairs)
    assert (gradient[6] > 0).all()


def test_autocast_and_half_precision_change_nothing(objective):
    logits, pairs = (
        _logits(scale=5.0).bfloat16(),
        _pairs(torch.eye(6), weights=torch.rand(6), hardness=torch.rand(6, 6)),
    )
    expected, gradient = _gradient(objective, logits.float(), pairs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, its_gradient = _gradient(objective, logits.float(), pairs)
        half = objective(logits, pairs)
    assert found.dtype == half.dtype == torch.float32
    torch.testing.assert_close((found, half), (expected, expected), rtol=0, atol=0)
    torch.testing.assert_close(its_gradient, gradient, rtol=0, atol=0)


def test_a_compiled_graph_is_whole_and_equal(objective):
    """No value is read back while training: neither `.item()` nor a branch on data."""
    logits, pairs = _rich(objective)
    names = [field.name for field in fields(pairs)]
    torch.compiler.reset()
    compiled = torch.compile(
        lambda z, *given: objective(z, Pairs(**dict(zip(names, given, strict=True)))),
        backend="eager", fullgraph=True,
    )  # fmt: skip
    torch.testing.assert_close(compiled(logits, *(getattr(pairs, name) for name in names)), objective(logits, pairs))


def test_little_is_kept_for_the_backward_pass(objective):
    """At most three matrices of the logits' size in float32 and three of bytes: the objective is never the peak."""
    logits = _logits((60, 60)).requires_grad_()
    pairs = _pairs(torch.eye(60), weights=torch.rand(60), hardness=torch.rand(60, 60))
    inputs = {value.data_ptr() for value in (logits, *(getattr(pairs, field.name) for field in fields(pairs)))}
    kept = {}

    def note(value):
        if value.data_ptr() not in inputs and value.untyped_storage().nbytes() >= logits.numel():
            kept[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes() // logits.numel()
        return value

    with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        loss = objective(logits, pairs)
    sizes = list(kept.values())
    assert loss.requires_grad
    assert sizes.count(4) + sizes.count(1) == len(sizes) > 0
    assert sizes.count(4) <= 3
    assert sizes.count(1) <= 3


def test_it_survives_yaml(objective):
    assert f"kind: {objective.kind}" in dump(objective)


@pytest.mark.parametrize("world", SPLITS)
def test_ranks_give_the_loss_and_gradient_of_one_process(objective, world, ranks):
    """The mean over ranks of what each finds, images ragged, one rank without any and one without a positive."""
    logits, pairs = _rich(objective)
    loss, gradient = _gradient(objective, logits, pairs)
    name = f"{NAMES[OBJECTIVES.index(objective)]} {world}"
    for found in ranks[:world]:
        torch.testing.assert_close(found[name][0], loss, rtol=1e-9, atol=0)
    together = torch.cat([found[name][1] for found in ranks[:world]], dim=1) / world
    torch.testing.assert_close(together, gradient, rtol=1e-9, atol=1e-12)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of four processes found; they start once for everything."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    started = [
        subprocess.Popen([sys.executable, __file__, str(folder), str(rank)], env=environment, stderr=subprocess.PIPE)
        for rank in range(max(SPLITS))
    ]
    try:
        errors = [process.communicate(timeout=120)[1].decode() for process in started]
    finally:
        for process in started:
            process.kill()
    assert not any(process.returncode for process in started), "\n".join(errors)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(len(started))]


def _rank(folder, rank):
    """One process: every objective among the first 1, 2 and 4 ranks."""
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meet",
        rank=rank,
        world_size=max(SPLITS),
        timeout=timedelta(seconds=60),
    )
    found = {}
    for world, split in SPLITS.items():
        group = torch.distributed.new_group(list(range(world)))
        if rank >= world:
            continue
        images = slice(sum(split[:rank]), sum(split[: rank + 1]))
        for objective, name in zip(OBJECTIVES, NAMES, strict=True):
            logits, pairs = _rich(objective)
            found[f"{name} {world}"] = _gradient(
                objective, logits[:, images], _take(pairs, images=images), Ranks(group)
            )
    torch.save(found, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    _rank(Path(sys.argv[1]), int(sys.argv[2]))
