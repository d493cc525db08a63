"""`vlp evaluate`: what a checkpoint is worth on patients it has not seen."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlp.cli.console import print_json, print_table

if TYPE_CHECKING:
    from vlp.evaluate.results import Result

RESULT_COLUMNS = ("task", "metric", "finding", "value [interval]", "patients", "positive")


def evaluate(
    config: Annotated[Path, typer.Argument(help="Configuration, e.g. configs/evaluate/demo.yaml.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key.path=value ...")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Predict on held-out studies, score with intervals, and write results.json and report.html.

    Example: vlp evaluate configs/evaluate/demo.yaml resamples=2000
    """
    from vlp.config import load
    from vlp.evaluate.config import EvaluateConfig
    from vlp.evaluate.run import evaluate as run

    settings = load(EvaluateConfig, config, overrides or [])
    show(run(settings), settings.output, as_json=json)


def show(results: "list[Result]", folder: Path, *, as_json: bool) -> None:
    """Prints results as one JSON list or as a table with the paths of what was written."""
    from dataclasses import asdict

    if as_json:
        print_json([asdict(row) for row in results])
        return
    rows = [(row.task, row.metric, row.finding, row.text, row.n_patients, row.n_positive) for row in results]
    print_table("Results", RESULT_COLUMNS, rows, note="Research use, not a medical device.")
    typer.echo(f"results: {folder / 'results.json'}\nreport:  {folder / 'report.html'}")
