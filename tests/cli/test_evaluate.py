import json
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from vlp.cli.evaluate import evaluate, show
from vlp.errors import ConfigError, DataError
from vlp.evaluate.results import Result

ROW = Result(
    task="classification", metric="auroc", finding="macro", value=0.9, low=0.8, high=0.95, n_patients=7, n_positive=3,
    method="how",
)  # fmt: skip


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer()
    made.command()(evaluate)
    return made


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "evaluate.yaml"
    path.write_text(f"checkpoint: {tmp_path}\nshards: {tmp_path}\noutput: {tmp_path / 'out'}\n")
    return path


def test_overrides_reach_the_evaluation(app: typer.Typer, settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("vlp.evaluate.run.evaluate", lambda config: seen.append(config) or [ROW])
    done = CliRunner().invoke(app, [str(settings), "resamples=123", "--json"], catch_exceptions=False)
    assert seen[0].resamples == 123
    assert json.loads(done.stdout)[0]["value"] == 0.9


def test_tables_fit_a_terminal_and_show_intervals(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def row(task: str, metric: str, finding: str) -> Result:
        return replace(ROW, task=task, metric=metric, finding=finding)

    rows = [row("classification", metric, "pleural thickening") for metric in ("auroc", "average_precision")]
    rows += [row("grounding", metric, "pleural thickening") for metric in ("pointing_game", "dice")]
    rows += [row("retrieval", f"ndcg_at_10{end}", "all") for end in ("", "_random", "_over_random", "_metadata")]
    rows.append(row("retrieval", "knn_auroc", "macro"))
    show(rows, tmp_path, as_json=False)
    shown = capsys.readouterr().out
    assert shown.count("0.900 [0.800, 0.950]") == 8
    assert "view, sex, age" in shown
    assert "Vote of the nearest cases" in shown
    assert shown.count("0.90 [0.80, 0.95]") == 1
    assert "nDCG@10" in shown
    assert str(tmp_path / "report.html") in shown


def test_faults_are_faults_of_the_input(app: typer.Typer, settings: Path) -> None:
    with pytest.raises(ConfigError, match="unknown key; did you mean 'resamples'"):
        CliRunner().invoke(app, [str(settings), "resample=5"], catch_exceptions=False)
    with pytest.raises(DataError, match="not a folder of shards"):
        CliRunner().invoke(app, [str(settings)], catch_exceptions=False)


def test_what_stands_beside_the_main_figures_is_shown(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows = [
        replace(ROW, metric="auroc_difference", value=0.0123, low=-0.001, high=0.02),
        replace(ROW, task="grounding", metric="dice", finding="macro_large"),
        replace(ROW, task="calibration", metric="gate_refused", finding="all"),
        replace(ROW, task="negation", metric="auroc_pnc"),
        replace(ROW, task="negation", metric="polarity_accuracy"),
        replace(ROW, task="anatomy", metric="dice", finding="lungs"),
        replace(ROW, task="anatomy", metric="iou", finding="lungs"),
        replace(ROW, task="calibration", metric="ece", value=0.031, low=0.02, high=0.04),
        replace(ROW, task="calibration", metric="coverage"),
    ]
    show(rows, tmp_path, as_json=False)
    shown = capsys.readouterr().out
    for words in (
        "0.012 [-0.001, 0.020]",
        "macro_large",
        "the gate refuses",
        "Negation",
        "lungs",
        "0.031 [0.020, 0.040]",
    ):
        assert words in shown
