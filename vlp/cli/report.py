"""`vlp report`: what a run's own files say of it, again: curves of a training, figures of an evaluation."""

from pathlib import Path
from typing import Annotated

import typer

from vlp.cli.console import print_facts, print_json
from vlp.cli.evaluate import show
from vlp.errors import DataError


def report(
    run: Annotated[Path, typer.Argument(help="Folder of a training run or of an evaluation, e.g. runs/demo.")],
    json: Annotated[bool, typer.Option("--json", help="Print the facts and results as JSON.")] = False,
) -> None:
    """Draw a training run's curves, compute an evaluation's metrics again, or both; needs no GPU and no torch.

    A training run, running or finished, gets report.html and training.png; an evaluation gets results.json and
    report.html from its prediction files.  In a folder that holds both, the page of the training is training.html.

    Example: vlp report runs/demo
    """
    trained, evaluated = (run / "metrics.csv").is_file(), (run / "evaluate.yaml").is_file()
    if not trained and not evaluated:
        raise DataError(f"{run}: holds neither a training run (metrics.csv) nor an evaluation (evaluate.yaml)")
    facts = _draw(run, beside=evaluated) if trained else None
    if not evaluated:
        assert facts is not None
        _show_training(facts, as_json=json)
        return
    from vlp.evaluate.report import report as compute

    results = compute(run)
    if facts is None:
        show(results, run, as_json=json)
    elif json:
        from dataclasses import asdict

        print_json({"training": facts, "results": [asdict(row) for row in results]})
    else:
        _show_training(facts, as_json=False)
        show(results, run, as_json=False)


def _draw(run: Path, *, beside: bool) -> dict[str, object]:
    from vlp.train.watching.page import draw

    return draw(run, name="training" if beside else "report")


def _show_training(facts: dict[str, object], *, as_json: bool) -> None:
    if as_json:
        print_json(facts)
        return
    print_facts("Training", {name: value for name, value in facts.items() if value is not None})
