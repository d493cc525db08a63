"""`vlp report`: figures and pages from the files of an evaluated run; needs no model, no GPU and no torch."""

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlp import config
from vlp.errors import DataError
from vlp.evaluate import calibration, classification, grounding, negation, page, paraphrases, predictions, retrieval
from vlp.evaluate.config import EvaluateConfig
from vlp.evaluate.results import Result, write_results, write_text

CONFIG_FILE = "evaluate.yaml"
"""The resolved configuration of the evaluation, beside the one of the training."""
META_FILE = "results_meta.json"
EXAMPLES = "examples"
_CURVE_WORDS = ("loss", "auroc")
"""Columns of the training log that are drawn hold one of these words."""


def report(run: Path) -> list[Result]:
    """Computes every metric again from the prediction files, and writes results.json, report.md and report.html.

    Args:
        run: the folder an evaluation wrote to.

    Returns:
        The rows of `results.json`; the same files always give the same rows, to the byte.

    Raises:
        DataError: if the folder holds no evaluation or its files are damaged.
    """
    if not (run / CONFIG_FILE).is_file():
        raise DataError(f"{run}: holds no evaluation ({CONFIG_FILE} is missing); run `vlp evaluate` first")
    settings = config.load(EvaluateConfig, run / CONFIG_FILE)
    meta = _read_json(run / META_FILE)
    scored = score(run, settings)
    material = page.Material(
        title=f"{settings.output.name or 'vlp'}: evaluation on {settings.split} studies",
        results=scored.results,
        config=settings,
        meta={**meta, "thresholds": scored.thresholds},
        plots=scored.plots,
        curves=training_curves(run),
        examples=read_examples(run),
        folder=run / EXAMPLES,
    )
    write_results(scored.results, run)
    write_text(run / "report.md", page.markdown(material))
    write_text(run / "report.html", page.html(material))
    return scored.results


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """What the prediction files of a run say."""

    results: list[Result]
    thresholds: dict[str, float]
    """Mask threshold by finding."""
    plots: dict[str, list[Any]]
    """Points of the curves about calibration; empty without that task."""


def score(run: Path, settings: EvaluateConfig) -> Scored:
    """All results of a run's prediction files, with what the page draws beside them.

    Raises:
        DataError: if a file is missing or damaged.
    """
    assert settings.findings != "auto", "a resolved configuration lists its findings"
    findings = settings.findings
    rows = {task: predictions.read(run, task) for task in settings.tasks}
    prior = predictions.read(run, predictions.PRIOR) if settings.prior else []
    results: list[Result] = []
    for task, found in rows.items():
        match task:
            case "classification":
                results += classification.estimate(found, settings, findings=findings)
            case "grounding":
                results += grounding.estimate(found, settings, prior=prior)
            case "retrieval":
                results += retrieval.estimate(found, settings)
            case "negation":
                results += negation.estimate(found, settings, findings=findings)
            case "anatomy":
                results += grounding.estimate_regions(found, settings, task=task, prior=prior)
            case "calibration":
                results += calibration.estimate(found, settings, findings=findings)
    if settings.paraphrases:
        results += paraphrases.estimate(predictions.read(run, predictions.PARAPHRASES), settings, findings=findings)
    return Scored(
        results=results,
        thresholds=grounding.thresholds(rows["grounding"], settings) if "grounding" in rows else {},
        plots=calibration.plots(rows["calibration"], settings, findings=findings) if "calibration" in rows else {},
    )


def training_curves(run: Path) -> dict[str, list[tuple[float, float]]]:
    """(step, value) of the interesting columns of the training log in `run` or above it; none if there is no log."""
    path = next((place / "metrics.csv" for place in (run, run.parent) if (place / "metrics.csv").is_file()), None)
    if path is None:
        return {}
    curves: dict[str, list[tuple[float, float]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            step = _number(row.get("step"))
            for name, cell in row.items():
                value = _number(cell) if isinstance(name, str) and any(word in name for word in _CURVE_WORDS) else None
                if step is not None and value is not None:
                    curves.setdefault(name, []).append((step, value))
    return curves


def read_examples(run: Path) -> list[dict[str, Any]]:
    """The facts of all example studies, in order."""
    return [_read_json(path) for path in sorted((run / EXAMPLES).glob("*.json"))]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise DataError(f"{path}: missing or not readable as JSON; run `vlp evaluate` again") from None
    if not isinstance(content, Mapping):
        raise DataError(f"{path}: not what an evaluation writes; run `vlp evaluate` again")
    return dict(content)


def _number(cell: Any) -> float | None:
    try:
        value = float(cell)
    except (TypeError, ValueError):
        return None
    return value if abs(value) < float("inf") else None
