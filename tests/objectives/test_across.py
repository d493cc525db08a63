"""Sums over real processes: the values, their adjoints, nothing on one or on all ranks, and what DDP makes of it."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vlp.objectives import ALONE, Pairs, Ranks, multi_positive_nce

INF = float("inf")
WORLD = 2
VALUES = torch.tensor([[0.3, -INF, -INF, -1e30, -1e30, 900.0, -900.0], [1.2, 0.5, -INF, 2.0, -1e30, 905.0, -905.0]])
COST = torch.tensor([1.0, -2.0, 3.0, 0.5, 7.0, 1.5, 0.25])
SPLIT = (3, 1)
IMAGES = torch.randn(sum(SPLIT), 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TEXTS = torch.randn(5, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
POSITIVES = torch.tensor([[1, 0, 0, 0], [1, 0, 0, 1], [0, 1, 0, -1], [0, 0, 0, 0], [0, 1, 0, 0]], dtype=torch.int8)


def _tower():
    torch.manual_seed(5)
    return torch.nn.Linear(3, 2).double()


def _loss(tower, images, positives, across):
    pairs = Pairs(positives=positives, own=positives > 0)
    return multi_positive_nce(TEXTS @ tower(images).T, pairs, across=across)


def _rank(folder, rank):
    """What one process does; its results are read by the tests."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD)
    across, found = Ranks(), {}
    for dtype in (torch.float32, torch.float64):
        value = VALUES[rank].to(dtype).requires_grad_()
        joined = across.logsumexp(value)
        (joined * COST).sum().backward()
        found[f"logsumexp {dtype}"], found[f"logsumexp gradient {dtype}"] = joined.detach(), value.grad
    value = torch.tensor([1.0 + rank, 5.0 - rank], requires_grad=True)
    total = across.sum(value)
    (total.sum() ** 2).backward()
    found |= {"sum": total.detach(), "sum gradient": value.grad, "count": across.sum(torch.tensor([rank, 3]))}
    tower = torch.nn.parallel.DistributedDataParallel(_tower())
    images, positives = (torch.split(whole, SPLIT, dim)[rank] for whole, dim in ((IMAGES, 0), (POSITIVES, 1)))
    loss = _loss(tower, images, positives, across)
    loss.backward()
    found |= {"loss": loss.detach(), "weight": tower.module.weight.grad, "bias": tower.module.bias.grad}
    torch.save(found, f"{folder}/{rank}.pt")
    # DDP sits in a reference cycle and holds the group: freed at the interpreter's end, it would abort the process.
    del tower, loss
    gc.collect()
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    started = [
        subprocess.Popen([sys.executable, __file__, str(folder), str(rank)], env=environment, stderr=subprocess.PIPE)
        for rank in range(WORLD)
    ]
    try:
        errors = [process.communicate(timeout=120)[1].decode() for process in started]
    finally:
        for process in started:
            process.kill()
    assert not any(process.returncode for process in started), "\n".join(errors)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_logsumexp_is_that_of_all_ranks(ranks, dtype):
    expected = torch.logsumexp(VALUES.to(dtype), dim=0).clamp_min(torch.finfo(dtype).min)
    for found in ranks:
        torch.testing.assert_close(found[f"logsumexp {dtype}"], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_its_gradient_is_the_share_of_each_rank_and_never_nan(ranks, dtype):
    """Every rank's loss asks once: the shares add up to the number of ranks, or to 0 where there is nothing."""
    shares = torch.softmax(VALUES.to(dtype), dim=0).nan_to_num(0.0)
    for rank, found in enumerate(ranks):
        torch.testing.assert_close(found[f"logsumexp gradient {dtype}"], WORLD * shares[rank] * COST.to(dtype))


def test_sum_and_its_adjoint(ranks):
    for found in ranks:
        assert found["sum"].tolist() == [3.0, 9.0]
        assert found["sum gradient"].tolist() == [WORLD * 2 * 12.0] * 2
        assert found["count"].tolist() == [1, 6]


def test_ddp_gives_the_gradient_of_one_process(ranks):
    tower = _tower()
    loss = _loss(tower, IMAGES, POSITIVES, ALONE)
    loss.backward()
    for found in ranks:
        torch.testing.assert_close(found["loss"], loss.detach(), rtol=1e-12, atol=0)
        torch.testing.assert_close(found["weight"], tower.weight.grad, rtol=1e-10, atol=1e-14)
        torch.testing.assert_close(found["bias"], tower.bias.grad, rtol=1e-10, atol=1e-14)


def test_alone_there_is_nothing_to_join():
    value = torch.randn(3)
    assert ALONE.sum(value) is value
    assert ALONE.logsumexp(value) is value


if __name__ == "__main__":
    _rank(Path(sys.argv[1]), int(sys.argv[2]))
