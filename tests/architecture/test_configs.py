"""Every shipped configuration loads, and every training configuration has a sibling that runs in seconds."""

from pathlib import Path

import pytest

from vlp.cli.config import type_of
from vlp.config import dump, load

CONFIGS = Path(__file__).parents[2] / "configs"
FILES = sorted(CONFIGS.rglob("*.yaml"))


def test_there_are_configurations_of_every_kind() -> None:
    assert {path.parent.name for path in FILES} == {"ingest", "train", "evaluate", "calibrate"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_loads_and_survives_a_round_trip(path: Path, tmp_path: Path) -> None:
    config = load(type_of(path), path)
    again = tmp_path / path.parent.name / path.name
    again.parent.mkdir()
    again.write_text(dump(config))
    assert load(type_of(again), again) == config


def test_every_training_configuration_has_a_smoke_sibling() -> None:
    names = {path.name for path in (CONFIGS / "train").glob("*.yaml")}
    whole = {name for name in names if not name.endswith(".smoke.yaml")}
    assert {name.replace(".yaml", ".smoke.yaml") for name in whole} == names - whole
