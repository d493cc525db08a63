import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from vlp.cli.explain import explain
from vlp.errors import CheckpointError, DataError
from vlp.evaluate.explain import run
from vlp.evaluate.explain.run import Explained, Options
from vlp.evaluate.explain.table import Row, checked, missing

GOOD = checked("additivity", "largest difference", 2e-16, kept=True, rule="<= 1e-06", n=4, method="how")
BAD = checked("region edit", "largest difference", 0.5, kept=False, rule="<= 1e-05", n=4, method="how")
ABSENT = missing("repeatability", "SSIM", "needs a second checkpoint: give one with --other")
FACTS = {"studies": 4, "patients": 3, "split": "test", "synthetic": True}


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer()
    made.command()(explain)
    return made


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Options]:
    """What the tests were told; they find that all is well."""
    return _found(monkeypatch, GOOD, ABSENT)


def _found(monkeypatch: pytest.MonkeyPatch, *rows: Row) -> list[Options]:
    asked: list[Options] = []

    def stand_in(checkpoint: Path, shards: Path, *, options: Options) -> Explained:
        asked.append(options)
        return Explained(rows=rows, facts=dict(FACTS), curves=None, randomised=None)

    monkeypatch.setattr(run, "explain", stand_in)
    return asked


def test_the_table_says_what_was_not_run_and_why(app: typer.Typer, asked: list[Options]) -> None:
    done = CliRunner().invoke(app, ["model", "shards", "--studies", "4"], catch_exceptions=False)
    shown = " ".join(done.stdout.split())
    assert done.exit_code == 0
    assert asked[0].studies == 4
    assert asked[0].split == "test"
    assert "passed" in shown
    assert "not run: repeatability, SSIM: needs a second checkpoint" in shown
    assert "4 studies of 3 patients" in shown
    assert "not a medical device" in shown


def test_a_broken_rule_is_status_1(app: typer.Typer, monkeypatch: pytest.MonkeyPatch) -> None:
    _found(monkeypatch, GOOD, BAD)
    done = CliRunner().invoke(app, ["model", "shards", "--json"], catch_exceptions=False)
    assert done.exit_code == 1
    content = json.loads(done.stdout)
    assert content["failed"] == 1
    assert [row["outcome"] for row in content["rows"]] == ["passed", "failed"]


def test_results_are_written_where_asked(app: typer.Typer, asked: list[Options], tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["model", "shards", "-o", str(tmp_path / "out")], catch_exceptions=False)
    assert done.exit_code == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["explain.json"]
    assert "explain.json" in done.stdout


def test_faults_are_faults_of_the_input(app: typer.Typer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a folder of shards"):
        CliRunner().invoke(app, [str(tmp_path), str(tmp_path)], catch_exceptions=False)
    (tmp_path / "model").mkdir()
    with pytest.raises((CheckpointError, DataError)):
        CliRunner().invoke(app, [str(tmp_path / "model"), str(tmp_path / "absent")], catch_exceptions=False)
    assert CliRunner().invoke(app, ["model", "shards", "--studies", "1"]).exit_code == 2
