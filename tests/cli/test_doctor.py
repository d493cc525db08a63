import json
import re
import tomllib
from collections import namedtuple
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from vlp.cli import doctor as examination
from vlp.cli.doctor import PACKAGES, doctor
from vlp.errors import ConfigError
from vlp.train.watching.preflight import Preflight

Usage = namedtuple("Usage", "total used free")
app = typer.Typer()
app.command()(doctor)


def examine(*arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
    done = CliRunner().invoke(app, ["--json", *arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done.exit_code, {finding["what"]: finding for finding in json.loads(done.stdout)}


def test_it_looks_at_everything_a_verb_may_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination.shutil, "disk_usage", lambda path: Usage(10**12, 0, 10**12))
    status, found = examine()
    assert {"python", "cores", "disk free here", "device", "slurm", *PACKAGES} == set(found)
    assert status == 0
    assert all(finding["good"] for finding in found.values())
    assert found["torch"]["value"] == version("torch")


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PACKAGES, "no_such_module_here", ("no-such-module", "retrieval"))
    status, found = examine()
    assert status == 1
    assert found["no_such_module_here"]["value"] == "not installed"
    assert found["no_such_module_here"]["advice"] == "pip install 'vlp[retrieval]'"


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination.shutil, "disk_usage", lambda path: Usage(10**12, 10**12, 10**9))
    status, found = examine()
    assert status == 1
    assert not found["disk free here"]["good"]
    assert found["disk free here"]["value"] == "1 GB"


def test_without_torch_there_is_no_device_to_name(monkeypatch: pytest.MonkeyPatch) -> None:
    find = examination.importlib.util.find_spec
    monkeypatch.setattr(examination.importlib.util, "find_spec", lambda name: None if name == "torch" else find(name))
    status, found = examine()
    assert status == 1
    assert found["device"]["advice"] == "pip install 'vlp[model]'"


def test_people_get_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    shown = CliRunner().invoke(app, []).stdout
    for words in ("vlp doctor", "python", "torch", "device", "slurm"):
        assert words in shown


FOUND = Preflight(
    device="cpu", world=1, processes=1, studies=8, images=8, texts=20, tokens=12, peak_bytes=10**9,
    memory_bytes=2 * 10**9, micro_batch=None, step_s=0.1, step_images_per_s=80.0, loader_images_per_s=200.0,
    workers=2, shared_bytes=10**6, shared_free_bytes=10**9, checkpoint_bytes=10**8, checkpoints=4,
    disk_free_bytes=10**9,
)  # fmt: skip
SMOKE = Path(__file__).parents[2] / "configs" / "train" / "demo.smoke.yaml"


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The configurations that were tried; what comes of it may be replaced."""
    configs: list[Any] = []
    monkeypatch.setattr("vlp.train.watching.preflight.examine", lambda config: configs.append(config) or FOUND)
    return configs


def test_a_training_that_fits(tried: list[Any]) -> None:
    done = CliRunner().invoke(app, ["--train", str(SMOKE), "max_steps=7", "--json"])
    found = json.loads(done.stdout)
    assert done.exit_code == 0
    assert tried[0].max_steps == 7
    assert found["fits"] is True
    assert found["peak_bytes"] == 10**9
    assert found["data_wait"] == 0.0
    assert {finding["what"] for finding in found["findings"]} >= {"memory", "step", "loader", "checkpoints"}


def test_a_training_that_does_not_fit(tried: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    short = replace(FOUND, peak_bytes=None, micro_batch=4)
    monkeypatch.setattr("vlp.train.watching.preflight.examine", lambda config: short)
    done = CliRunner().invoke(app, ["--train", str(SMOKE)])
    assert done.exit_code == 1
    assert "try micro_batch=4" in done.stdout


def test_a_configuration_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(yaml.dump({"outpt": "x"}))
    with pytest.raises(ConfigError, match="outpt"):
        CliRunner().invoke(app, ["--train", str(tmp_path / "bad.yaml")], catch_exceptions=False)


def test_changes_without_a_configuration_are_refused() -> None:
    with pytest.raises(ConfigError, match="say --train CONFIG"):
        CliRunner().invoke(app, ["max_steps=7"], catch_exceptions=False)


def test_extras_are_those_of_this_package() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for distribution, extra in PACKAGES.values():
        assert distribution in {re.split(r"[<>=\[]", requirement)[0] for requirement in extras[extra]}, distribution
