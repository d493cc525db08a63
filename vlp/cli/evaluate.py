"""`vlp evaluate`: what a checkpoint is worth on patients it has not seen."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlp.cli.console import print_json, print_table

if TYPE_CHECKING:
    from vlp.evaluate.results import Result

_NOTE = "value [interval]; everything else is in results.json.  Research use, not a medical device."


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


_SHORT = {"precision_at_": "P@", "hit_at_": "hit@", "ndcg_at_": "nDCG@", "map_at_r": "mAP@R", "mrr": "MRR"}
_MEANS = {"metadata": "view, sex, age", "pixels": "thumbnail", "tower": "image tower"}


def show(results: "Sequence[Result]", folder: Path, *, as_json: bool) -> None:
    """Prints results as one JSON list, or as a table per task with the paths of what was written."""
    from dataclasses import asdict

    if as_json:
        print_json([asdict(row) for row in results])
        return
    _per_finding(results, "classification", "Zero-shot diagnosis", {"auroc": "AUROC", "average_precision": "AP"})
    _per_finding(results, "grounding", "Localisation", {"pointing_game": "pointing game", "dice": "Dice"})
    _averages(results)
    _per_finding(results, "negation", "Negation", {"auroc_pnc": "AUROC of PNC", "polarity_accuracy": "polarity"})
    _per_finding(results, "anatomy", "Parts of the body", {"dice": "Dice", "iou": "IoU"})
    _per_finding(results, "calibration", "Calibrated probabilities", {"ece": "ECE", "coverage": "coverage"})
    _retrieval(results)
    _per_finding(results, "retrieval", "Vote of the nearest cases", {"knn_auroc": "AUROC"})
    typer.echo(f"{_NOTE}\nresults: {folder / 'results.json'}\nreport:  {folder / 'report.html'}")


def _per_finding(results: "Sequence[Result]", task: str, title: str, metrics: dict[str, str]) -> None:
    """One row per finding, one column per metric: narrow enough for 80 characters."""
    rows = {(row.metric, row.finding): row for row in results if row.task == task}
    first = next(iter(metrics))
    findings = [finding for metric, finding in rows if metric == first and finding != "all"]
    if findings:
        table = [
            (finding, *(rows[metric, finding].text for metric in metrics), rows[first, finding].n_positive)
            for finding in findings
        ]
        print_table(title, ("finding", *metrics.values(), "positive"), table)


def _averages(results: "Sequence[Result]") -> None:
    """What stands beside the main figures: differences to compared scores, wordings, large findings, usual places."""
    from vlp.evaluate.results import AVERAGES

    shown = {
        "auroc_difference": "main score minus another, macro AUROC",
        "auroc_paraphrases_sd": "SD of macro AUROC over wordings",
        "auroc_paraphrases_worst": "macro AUROC of the worst wording",
        "pointing_game_prior": "pointing game of the mean training mask",
        "dice_prior": "Dice of the mean training mask",
        "gate_refused": "studies the gate refuses",
    }
    rows = []
    for row in results:
        words = next((words for metric, words in shown.items() if row.metric.startswith(metric)), None)
        if row.finding == "macro_large" and row.metric == "dice":
            words = "Dice of the large findings"
        if words is not None and row.finding in AVERAGES:
            rows.append((row.metric, row.finding, row.text, words))
    if rows:
        print_table("Beside them", ("metric", "of", "value", "what"), rows)


def _retrieval(results: "Sequence[Result]") -> None:
    """The ranking against random cases, and below it what other means of looking reach."""
    from vlp.metrics.estimate import format_interval

    rows = {row.metric: row for row in results if row.task == "retrieval"}
    names = [name for name in rows if f"{name}_over_random" in rows]
    table, others = [], []
    means = [mean for mean in _MEANS if any(f"{name}_{mean}" in rows for name in names)]
    for name in names:
        ratio = rows[f"{name}_over_random"]
        times = format_interval(ratio.value, ratio.low, ratio.high, digits=2)
        short = name
        for written, meant in _SHORT.items():
            short = short.replace(written, meant)
        table.append((short, rows[name].text, rows[f"{name}_random"].text, times))
        others.append((short, *(rows[f"{name}_{mean}"].text for mean in means)))
    if table:
        print_table("Retrieval", ("figure", "model", "random cases", "ratio"), table)
    if means:
        print_table("Retrieval by other means", ("figure", *(_MEANS[mean] for mean in means)), others)
