"""`vlp report`: results and report again, from the predictions of an evaluated run, without the model."""

from pathlib import Path
from typing import Annotated

import typer

from vlp.cli.evaluate import show


def report(
    run: Annotated[Path, typer.Argument(help="Folder an evaluation wrote to, e.g. runs/demo.")],
    json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Compute all metrics again from the prediction files and redraw report.html; needs no GPU and no torch.

    Example: vlp report runs/demo
    """
    from vlp.evaluate.report import report as compute

    show(compute(run), run, as_json=json)
