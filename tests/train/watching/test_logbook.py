import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from vlp.train.processes import Processes
from vlp.train.watching.logbook import Logbook, MetricsFile, SamplesFile, note_start, read_metrics, summary


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


class Heard:
    """A sink that notes what it is told, and fails when asked to."""

    def __init__(self, name: str, *, fails: bool = False) -> None:
        self.name = name
        self.rows: list[tuple[int, dict[str, Any]]] = []
        self.finished = 0
        self._fails = fails

    def log(self, row: Mapping[str, Any], *, step: int) -> None:
        if self._fails:
            raise OSError(28, "No space left on device")
        self.rows.append((step, dict(row)))

    def finish(self) -> None:
        self.finished += 1
        if self._fails:
            raise RuntimeError("cannot be closed\nand more")


def a_logbook(folder: Path, *sinks: Heard) -> Logbook:
    metrics = MetricsFile(folder / "metrics.csv", ("step", "epoch", "loss"))
    return Logbook(metrics=metrics, samples=SamplesFile(folder / "samples.parquet"), sinks=sinks)


def test_logbook_hands_read_numbers_to_every_sink(tmp_path: Path) -> None:
    first, second = Heard("wandb"), Heard("TensorBoard")
    logbook = a_logbook(tmp_path, first, second)
    logbook.append({"loss": torch.tensor(0.5)}, step=1, epoch=0, keys=("a",))
    assert first.rows == []
    logbook.flush()
    assert first.rows == second.rows == [(1, {"step": 1, "epoch": 0, "loss": 0.5})]
    assert not (tmp_path / "samples.parquet").exists()
    logbook.flush_samples()
    assert len(pd.read_parquet(tmp_path / "samples.parquet")) == 1
    logbook.finish()
    logbook.finish()
    assert (first.finished, second.finished) == (1, 1)


def test_a_sink_that_fails_is_told_of_once_and_the_rest_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken, good = Heard("TensorBoard", fails=True), Heard("wandb")
    logbook = a_logbook(tmp_path, broken, good)
    for step in (1, 2, 3):
        logbook.append({"loss": 0.5}, step=step, epoch=0, keys=())
        logbook.flush()
    logbook.finish()
    (message,) = caplog.messages
    assert "TensorBoard fails (OSError" in message
    assert message.endswith("training goes on without it")
    assert [step for step, _ in good.rows] == [1, 2, 3]
    assert (broken.finished, good.finished) == (0, 1)
    assert len(read_metrics(tmp_path / "metrics.csv")) == 3


def test_a_sink_that_cannot_be_closed_is_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    broken, good = Heard("TensorBoard", fails=True), Heard("wandb")
    a_logbook(tmp_path, broken, good).finish()
    assert caplog.messages == ["TensorBoard fails (RuntimeError: cannot be closed); training goes on without it"]
    assert good.finished == 1


def test_every_start_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "starts.csv"
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    note_start(path, step=0, processes=1)
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    note_start(path, step=120, processes=4)
    rows = read_metrics(path)
    assert [(row["step"], row["processes"], row["job"]) for row in rows] == [("0", "1", ""), ("120", "4", "77")]
    assert all(row["host"] and row["time"].startswith("20") for row in rows)


def test_a_summary_is_made_of_what_the_run_wrote(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(
        "step,epoch,loss,images_per_s,data_wait,memory_gb,replaced,skipped,zero_shot_auroc\n"
        "1,0,3.0,10,0.5,1.0,1,0,\n2,0,2.5,30,0.1,2.0,2,0,0.6\n3,1,nan,20,0.0,1.5,0,1,\n4,1,1"
    )
    note_start(tmp_path / "starts.csv", step=0, processes=1)
    note_start(tmp_path / "starts.csv", step=2, processes=1)
    expected = {
        "run": str(tmp_path), "finished": False, "steps": 3, "epochs": 2, "loss": 2.5, "zero_shot_auroc": 0.6,
        "images_per_s": 20.0, "data_wait": 0.2, "memory_gb": 2.0, "replaced": 3, "skipped": 1, "starts": 2,
    }  # fmt: skip
    assert summary(tmp_path) == expected
    (tmp_path / "checkpoints" / "final").mkdir(parents=True)
    final = {"finished": True, "checkpoint": str(tmp_path / "checkpoints" / "final")}
    assert summary(tmp_path) == expected | final


def test_an_older_run_has_fewer_facts_and_an_empty_one_hardly_any(tmp_path: Path) -> None:
    assert summary(tmp_path) == {"run": str(tmp_path), "finished": False, "steps": 0}
    (tmp_path / "metrics.csv").write_text("step,epoch,loss,images_per_s,zero_shot_auroc\n1,0,3.0,10,\n")
    assert summary(tmp_path) == {
        "run": str(tmp_path), "finished": False, "steps": 1, "epochs": 1, "loss": 3.0, "zero_shot_auroc": None,
        "images_per_s": 10.0,
    }  # fmt: skip


def test_reading_a_run_needs_no_torch() -> None:
    program = (
        "import sys, vlp.train.watching.logbook; assert 'torch' not in sys.modules; assert 'wandb' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
