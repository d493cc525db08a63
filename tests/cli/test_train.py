import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from tests.evaluate.conftest import draw
from tests.inference.conftest import save_tiny
from tests.train.conftest import NUM_TRAIN, NUM_VAL, make_study, tiny_values
from vlp.cli.train import train, train_config_type, train_kind
from vlp.config import dump, validate
from vlp.data.writer import ShardWriter
from vlp.errors import ConfigError, VlpError
from vlp.heads.config import SegmentationHeadConfig
from vlp.heads.probe import ProbeConfig
from vlp.train.boundary import StepBoundary
from vlp.train.config import TrainConfig
from vlp.train.signals import Stopped

SMOKE = Path(__file__).parents[2] / "configs" / "train"

app = typer.Typer()
app.command()(train)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli_train") / "shards"
    with ShardWriter(folder, image_format="png") as writer:
        for number in range(NUM_TRAIN + NUM_VAL):
            writer.write(make_study(number, "train" if number < NUM_TRAIN else "val"))
    return folder


@pytest.fixture
def config(shards: Path, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(dump(validate(TrainConfig, tiny_values(shards, tmp_path / "run"), where="test")))
    return path


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_json_sums_the_run_up_and_the_same_command_leaves_it_alone(config: Path, tmp_path: Path) -> None:
    first = run(config, "max_steps=3", "zero_shot.every=3", "zero_shot.min_positives=1", "--json")
    assert first.exit_code == 0, first.output
    facts = json.loads(first.stdout)
    assert facts["steps"] == 3
    assert facts["finished"] is True
    assert 0.0 <= facts["zero_shot_auroc"] <= 1.0
    assert Path(facts["checkpoint"]) == tmp_path / "run" / "checkpoints" / "final"
    again = run(config, "max_steps=3", "zero_shot.every=3", "zero_shot.min_positives=1", "--json")
    assert json.loads(again.stdout) == facts


def test_a_table_for_people_names_the_checkpoint_and_what_to_try(config: Path) -> None:
    shown = run(config, "max_steps=1")
    assert shown.exit_code == 0, shown.output
    assert "images_per_s" in shown.stdout
    assert "vlp classify" in shown.stderr


def test_bad_input_is_one_plain_error(config: Path, tmp_path: Path) -> None:
    for arguments, words in (
        ((tmp_path / "absent.yaml",), "cannot read the configuration"),
        ((config, "max_stps=3"), "did you mean 'max_steps'"),
        ((config, f"shards={tmp_path}"), "manifest"),
    ):
        result = run(*arguments)
        assert isinstance(result.exception, VlpError)
        assert words in str(result.exception)
    assert not (tmp_path / "run").exists()


def test_another_configuration_is_refused(config: Path) -> None:
    assert run(config, "max_steps=1").exit_code == 0
    result = run(config, "max_steps=1", "seed=9")
    assert isinstance(result.exception, ConfigError)
    assert "seed: 0 there, 9 now" in str(result.exception)


def test_an_interrupted_command_saves_and_then_goes_on(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boundary = StepBoundary.on_train_batch_end

    def interrupted(self: StepBoundary, *arguments: Any) -> None:
        if self.progress.step == 1:
            os.kill(os.getpid(), signal.SIGINT)
        boundary(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(StepBoundary, "on_train_batch_end", interrupted)
        with pytest.raises(Stopped) as caught:
            run(config)
    assert caught.value.number == signal.SIGINT
    assert (tmp_path / "run" / "checkpoints" / "step-00000002" / "training_state.pt").exists()
    facts = json.loads(run(config, "--json").stdout)
    assert facts["finished"] is True
    assert facts["steps"] == 5


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model and shards with regions for what is trained on top of it."""
    folder = tmp_path_factory.mktemp("cli_heads")
    rng = np.random.default_rng(0)
    with ShardWriter(folder / "shards", image_format="png") as writer:
        for number in range(36):
            writer.write(draw(number, ("train", "val", "test")[number // 12], rng=rng))
    return save_tiny(folder / "model", "similarity_attention"), folder / "shards"


def test_a_segmentation_head_is_trained_and_compared(finished: tuple[Path, Path], tmp_path: Path) -> None:
    path = SMOKE / "segmentation.smoke.yaml"
    changes = [f"encoder={finished[0]}", f"shards={finished[1]}", "device=cpu", "share=1.0"]
    shown = run(path, *changes, f"output={tmp_path / 'head'}")
    assert shown.exit_code == 0, shown.output
    for words in ("zero-shot map", "macro", "pleural effusion", "not a medical device"):
        assert words in shown.stdout
    assert f"--head {tmp_path / 'head' / 'head'}" in shown.stderr
    facts = json.loads(run(path, *changes, f"output={tmp_path / 'head'}", "--json").stdout)
    assert Path(facts["head"], "head.json").is_file()
    assert facts["trained"]["steps"] == 5
    assert {"dice", "dice_zero_shot", "dice_difference"} <= {row["metric"] for row in facts["results"]}


def test_probes_are_fitted_and_compared(finished: tuple[Path, Path], tmp_path: Path) -> None:
    path = SMOKE / "probe.smoke.yaml"
    changes = [f"encoder={finished[0]}", f"shards={finished[1]}", f"output={tmp_path / 'probe'}", "device=cpu"]
    shown = run(path, *changes)
    assert shown.exit_code == 0, shown.output
    assert "probe 50 percent" in shown.stdout
    assert "gain" not in shown.stdout.splitlines()[2]
    facts = json.loads(run(path, *changes, "--json").stdout)
    assert {row["metric"] for row in facts["results"]} >= {"auroc_zero_shot", "auroc_gain_50_percent"}


def test_a_file_says_what_it_trains(config: Path, tmp_path: Path) -> None:
    assert (train_kind(config), train_config_type(config)) == ("pretraining", TrainConfig)
    assert train_config_type(SMOKE / "segmentation_text.smoke.yaml") is SegmentationHeadConfig
    assert train_config_type(SMOKE / "probe.yaml") is ProbeConfig
    strange = tmp_path / "strange.yaml"
    strange.write_text("kind: detector\n")
    result = run(strange)
    assert isinstance(result.exception, ConfigError)
    assert "segmentation_head and probe" in str(result.exception)
