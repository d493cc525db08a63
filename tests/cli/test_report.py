import json
from dataclasses import asdict, replace
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


@pytest.fixture
def evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like an evaluation; what it holds is not computed here."""
    rows = [ROW, replace(ROW, metric="average_precision")]
    monkeypatch.setattr("vlp.evaluate.report.report", lambda run: rows)
    (tmp_path / "evaluate.yaml").write_text("")
    return tmp_path


def train(folder: Path) -> None:
    """Puts a training run into the folder."""
    (folder / "metrics.csv").write_text("step,epoch,loss,images_per_s,zero_shot_auroc\n1,0,3.5,10,0.5\n2,0,3,20,0.75\n")


def printed(app: typer.Typer, *arguments: str) -> str:
    return CliRunner().invoke(app, arguments, catch_exceptions=False).stdout


def test_undefined_stays_null_for_programs_and_says_so_to_people(app: typer.Typer, evaluated: Path) -> None:
    assert json.loads(printed(app, str(evaluated), "--json"))[0]["value"] is None
    assert "n/a" in printed(app, str(evaluated))
    assert not (evaluated / "training.html").exists()


def test_a_training_run_is_drawn(app: typer.Typer, tmp_path: Path) -> None:
    train(tmp_path)
    facts = json.loads(printed(app, str(tmp_path), "--json"))
    assert (facts["steps"], facts["loss"], facts["zero_shot_auroc"]) == (2, 3.0, 0.75)
    assert facts["page"] == str(tmp_path / "report.html")
    assert Path(facts["page"]).is_file()
    assert Path(facts["picture"]).is_file()
    assert "training.png" in printed(app, str(tmp_path))


def test_a_folder_that_is_both_gets_both_and_keeps_them_apart(app: typer.Typer, evaluated: Path) -> None:
    (evaluated / "report.html").write_text("of the evaluation")
    train(evaluated)
    both = json.loads(printed(app, str(evaluated), "--json"))
    assert both["training"]["page"] == str(evaluated / "training.html")
    assert both["results"][0] == asdict(ROW)
    assert (evaluated / "report.html").read_text() == "of the evaluation"
    people = printed(app, str(evaluated))
    assert "training.html" in people
    assert "n/a" in people


def test_a_folder_with_neither_is_refused(app: typer.Typer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds neither a training run"):
        printed(app, str(tmp_path))
