"""Whole runs on a tiny folder: what they write, how they stop, and that a stopped run goes on as if it never had."""

import csv
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from vlp.config import load, validate
from vlp.errors import BackendError, CheckpointError, ConfigError, DataError
from vlp.model import checkpoint
from vlp.train.boundary import StepBoundary
from vlp.train.config import TrainConfig
from vlp.train.run import train
from vlp.train.signals import Stopped
from vlp.train.watching.logbook import summary

Values = dict[str, Any]
CLOCK = {"images_per_s", "data_wait", "memory_gb"}


def run(values: Values, **changes: Any) -> Path:
    return train(validate(TrainConfig, values | changes, where="test"))


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{name: cell for name, cell in row.items() if name not in CLOCK} for row in csv.DictReader(file)]


def weights(folder: Path, name: str = "final") -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoints" / name / "weights.safetensors")


def newest(folder: Path) -> Path:
    return max((folder / "checkpoints").glob("step-*"))


def same_weights(first: Path, second: Path) -> bool:
    one, other = weights(first), weights(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int, how: Any) -> None:
    """Makes `how` happen while `step` is being trained, before its boundary."""
    boundary = StepBoundary.on_train_batch_end

    def wrapped(self: StepBoundary, *arguments: Any) -> None:
        if self.progress.step + 1 == step:
            how()
        boundary(self, *arguments)

    monkeypatch.setattr(StepBoundary, "on_train_batch_end", wrapped)


@pytest.fixture
def whole(values: Values, tmp_path: Path) -> Path:
    return run(values, output=str(tmp_path / "whole"), max_steps=7, record_samples=True, zero_shot={"every": 2})


def test_a_run_writes_what_the_design_says(whole: Path, values: Values) -> None:
    assert load(TrainConfig, whole / "config.yaml").max_steps == 7
    table = rows(whole)
    assert [int(row["step"]) for row in table] == list(range(1, 8))
    assert [int(row["epoch"]) for row in table] == [0, 0, 0, 1, 1, 1, 2]
    assert [bool(row["zero_shot_auroc"]) for row in table] == [False, True, False, True, False, True, True]
    assert {"loss", "lr", "gradient_norm", "collisions", "temperature", "attention_temperature"} <= set(table[0])
    assert float(table[1]["lr"]) == pytest.approx(1e-3)
    assert "all steps done at step 7" in (whole / "log.txt").read_text()
    model = checkpoint.load(whole / "checkpoints" / "final")
    assert torch.equal(model.state_dict()["scorer.temperature.log"], weights(whole)["scorer.temperature.log"])
    facts = summary(whole)
    assert facts["finished"]
    assert facts["steps"] == 7
    assert facts["loss"] == float(table[-1]["loss"])


def test_every_study_is_seen_once_an_epoch(whole: Path) -> None:
    samples = pd.read_parquet(whole / "samples.parquet")
    for _, seen in samples[samples.epoch < 2].groupby("epoch"):
        assert len(seen) == 22
        assert seen.key.is_unique


def test_training_moves_weights_and_temperatures(whole: Path) -> None:
    temperatures = [float(row["temperature"]) for row in rows(whole)]
    assert len(set(temperatures)) == 7


@pytest.mark.parametrize(
    ("step", "name"), [(1, "SIGTERM"), (3, "SIGTERM"), (4, "SIGTERM"), (3, "SIGINT"), (6, "SIGUSR1")]
)
def test_a_signalled_run_continues_bit_for_bit(
    values: Values, whole: Path, monkeypatch: pytest.MonkeyPatch, step: int, name: str
) -> None:
    values |= {"max_steps": 7, "record_samples": True, "zero_shot": {"every": 2}}
    with monkeypatch.context() as patch:
        interrupt_at(patch, step, lambda: os.kill(os.getpid(), getattr(signal, name)))
        with pytest.raises(Stopped):
            run(values)
    folder = Path(values["output"])
    assert [row["step"] for row in rows(folder)] == [str(number) for number in range(1, step + 1)]
    assert not (folder / "checkpoints" / "final").exists()
    assert f"stopped by {name} at step {step}" in (folder / "log.txt").read_text()
    run(values)
    assert rows(folder) == rows(whole)
    assert same_weights(folder, whole)
    assert pd.read_parquet(folder / "samples.parquet").equals(pd.read_parquet(whole / "samples.parquet"))


def test_a_killed_run_repeats_what_was_not_saved(values: Values, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def die() -> None:
        raise Killed

    values |= {"max_steps": 7, "record_samples": True, "zero_shot": {"every": 2}, "checkpoint_every": 2}
    with monkeypatch.context() as patch:
        interrupt_at(patch, 6, die)
        with pytest.raises(Killed):
            run(values)
    folder = run(values)
    assert rows(folder) == rows(whole)
    assert same_weights(folder, whole)
    assert pd.read_parquet(folder / "samples.parquet").equals(pd.read_parquet(whole / "samples.parquet"))


def test_signal_handlers_are_given_back(values: Values) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    run(values, max_steps=1)
    assert {number: signal.getsignal(number) for number in before} == before


def test_a_frozen_text_tower_and_workers_change_nothing_about_resuming(
    values: Values, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values["model"]["text"] = values["model"]["text"] | {"freeze": "all", "head": "mlp"}
    values["loader"] = values["loader"] | {"sentences_per_study": 1, "images_per_study": "all"}
    whole = run(values, output=str(tmp_path / "whole"))
    values["loader"] = values["loader"] | {"workers": 1}
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Stopped):
            run(values)
    assert same_weights(run(values), whole)


def test_a_finished_run_is_left_alone(values: Values, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(values, max_steps=1)
    before = (folder / "metrics.csv").stat().st_mtime_ns
    run(values, max_steps=1)
    assert (folder / "metrics.csv").stat().st_mtime_ns == before


def test_another_configuration_is_refused_by_its_keys(values: Values) -> None:
    folder = run(values, max_steps=1)
    before = (folder / "config.yaml").read_text()
    with pytest.raises(ConfigError, match=r"optimizer\.lr: 0\.001 there, 0\.5 now") as caught:
        run(values, max_steps=1, optimizer={"lr": 0.5})
    assert "max_steps" not in str(caught.value)
    assert (folder / "config.yaml").read_text() == before


def test_other_shards_are_refused(values: Values, tmp_path: Path) -> None:
    run(values, max_steps=1, max_minutes=1e-9)
    copy = tmp_path / "copy"
    shutil.copytree(values["shards"], copy)
    run(values, max_steps=1, shards=str(copy))  # the same shards elsewhere are the same shards
    (copy / "manifest.json").write_text((copy / "manifest.json").read_text() + "\n")
    shutil.rmtree(Path(values["output"]) / "checkpoints" / "final")
    with pytest.raises(DataError, match="not the shards this run began with"):
        run(values, max_steps=1, shards=str(copy))


def test_a_time_budget_ends_the_run_and_a_larger_one_continues_it(values: Values, tmp_path: Path) -> None:
    whole = run(values, output=str(tmp_path / "whole"))
    folder = run(values, max_minutes=1e-9)
    assert len(rows(folder)) == 1
    assert (folder / "checkpoints" / "final").exists()
    run(values, max_minutes=1e-9)
    assert len(rows(folder)) == 1
    run(values, max_minutes=10.0)
    assert same_weights(folder, whole)


def test_keep_best_takes_the_weights_of_the_best_check(values: Values) -> None:
    folder = run(values, max_steps=4, zero_shot={"every": 1}, keep="best", optimizer={"lr": 0.05})
    checks = [float(row["zero_shot_auroc"]) for row in rows(folder)]
    card = checkpoint.read_card(folder / "checkpoints" / "final")
    assert card["step"] == checks.index(max(checks)) + 1
    assert card["zero_shot_check_auroc"] == pytest.approx(max(checks), abs=1e-4)


def test_a_damaged_training_state_is_one_plain_error(values: Values) -> None:
    folder = run(values, max_steps=1)
    (newest(folder) / "training_state.pt").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="no whole checkpoint is left"):
        run(values, max_steps=1)


def test_a_lost_training_state_does_not_start_the_run_anew(values: Values) -> None:
    folder = run(values, max_steps=1)
    (newest(folder) / "training_state.pt").unlink()
    written = (folder / "metrics.csv").read_text()
    with pytest.raises(CheckpointError, match="no whole checkpoint is left"):
        run(values, max_steps=1)
    assert (folder / "metrics.csv").read_text() == written


def test_an_output_that_cannot_be_written_is_one_plain_error(values: Values, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for output in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(DataError, match="cannot be read or written: Not a directory"):
            run(values, output=str(output))


def test_batch_statistics_continue_bit_for_bit(values: Values, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tower = {"kind": "timm", "name": "resnet10t", "stage": 1}
    values |= {"model": values["model"] | {"image": tower}, "max_steps": 4, "zero_shot": {"every": 1}}
    whole = run(values, output=str(tmp_path / "whole"))
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Stopped):
            run(values)
    folder = run(values)
    running = {name: value for name, value in weights(folder).items() if "running_" in name or "num_batches" in name}
    assert any(name.endswith("running_var") for name in running)
    assert {int(value) for name, value in running.items() if name.endswith("num_batches_tracked")} == {4}
    assert same_weights(folder, whole)
    assert rows(folder) == rows(whole)


def test_what_cannot_run_is_refused_before_anything_is_written(values: Values) -> None:
    for changes, error, words in (
        ({"precision": "16-mixed", "accelerator": "cpu"}, ConfigError, "needs a GPU"),
        ({"shards": "/nowhere"}, DataError, "nowhere"),
    ):
        with pytest.raises(error, match=words):
            run(values, **changes)
    if not torch.cuda.is_available():
        with pytest.raises(BackendError, match="no GPU"):
            run(values, accelerator="gpu")
    assert not Path(values["output"]).exists()


@pytest.mark.parametrize(("fast", "chosen"), [(True, "bf16-mixed"), (False, "32")])
def test_automatic_precision_follows_the_cpu_and_says_so(
    values: Values, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fast: bool, chosen: str
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: fast)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    run(values, precision="auto", accelerator="cpu", max_steps=1)
    log = (Path(values["output"]) / "log.txt").read_text()
    assert f"precision=auto: {chosen}" in log + caplog.text


def test_distinct_text_weights_change_what_is_learned(values: Values, tmp_path: Path) -> None:
    tables = [
        rows(run(values | {"output": str(tmp_path / how)}, text_weights=how)) for how in ("occurrence", "distinct")
    ]
    assert tables[0][-1]["loss"] != tables[1][-1]["loss"]


def test_a_loss_that_is_not_finite_ends_the_run(values: Values) -> None:
    with pytest.raises(ConfigError, match=r"not a finite number at step 4; lower optimizer\.lr"):
        run(values, optimizer={"lr": 1e30}, gradient_clip=0.0, schedule={"warmup_steps": 0})
    folder = Path(values["output"])
    assert [row["skipped"] for row in rows(folder)] == ["0", "1", "1"]
    assert len((folder / "skipped.jsonl").read_text().splitlines()) == 3


def test_the_temperature_moves_in_mixed_precision(values: Values) -> None:
    """Weights in bfloat16 would hold it still: a step is far below their last digit."""
    folder = run(values, precision="bf16-mixed", accelerator="cpu", max_steps=3, schedule={"warmup_steps": 0})
    for name in ("temperature", "attention_temperature"):
        moved = [float(row[name]) for row in rows(folder)]  # as each step began
        assert len(set(moved)) == 3
        logarithm = weights(folder)[f"scorer.{name}.log"]
        assert logarithm.dtype == torch.float32
        assert float(logarithm) != float(logarithm.bfloat16())


def test_micro_batches_train_as_whole_ones(still_values: Values, tmp_path: Path) -> None:
    tables = [
        rows(run(still_values, output=str(tmp_path / f"{micro}-{precision}"), micro_batch=micro, precision=precision))
        for micro, precision in ((None, "32"), (3, "32"), (3, "bf16-mixed"))
    ]
    for row, other, mixed in zip(*tables, strict=True):
        assert float(other["loss"]) == pytest.approx(float(row["loss"]), rel=1e-4)
        assert float(mixed["loss"]) == pytest.approx(float(row["loss"]), rel=0.1)


def test_bfloat16_and_further_terms_train(values: Values) -> None:
    values["loader"] = values["loader"] | {"images_per_study": "all"}
    nce = {"kind": "multi_positive_nce"}
    terms = [{"objective": nce, "on": "pooled", "weight": 0.5}, {"objective": nce, "on": "image_image", "weight": 0.25}]
    table = rows(run(values, precision="bf16-mixed", terms=terms))
    for row in table:
        parts = [float(row[name]) for name in ("loss_scores", "loss_pooled", "loss_image_image")]
        assert float(row["loss"]) == pytest.approx(sum(parts), rel=1e-5)
        assert all(part > 0 for part in parts)
