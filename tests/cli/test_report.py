import json
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from vlp.cli.report import report
from vlp.errors import DataError
from vlp.evaluate.results import Result

ROW = Result(
    task="classification", metric="auroc", finding="hernia", value=None, low=None, high=None, n_patients=9,
    n_positive=0, method="no value: one_class",
)  # fmt: skip


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer()
    made.command()(report)
    return made


def test_undefined_stays_null_for_programs_and_says_so_to_people(
    app: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlp.evaluate.report.report", lambda run: [ROW, replace(ROW, metric="average_precision")])
    printed = CliRunner().invoke(app, [str(tmp_path), "--json"], catch_exceptions=False).stdout
    assert json.loads(printed)[0]["value"] is None
    assert "n/a" in CliRunner().invoke(app, [str(tmp_path)], catch_exceptions=False).stdout


def test_a_folder_without_an_evaluation_is_refused(app: typer.Typer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no evaluation"):
        CliRunner().invoke(app, [str(tmp_path)], catch_exceptions=False)
