"""Whole tiny runs with everything that can be switched on, and with everything that can go wrong in a step."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from tests.train.conftest import still_model, tiny_values, write_shards
from vlp.config import dump, validate
from vlp.errors import CheckpointError, ConfigError, DataError
from vlp.model import checkpoint
from vlp.model.model import VisionLanguageModel
from vlp.train.boundary import StepBoundary
from vlp.train.config import TrainConfig
from vlp.train.run import train
from vlp.train.saving import store
from vlp.train.signals import Stopped
from vlp.train.watching.logbook import read_metrics

Values = dict[str, Any]
CLOCK = {"images_per_s", "data_wait", "memory_gb"}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("options") / "shards")


@pytest.fixture
def values(shards: Path, tmp_path: Path) -> Values:
    return tiny_values(shards, tmp_path / "run")


def run(values: Values, **changes: Any) -> Path:
    return train(validate(TrainConfig, values | changes, where="test"))


def seen(folder: Path) -> list[dict[str, str]]:
    rows = read_metrics(folder / "metrics.csv")
    return [{name: cell for name, cell in row.items() if name not in CLOCK} for row in rows]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoints" / "final" / "weights.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def spoil(monkeypatch: pytest.MonkeyPatch, calls: set[int]) -> None:
    """Makes every image feature of these training passes, counted from 1, a NaN."""
    clean, count = VisionLanguageModel.project, 0

    def project(self: VisionLanguageModel, features: Any) -> Any:
        nonlocal count
        found = clean(self, features)
        count += self.training
        if self.training and count in calls:
            found.patches.data.fill_(math.nan)
        return found

    monkeypatch.setattr(VisionLanguageModel, "project", project)


OPTIONS: dict[str, Values] = {
    "averaging": {"averaging": {"decay": 0.5}},
    "resolution": {"resolution": [{"until": 0.5, "size": 16}]},
    "layer decay": {"optimizer": {"lr": 1e-3, "layer_decay": {"image": 0.7, "text": 0.8}}},
    "checkpointing": {"activation_checkpointing": True},
    "windows": {"loader": {"batch_studies": 8, "workers": 1, "shuffle_window": 1}},
    "tensorboard": {"tensorboard": True},
    "channels last": {"channels_last": True},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_stopped_run_goes_on_bit_for_bit_with(
    name: str, values: Values, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values |= OPTIONS[name]
    whole = run(values, output=str(tmp_path / "whole"))
    boundary = StepBoundary.on_train_batch_end

    def interrupted(self: StepBoundary, *arguments: Any) -> None:
        if self.progress.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        boundary(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(StepBoundary, "on_train_batch_end", interrupted)
        with pytest.raises(Stopped):
            run(values)
    folder = run(values)
    assert seen(folder) == seen(whole)
    assert same(weights(folder), weights(whole))
    assert len(read_metrics(folder / "starts.csv")) == 2
    assert (name == "tensorboard") == any((folder / "tensorboard").glob("*tfevents*"))


def test_activation_checkpointing_changes_no_bit(values: Values, tmp_path: Path) -> None:
    plain = run(values, output=str(tmp_path / "plain"))
    assert same(weights(run(values, activation_checkpointing=True)), weights(plain))


def test_a_frozen_tower_asked_once_trains_as_one_asked_again_and_again(values: Values, tmp_path: Path) -> None:
    model = still_model()
    values |= {"model": model | {"image": model["image"] | {"freeze": "all"}}}
    values["loader"] = values["loader"] | {"augment": None, "images_per_study": "all"}
    asked = run(values, output=str(tmp_path / "asked"))
    cached = run(values, feature_cache={"dtype": "float32"})
    for one, other in zip(seen(asked), seen(cached), strict=True):
        assert float(other["loss"]) == pytest.approx(float(one["loss"]), rel=1e-5)
    assert list((cached / "features").iterdir())
    with pytest.raises(ConfigError, match=r"loader\.augment"):
        run(values, output=str(tmp_path / "x"), feature_cache={}, loader=values["loader"] | {"augment": {}})


def test_the_average_is_what_a_run_is_for(values: Values, tmp_path: Path) -> None:
    plain = weights(run(values, output=str(tmp_path / "plain")))
    run(values, averaging={"decay": 0.9, "warmup": False}, zero_shot={"every": 2})
    folder = Path(values["output"])
    averaged, last = weights(folder), load_file(folder / "checkpoints" / "step-00000005" / "weights.safetensors")
    assert same(last, plain), "what is trained is not touched by the average"
    assert not same(averaged, plain)
    assert checkpoint.read_card(folder / "checkpoints" / "final")["averaged"] is True


def test_a_step_of_nans_updates_nothing_and_is_on_record(values: Values, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        spoil(patch, {2})
        folder = run(values, zero_shot={"every": 1})
    rows = seen(folder)
    assert [row["skipped"] for row in rows] == ["0", "1", "0", "0", "0"]
    assert all(math.isfinite(float(row["loss"])) for row in rows if row["skipped"] == "0")
    assert rows[1]["zero_shot_auroc"] == rows[0]["zero_shot_auroc"]
    noted = json.loads((folder / "skipped.jsonl").read_text())
    assert (noted["step"], len(noted["keys"][0])) == (2, 7)
    assert checkpoint.read_card(folder / "checkpoints" / "final")["steps_left_out"] == 1


def test_after_three_in_a_row_a_run_goes_back_and_then_on(values: Values, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        spoil(patch, {4, 5, 6})
        folder = run(values, max_steps=8, checkpoint_every=2)
    rows = seen(folder)
    assert [row["skipped"] for row in rows] == list("00011100")
    assert "weights and optimizer are those of the last checkpoint again" in (folder / "log.txt").read_text()
    assert math.isfinite(float(rows[-1]["loss"]))
    with monkeypatch.context() as patch:
        spoil(patch, set(range(2, 99)))
        with pytest.raises(ConfigError, match=r"not a finite number at step 10; lower optimizer\.lr"):
            run(values, output=values["output"] + "2", max_steps=99, checkpoint_every=1)


def test_a_checkpoint_that_cannot_be_written_ends_the_run_and_costs_no_earlier_one(
    values: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path) -> None:
        if "2" in folder.name + folder.parent.name and threading.current_thread().name == "checkpoint":
            raise OSError(28, "No space left on device")
        sealed(folder)

    sealed = store.seal
    with monkeypatch.context() as patch:
        patch.setattr(store, "seal", full)
        with pytest.raises((CheckpointError, DataError), match="No space left on device"):
            run(values, checkpoint_every=1, max_steps=9)
    folder = Path(values["output"])
    steps = sorted(path.name for path in (folder / "checkpoints").glob("step-*"))
    assert steps == ["step-00000001"]
    run(values, checkpoint_every=1, max_steps=9)
    assert [row["step"] for row in seen(folder)] == [str(number) for number in range(1, 10)]


def test_two_archives_are_trained_on_as_one_and_weights_say_how_often(values: Values, tmp_path: Path) -> None:
    write_shards(tmp_path / "other")
    both = [{"shards": values["shards"]}, {"shards": str(tmp_path / "other"), "weight": 0.5}]
    values |= {"record_samples": True}
    folder = run(values, shards=both, max_steps=8)
    table = pd.read_parquet(folder / "samples.parquet")
    first = table[table.epoch == 0]
    counts = first.key.str.split("/").str[0].value_counts()
    assert dict(counts) == {"shards": 22, "other": 11}
    assert first.key.is_unique
    shutil.rmtree(folder / "checkpoints" / "final")
    with pytest.raises(DataError, match=r"not the shards this run began with.*other is missing"):
        run(values, shards=both[:1], max_steps=8)


def test_a_run_that_fails_with_workers_ends_at_once(values: Values, tmp_path: Path) -> None:
    """Workers hear no SIGTERM, which is how Python asks them to end."""
    loader = values["loader"] | {"workers": 2, "augment": {}}
    (tmp_path / "config.yaml").write_text(dump(validate(TrainConfig, values | {"loader": loader}, where="test")))
    program = (
        "import sys; from vlp.train.boundary import StepBoundary; from vlp.cli.main import main\n"
        "StepBoundary.on_train_batch_end = lambda *arguments: 1 / 0\n"
        f"sys.argv = ['vlp', 'train', {str(tmp_path / 'config.yaml')!r}]; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
