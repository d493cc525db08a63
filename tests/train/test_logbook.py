from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from vlp.train.logbook import Logbook, MetricsFile, SamplesFile, read_metrics
from vlp.train.processes import Processes
from vlp.train.wandb_log import WandbConfig, WandbLog


def test_cells_keep_float32_exactly_and_missing_ones_stay_empty(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.csv", ("step", "loss", "check"))
    values = np.random.default_rng(0).standard_normal(50).astype(np.float32)
    for step, value in enumerate(values, start=1):
        file.append({"step": step, "loss": torch.tensor(value)})
    file.flush()
    rows = read_metrics(tmp_path / "metrics.csv")
    assert np.array_equal(np.array([row["loss"] for row in rows]).astype(np.float32), values)
    assert {row["check"] for row in rows} == {""}


def test_continuing_drops_later_rows_and_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss\n1,0.5\n2,0.25\n3,0.125\n4")
    file = MetricsFile(path, ("step", "loss"), after_step=2)
    file.append({"step": 3, "loss": 9.0})
    file.flush()
    assert path.read_text().split() == ["step,loss", "1,0.5", "2,0.25", "3,9"]


def test_a_new_run_starts_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss\n1,0.5\n")
    MetricsFile(path, ("step", "loss"))
    assert read_metrics(path) == []


def test_an_unannounced_column_is_our_own_mistake(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.csv", ("step",))
    with pytest.raises(AssertionError):
        file.append({"step": 1, "los": 0.5})


def test_no_file_has_no_rows(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics.csv") == []


def test_samples_are_one_row_a_study_and_are_cut_when_continued(tmp_path: Path) -> None:
    path = tmp_path / "samples.parquet"
    file = SamplesFile(path)
    file.append(step=1, epoch=0, keys=("a", "b"))
    file.append(step=2, epoch=0, keys=("c",))
    file.flush()
    file.append(step=3, epoch=1, keys=("b",))
    file.flush()
    assert pd.read_parquet(path).values.tolist() == [[1, 0, "a"], [1, 0, "b"], [2, 0, "c"], [3, 1, "b"]]
    again = SamplesFile(path, after_step=1)
    again.append(step=2, epoch=0, keys=("d",))
    again.flush()
    assert pd.read_parquet(path).values.tolist() == [[1, 0, "a"], [1, 0, "b"], [2, 0, "d"]]


def test_samples_without_a_path_write_nothing(tmp_path: Path) -> None:
    file = SamplesFile(None)
    file.append(step=1, epoch=0, keys=("a",))
    file.flush()
    assert list(tmp_path.iterdir()) == []


def test_metrics_without_a_path_write_nothing(tmp_path: Path) -> None:
    file = MetricsFile(None, ("step",))
    file.append({"step": 1})
    assert file.flush() == []
    assert list(tmp_path.iterdir()) == []


def test_samples_of_all_processes_are_one_file_by_step_and_rank(connected: Any, tmp_path: Path) -> None:
    path = tmp_path / "samples.parquet"

    def work(rank: int) -> None:
        file = SamplesFile(path, processes=Processes(), leads=rank == 0)
        for step in (1, 2):
            file.append(step=step, epoch=0, keys=(f"ä{rank}-{step}",) * (rank + 1))
        file.flush()
        file.append(step=3, epoch=1, keys=() if rank else ("last",))
        file.flush()

    assert connected(2, work) == [0, 0]
    assert pd.read_parquet(path).values.tolist() == [
        [1, 0, "ä0-1"], [1, 0, "ä1-1"], [1, 0, "ä1-1"], [2, 0, "ä0-2"], [2, 0, "ä1-2"], [2, 0, "ä1-2"], [3, 1, "last"]
    ]  # fmt: skip


def test_logbook_hands_read_numbers_to_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, dict[str, Any]]] = []
    wandb = WandbLog(WandbConfig(mode="disabled"), folder=tmp_path, settings={}, run_id="x")
    monkeypatch.setattr(wandb, "log", lambda row, *, step: sent.append((step, dict(row))))
    metrics = MetricsFile(tmp_path / "metrics.csv", ("step", "epoch", "loss"))
    logbook = Logbook(metrics=metrics, samples=SamplesFile(tmp_path / "samples.parquet"), wandb=wandb)
    logbook.append({"loss": torch.tensor(0.5)}, step=1, epoch=0, keys=("a",))
    assert sent == []
    logbook.flush()
    assert sent == [(1, {"step": 1, "epoch": 0, "loss": 0.5})]
    assert not (tmp_path / "samples.parquet").exists()
    logbook.flush_samples()
    assert len(pd.read_parquet(tmp_path / "samples.parquet")) == 1
