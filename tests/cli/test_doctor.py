import json
import re
import tomllib
from collections import namedtuple
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from vlp.cli import doctor as examination
from vlp.cli.doctor import PACKAGES, doctor

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


def test_extras_are_those_of_this_package() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for distribution, extra in PACKAGES.values():
        assert distribution in {re.split(r"[<>=\[]", requirement)[0] for requirement in extras[extra]}, distribution
