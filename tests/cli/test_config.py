import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from vlp.cli.config import KINDS, app, config_type, kind_of
from vlp.config import load
from vlp.errors import ConfigError
from vlp.evaluate.config import EvaluateConfig
from vlp.ingest.pipeline import IngestConfig

INGEST = "source: {kind: phantom, patients: 8}\noutput: runs/small/shards\n"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "ingest" / "small.yaml"
    path.parent.mkdir()
    path.write_text(INGEST)
    return path


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_nearest_folder_names_the_kind(tmp_path: Path) -> None:
    assert kind_of(Path("configs/train/demo.yaml")) == "train"
    assert kind_of(tmp_path / "ingest" / "evaluate" / "x.yaml") == "evaluate"
    assert kind_of(tmp_path / "evaluate" / "deep" / "er" / "x.yaml") == "evaluate"
    with pytest.raises(ConfigError, match="cannot tell what it configures"):
        kind_of(Path("/somewhere/train.yaml"))


def test_every_kind_has_its_class() -> None:
    names = [config_type(kind).__name__ for kind in KINDS]
    assert names == ["IngestConfig", "TrainConfig", "EvaluateConfig", "CalibrateConfig"]


def test_show_prints_a_file_that_loads_to_the_same(recipe: Path, tmp_path: Path) -> None:
    done = run("show", recipe, "samples_per_shard=7")
    assert done.exit_code == 0, done.output
    values = yaml.safe_load(done.stdout)
    assert values["samples_per_shard"] == 7
    assert values["image_format"] == "jpg"  # a default, filled in
    (tmp_path / "again.yaml").write_text(done.stdout)
    assert load(IngestConfig, tmp_path / "again.yaml") == load(IngestConfig, recipe, ["samples_per_shard=7"])


def test_check_names_every_fault_and_ends_with_1(recipe: Path) -> None:
    assert run("check", recipe).exit_code == 0
    broken = recipe.with_name("broken.yaml")
    broken.write_text(INGEST + "samples_per_shrad: 9\n")
    done = run("check", recipe, broken, recipe.with_name("absent.yaml"))
    assert done.exit_code == 1
    assert f"{recipe}: good" in done.stdout
    faults = done.stderr.splitlines()
    assert len(faults) == 2
    assert "did you mean 'samples_per_shard'" in faults[0]
    assert "cannot read the configuration" in faults[1]


def test_diff_shows_what_differs_and_nothing_else(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    other = recipe.with_name("other.yaml")
    other.write_text("extends: small.yaml\nsource: {patients: 9}\njpeg_quality: 80\n")
    done = run("diff", recipe, other)
    assert done.exit_code == 0, done.output
    rows = [line for line in done.stdout.splitlines() if "source" in line or "jpeg" in line or "output" in line]
    assert len(rows) == 2
    assert "source.patients" in done.stdout
    assert "jpeg_quality" in done.stdout
    assert "80" in done.stdout
    assert "no difference" in run("diff", recipe, recipe).stdout


def test_schema_is_the_class_as_json_schema() -> None:
    done = run("schema", "evaluate")
    assert json.loads(done.stdout) == json.loads(json.dumps(EvaluateConfig.model_json_schema()))
    described = json.loads(run("schema", "ingest").stdout)["properties"]["max_side_px"]
    assert "made smaller" in described["description"]


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    error = run("schema", "serve").exception
    assert isinstance(error, ConfigError)
    assert "ingest, train, evaluate" in str(error)
