"""Runs that are killed with SIGKILL again and again: the stitched run is the uninterrupted one, bit for bit."""

import os
import random
import signal
import time
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from tests.train.conftest import NUM_TRAIN, tiny_values, write_shards
from vlp.config import validate
from vlp.train.boundary import StepBoundary
from vlp.train.config import TrainConfig
from vlp.train.run import train
from vlp.train.watching.logbook import read_metrics

Values = dict[str, Any]
CLOCK = {"images_per_s", "data_wait", "memory_gb"}
KILLS, STEPS = 20, 72
_STEP_S = 0.03
"""What a step is stretched to, so that a kill has something to hit."""


@pytest.fixture
def values(tmp_path: Path) -> Values:
    return tiny_values(write_shards(tmp_path / "shards"), tmp_path / "run")


def _start(values: Values, rank: int, world: int, port: int, steps: Any) -> None:
    """One process of a run, as torchrun starts it; in a process group of its own, workers included."""
    os.setpgrp()
    torch.set_num_threads(1)
    boundary = StepBoundary.on_train_batch_end

    def slowly(self: StepBoundary, *arguments: Any) -> None:
        time.sleep(_STEP_S)
        boundary(self, *arguments)
        steps.value += rank == 0

    StepBoundary.on_train_batch_end = slowly  # type: ignore[method-assign]
    if world > 1:
        os.environ |= {
            "TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0", "RANK": str(rank), "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }  # fmt: skip
    try:
        train(validate(TrainConfig, values | {"devices": world}, where="test"))
    except BaseException:
        os._exit(1)
    os._exit(0)


def _train(values: Values, world: int, *, kill_after: float | None = None) -> bool:
    """Starts a run on `world` processes, kills all of it after so many steps; whether it came to its end."""
    context, port = get_context("fork"), 20_000 + random.randrange(20_000)
    steps = context.Value("i", 0)
    processes = [context.Process(target=_start, args=(values, rank, world, port, steps)) for rank in range(world)]
    for process in processes:
        process.start()
    if kill_after is None:
        for process in processes:
            process.join()
    else:
        whole, rest = divmod(kill_after, 1.0)
        while steps.value < whole and any(process.is_alive() for process in processes):
            time.sleep(0.002)
        time.sleep(2.0 * _STEP_S * rest)
        for process in processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid or 0, signal.SIGKILL)
            process.kill()  # one that has no group of its own yet
    for process in processes:
        process.join()
    return all(process.exitcode == 0 for process in processes)


def _seen(folder: Path) -> list[dict[str, str]]:
    rows = read_metrics(folder / "metrics.csv")
    return [{name: cell for name, cell in row.items() if name not in CLOCK} for row in rows]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("world", [1, 2])
def test_twenty_kills_change_no_bit(values: Values, tmp_path: Path, world: int) -> None:
    loader = values["loader"] | {"workers": 2, "batch_studies": 4, "sentences_per_study": 2}
    values |= {"max_steps": STEPS, "record_samples": True, "checkpoint_every": 3, "loader": loader}
    values |= {"zero_shot": {"every": 10}, "averaging": {"decay": 0.9}}
    whole, killed = values | {"output": str(tmp_path / "whole")}, values | {"output": str(tmp_path / "killed")}
    assert _train(whole, world)
    rng = random.Random(world)
    for _ in range(KILLS):
        assert not _train(killed, world, kill_after=rng.uniform(0.0, 7.0)), "the run was over before it was hit"
    assert _train(killed, world)
    one, other = Path(whole["output"]), Path(killed["output"])
    assert _seen(other) == _seen(one)
    assert len(_seen(one)) == STEPS
    assert pd.read_parquet(other / "samples.parquet").equals(pd.read_parquet(one / "samples.parquet"))
    weights = [load_file(folder / "checkpoints" / "final" / "weights.safetensors") for folder in (one, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 4])
def test_on_another_number_of_processes_the_rest_of_the_epoch_is_seen_exactly_once(values: Values, world: int) -> None:
    loader = values["loader"] | {"batch_studies": 2, "workers": 1}
    values |= {"record_samples": True, "checkpoint_every": 1, "loader": loader}
    folder = Path(values["output"])
    # An epoch of 22 studies is 6 steps of 2 processes; the first run is stopped after 2 by its clock.
    first = values | {"max_steps": 40, "max_minutes": 1e-9}
    assert _train(first, 2)
    before = pd.read_parquet(folder / "samples.parquet")
    per_process = loader | {"batch_studies": 4 // world}
    assert _train(first | {"loader": per_process, "max_minutes": 0.05}, world)
    table = pd.read_parquet(folder / "samples.parquet")
    assert table[: len(before)].equals(before)
    assert 0 < len(before) < NUM_TRAIN
    epochs = [len(seen) for _, seen in table.groupby("epoch")]
    assert len(epochs) > 2, "some whole epochs afterwards, too"
    for _, seen in table[table.epoch < table.epoch.max()].groupby("epoch"):
        assert len(seen) == NUM_TRAIN
        assert seen.key.is_unique
