import os
import signal
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from vlp.config import validate
from vlp.data import open_shards
from vlp.model.model import build
from vlp.tensors import Batch
from vlp.train.config import TrainConfig
from vlp.train.stream import BatchStream


@pytest.fixture
def parts(values: dict[str, Any], shards: Path) -> dict[str, Any]:
    config = validate(TrainConfig, values, where="test")
    return {
        "reader": open_shards(shards),
        "config": config.loader,
        "preprocess": config.model.preprocess,
        "tokenizer": build(config.model).tokenizer,
    }


def places(batches: list[Batch]) -> list[tuple[int, tuple[str, ...]]]:
    return [(batch.position, batch.keys) for batch in batches]


def test_epochs_follow_one_another_each_in_its_own_order(parts: dict[str, Any]) -> None:
    batches = list(islice(BatchStream(**parts), 6))
    assert [batch.position for batch in batches] == [0, 1, 2, 0, 1, 2]
    first, second = ([key for batch in part for key in batch.keys] for part in (batches[:3], batches[3:]))
    assert sorted(first) == sorted(second)
    assert first != second


@pytest.mark.parametrize(("epoch", "position", "skipped"), [(0, 1, 1), (0, 3, 3), (1, 0, 3), (1, 2, 5)])
def test_a_stream_can_begin_anywhere(parts: dict[str, Any], epoch: int, position: int, skipped: int) -> None:
    whole = list(islice(BatchStream(**parts), skipped + 3))
    later = list(islice(BatchStream(**parts, epoch=epoch, position=position), 3))
    assert places(later) == places(whole[skipped:])
    assert all(torch.equal(a.images, b.images) for a, b in zip(later, whole[skipped:], strict=True))


def test_workers_do_not_hear_stop_signals(parts: dict[str, Any]) -> None:
    from multiprocessing import active_children

    config = parts["config"].model_copy(update={"workers": 1})
    stream = iter(BatchStream(**parts | {"config": config}))
    next(stream)
    before = {child.pid for child in active_children()}
    assert before
    for pid in before:
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
    assert [next(stream).position for _ in range(2)] == [1, 2]
    del stream


def test_ranks_share_an_epoch(parts: dict[str, Any]) -> None:
    steps = 2  # 22 studies, two ranks of at most 8
    seen = [
        key
        for rank in (0, 1)
        for batch in islice(BatchStream(**parts, rank=rank, world=2), steps)
        for key in batch.keys
    ]
    assert sorted(seen) == sorted(parts["reader"].keys("train"))
