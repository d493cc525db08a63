import csv
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.heads.conftest import CLASSES, as_config
from vlp.data import ShardReader
from vlp.errors import ConfigError, DataError
from vlp.evaluate.results import find, read_results
from vlp.heads import load_head, segmentation
from vlp.heads.head import read_weights
from vlp.heads.segmentation import train_head
from vlp.inference.engine import Engine
from vlp.train.signals import Stopped


def losses(folder: Path) -> list[str]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [row["loss"] for row in csv.DictReader(file)]


def interrupted_at(step: int) -> pytest.MonkeyPatch:
    plain = segmentation._Training._step

    def interrupted(self: Any, number: int) -> Any:
        if number + 1 == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, number)

    patch = pytest.MonkeyPatch()
    patch.setattr(segmentation._Training, "_step", interrupted)
    return patch


def test_a_head_learns_from_few_masks_what_the_map_does_not_say(values: dict[str, Any], engine: Engine) -> None:
    values |= {"max_steps": 120, "share": 0.5, "optimizer": {"lr": 0.02}, "checkpoint_every": 100}
    run = train_head(as_config(values))
    assert run.card.classes == CLASSES
    assert run.card.trained["patients"] == 10
    assert 0 < run.card.trained["masks"] < 60
    difference = find(run.results, task="segmentation", metric="dice_difference", finding="macro")
    assert difference is not None
    assert difference.low is not None
    assert difference.low > 0.05
    folder = Path(values["output"])
    assert read_results(folder) == run.results
    assert (folder / "predictions" / "segmentation.parquet").is_file()
    trained = [float(value) for value in losses(folder)]
    assert np.mean(trained[-10:]) < 0.6 * np.mean(trained[:10])
    head = load_head(folder, engine)
    assert set(head.maps(np.zeros((64, 64), dtype=np.uint8))[1]) == set(CLASSES)


@pytest.mark.parametrize(
    "change",
    [
        {"decoder": {"kind": "pyramid", "channels": 8, "scale": 1}},
        {"conditioning": "text", "decoder": {"kind": "pyramid", "channels": 8, "scale": 2}},
        {"thaw": 1},
    ],
    ids=["class", "text", "thaw"],
)
def test_a_stopped_training_goes_on_as_if_nothing_had_been(
    values: dict[str, Any], change: dict[str, Any], tmp_path: Path
) -> None:
    values |= change
    whole = train_head(as_config(values))
    stopped = as_config(values | {"output": str(tmp_path / "stopped")})
    patch = interrupted_at(3)
    with pytest.raises(Stopped) as caught:
        train_head(stopped)
    patch.undo()
    assert caught.value.number == signal.SIGTERM
    assert not (tmp_path / "stopped" / "head").exists()
    assert len(losses(tmp_path / "stopped")) == 3
    again = train_head(stopped)
    first, second = (read_weights(run.head / "head.safetensors") for run in (whole, again))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert losses(whole.folder) == losses(again.folder)
    assert whole.results == again.results


def test_a_stop_while_it_is_compared_loses_nothing_that_was_trained(
    values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = segmentation.compare.evaluate_head

    def interrupted(*arguments: Any, **named: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return plain(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(segmentation.compare, "evaluate_head", interrupted)
        with pytest.raises(Stopped):
            train_head(as_config(values))
    assert not (Path(values["output"]) / "head").exists()
    monkeypatch.setattr(segmentation._Training, "_step", lambda *_: pytest.fail("trained again"))
    assert train_head(as_config(values)).card.trained["steps"] == 6


def test_a_finished_run_is_left_alone_and_another_one_is_refused(
    values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train_head(as_config(values))
    written = (run.head / "head.json").stat().st_mtime_ns
    with monkeypatch.context() as patch:
        patch.setattr(segmentation, "_Training", lambda *_, **__: pytest.fail("trained again"))
        assert train_head(as_config(values)).results == run.results
    assert (run.head / "head.json").stat().st_mtime_ns == written
    with pytest.raises(ConfigError, match=r"share: 1\.0 there, 0\.5 now"):
        train_head(as_config(values | {"share": 0.5}))


def test_a_longer_run_is_another_run(values: dict[str, Any]) -> None:
    train_head(as_config(values))
    with pytest.raises(ConfigError, match="max_steps"):
        train_head(as_config(values | {"max_steps": 9}))


def test_a_head_by_text_is_trained_for_any_sentence(values: dict[str, Any], engine: Engine) -> None:
    run = train_head(as_config(values | {"conditioning": "text", "classes": ["mass"]}))
    assert run.card.prompts == ("There is a mass.",)
    head = load_head(run.head, engine)
    maps, thresholds = head.maps(np.zeros((64, 64), dtype=np.uint8), texts=["There is pleural effusion."])
    assert maps["There is pleural effusion."].shape == (64, 64)
    assert thresholds["There is pleural effusion."] == run.card.threshold


def test_what_thaws_is_in_the_head_and_not_in_the_checkpoint(values: dict[str, Any], checkpoint: Path) -> None:
    before = {path: path.read_bytes() for path in checkpoint.rglob("*") if path.is_file()}
    run = train_head(as_config(values | {"thaw": 1}))
    names = read_weights(run.head / "head.safetensors")
    assert any(name.startswith("encoder.image_tower.model.blocks.0") for name in names)
    assert not (run.folder / "features").exists()
    assert before == {path: path.read_bytes() for path in checkpoint.rglob("*") if path.is_file()}


def test_what_cannot_be_trained_is_one_line(values: dict[str, Any], reader: ShardReader, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no region of the classes"):
        train_head(as_config(values | {"classes": ["hernia"]}))
    with pytest.raises(DataError, match="no region of hernia in the training studies"):
        train_head(as_config(values | {"output": str(tmp_path / "b"), "classes": ["hernia", "mass"]}))
    with pytest.raises(ConfigError, match="thaw"):
        train_head(as_config(values | {"output": str(tmp_path / "c"), "thaw": 77}))


def test_order_sees_every_image_once_an_epoch() -> None:
    order = [segmentation._order(step, num=10, batch=4, seed=3) for step in range(5)]
    rows = [row for _, each in order for row in each]
    assert sorted(rows[:10]) == sorted(rows[10:]) == list(range(10))
    assert rows[:10] != rows[10:]
    assert [epoch for epoch, _ in order] == [0, 0, 0, 1, 1]
