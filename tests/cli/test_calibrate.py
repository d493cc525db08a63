import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from vlp.cli.calibrate import calibrate, show
from vlp.errors import ConfigError, DataError
from vlp.inference.calibration import Calibration

FIGURES = {
    "ece_before": 0.2345, "ece_cv": 0.0123, "brier_before": 0.3, "brier_cv": 0.1, "coverage_present_cv": 0.91,
    "coverage_absent_cv": 0.89, "indeterminate_cv": None,
}  # fmt: skip


def made() -> Calibration:
    effusion = {
        "map": {"kind": "platt", "slope": 1.0, "bias": 0.0},
        "studies": 400,
        "positives": 123,
        "conformal": {"alpha": 0.2, "q0": 0.7, "q1": 0.8},
        "figures": FIGURES,
    }
    values: dict[str, Any] = {
        "vlp_version": "0",
        "model_fingerprint": "5a" * 32,
        "prompts_digest": "abc",
        "preprocess_digest": "d",
        "pooled_by": {},
        "fitted_on": {
            "archive": "ward", "shards_sha256": "0", "split": "val", "studies": 400, "patients": 300, "synthetic": True
        },
        "findings": {"pleural effusion": effusion},
        "left_out": {"hernia": "3 studies with it, fewer than 10"},
        "maps": {"lungs": {"threshold": 0.25, "texts": ["the lungs"], "dice": 0.81, "images": 3}},
    }  # fmt: skip
    return Calibration.model_validate_json(json.dumps(values))


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.command()(calibrate)
    return app


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "calibrate.yaml"
    path.write_text(f"checkpoint: {tmp_path}\nshards: {tmp_path}\n")
    return path


def test_overrides_reach_the_calibration(app: typer.Typer, settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("vlp.calibrate.run.calibrate", lambda config: seen.append(config) or made())
    done = CliRunner().invoke(app, [str(settings), "alpha=0.2", "--json"], catch_exceptions=False)
    assert seen[0].alpha == 0.2
    assert Calibration.model_validate_json(done.stdout) == made()


def test_tables_say_what_was_learned_of_what(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    show(made(), tmp_path, as_json=False)
    shown = capsys.readouterr().out
    row = next(line for line in shown.splitlines() if "pleural effusion" in line)
    for value in ("platt", "400", "123", "0.234 -> 0.012", "0.300 -> 0.100", "0.910 / 0.890"):
        assert value in row
    assert row.rstrip(" │").endswith("-"), "what is undefined is no number"
    assert "ward, val: 400 studies of 300 patients" in shown
    assert "80% promised" in shown
    assert "3 studies with it, fewer than 10" in shown
    assert "+0.25" in shown
    assert "says nothing about patients" in shown
    assert "not a medical device" in shown
    assert str(tmp_path / "calibration.json") in shown.replace("\n", "")


def test_faults_are_faults_of_the_input(app: typer.Typer, settings: Path) -> None:
    with pytest.raises(ConfigError, match="unknown key; did you mean 'alpha'"):
        CliRunner().invoke(app, [str(settings), "alpa=5"], catch_exceptions=False)
    with pytest.raises(DataError, match="not a folder of shards"):
        CliRunner().invoke(app, [str(settings)], catch_exceptions=False)
