"""`vlp calibrate`: from similarity to probability, and to "cannot decide", learned on patients of their own."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlp.cli.console import print_json, print_table

if TYPE_CHECKING:
    from vlp.inference.calibration import Calibration

_COLUMNS = ("finding", "map", "studies", "with it", "ECE", "Brier", "coverage", "open")
_NOTE = (
    "before -> after; before: the similarity score read as if it were a probability; after, and all that follows: "
    "cross-validated by patient.\n"
    "coverage: share of the studies with / without the finding whose conformal set holds that, {promise:.0%} promised; "
    "open: sets that decide nothing.\nResearch use, not a medical device."
)
_SYNTHETIC = "\nLearned on synthetic studies drawn by a program: it says nothing about patients."


def calibrate(
    config: Annotated[Path, typer.Argument(help="Configuration, e.g. configs/calibrate/demo.yaml.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key.path=value ...")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the calibration as JSON.")] = False,
) -> None:
    """Learn what scores mean, on studies held out of training; other verbs find the result beside the checkpoint.

    Writes calibration.json (probabilities, conformal sets, map thresholds) and gate.json (what is not looked at).

    Example: vlp calibrate configs/calibrate/demo.yaml method=platt
    """
    from vlp.calibrate.config import CalibrateConfig
    from vlp.calibrate.run import calibrate as run
    from vlp.config import load

    settings = load(CalibrateConfig, config, overrides or [])
    show(run(settings), settings.folder, as_json=json)


def show(calibration: "Calibration", folder: Path, *, as_json: bool) -> None:
    """Prints a calibration as JSON, or as a table per kind of thing learned with the path of what was written."""
    if as_json:
        print_json(calibration.model_dump(mode="json"))
        return
    on = calibration.fitted_on
    title = f"{on.archive}, {on.split}: {on.studies} studies of {on.patients} patients"
    if calibration.findings:
        alpha = next(iter(calibration.findings.values())).conformal.alpha
        note = _NOTE.format(promise=1.0 - alpha) + (_SYNTHETIC if on.synthetic else "")
        print_table(title, _COLUMNS, [_row(calibration, finding) for finding in calibration.findings], note=note)
    if calibration.left_out:
        print_table("Not calibrated", ("finding", "because"), list(calibration.left_out.items()))
    if calibration.maps:
        rows = [(name, f"{one.threshold:+.2f}", one.dice, one.images) for name, one in calibration.maps.items()]
        print_table("Maps", ("region", "cosine from which it counts", "Dice there", "images"), rows)
    typer.echo(f"calibration: {folder / 'calibration.json'}")


def _row(calibration: "Calibration", finding: str) -> tuple[str, ...]:
    one = calibration.findings[finding]
    figures = one.figures
    return (
        finding,
        one.map.kind,
        str(one.studies),
        str(one.positives),
        f"{_shown(figures.ece_before)} -> {_shown(figures.ece_cv)}",
        f"{_shown(figures.brier_before)} -> {_shown(figures.brier_cv)}",
        f"{_shown(figures.coverage_present_cv)} / {_shown(figures.coverage_absent_cv)}",
        _shown(figures.indeterminate_cv),
    )


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
