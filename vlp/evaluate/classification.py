"""Zero-shot diagnosis, scored: AUROC and average precision per finding and their macro averages."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlp.evaluate import predictions
from vlp.evaluate.config import EvaluateConfig
from vlp.evaluate.results import MACRO, Result, result
from vlp.metrics.bootstrap import Resamples, Sampled, macro_estimate
from vlp.metrics.delong import delong
from vlp.metrics.policy import LEFT_OUT, apply_policy
from vlp.metrics.ranking import sample_auroc, sample_average_precision

TASK = "classification"
_FEW_POSITIVES = 30
_METRICS = {"auroc": sample_auroc, "average_precision": sample_average_precision}


def estimate(rows: Sequence[Mapping[str, Any]], config: EvaluateConfig, *, findings: Sequence[str]) -> list[Result]:
    """AUROC and average precision of every declared finding and their macro averages, for every score of the table.

    The main score's metrics are named "auroc" and "average_precision"; those of a compared score carry its name,
    as in "auroc_finding_prompts".  Every figure rests on the same patient resamples.

    Args:
        rows: predictions of this task, as read from its file.
        config: label policy, resamples, level, seed and the order of scores.
        findings: the declared list; a finding without rows is undefined, not left out.
    """
    good = predictions.scored([dict(row) for row in rows])
    draws = Resamples.draw([row["patient_id"] for row in good], resamples=config.resamples, seed=config.seed)
    results: list[Result] = []
    for position, name in enumerate(config.score_names):
        suffix = "" if position == 0 else f"_{name}_prompts"
        results += _of_score([row for row in good if row["score_name"] == name], name, suffix, config, draws, findings)
    return results


def _of_score(
    rows: Sequence[Mapping[str, Any]],
    name: str,
    suffix: str,
    config: EvaluateConfig,
    draws: Resamples,
    findings: Sequence[str],
) -> list[Result]:
    tables = {finding: _labelled(rows, finding, config) for finding in findings}
    method = f"score: {name} prompts, {config.views} view"
    results = []
    for metric, sample in _METRICS.items():
        members: dict[str, Sampled] = {
            finding: sample(draws, labels, scores, patients) for finding, (labels, scores, patients) in tables.items()
        }
        average = macro_estimate(members, level=config.level)
        results.append(
            result(TASK, metric + suffix, MACRO, average, method=f"{method}; mean of {len(members)} findings")
        )
        for finding, member in members.items():
            results.append(result(TASK, metric + suffix, finding, member.estimate(level=config.level), method=method))
    results += _exact(tables, suffix, method, config)
    return results


def _exact(
    tables: Mapping[str, tuple[np.ndarray, np.ndarray, list[str]]], suffix: str, method: str, config: EvaluateConfig
) -> list[Result]:
    """DeLong's interval beside the bootstrap where positives are few and every patient has one row."""
    results = []
    for finding, (labels, scores, patients) in tables.items():
        if 0 < labels.sum() < _FEW_POSITIVES and len(set(patients)) == len(patients):
            exact = delong(labels, scores, patients=patients, level=config.level)
            results.append(result(TASK, f"auroc_delong{suffix}", finding, exact, method=method))
    return results


def _labelled(
    rows: Sequence[Mapping[str, Any]], finding: str, config: EvaluateConfig
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """(labels, scores, patients) of the rows that the label policy leaves."""
    asked = [row for row in rows if row["finding"] == finding]
    labels = apply_policy([row["label"] for row in asked], config.uncertain)
    kept = np.flatnonzero(labels != LEFT_OUT)
    scores = np.array([asked[index]["score"] for index in kept], dtype=np.float64)
    return labels[kept].astype(np.int64), scores, [asked[index]["patient_id"] for index in kept]
