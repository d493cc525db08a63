"""Zero-shot diagnosis, scored: AUROC and average precision per finding and their macro averages."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from vlp.evaluate import predictions
from vlp.evaluate.config import EvaluateConfig, suffix_of, words_of
from vlp.evaluate.results import MACRO, Result, result
from vlp.metrics.bootstrap import Resamples, Sampled, macro
from vlp.metrics.delong import delong
from vlp.metrics.estimate import TOO_MANY_NULLS
from vlp.metrics.policy import LEFT_OUT, apply_policy
from vlp.metrics.ranking import sample_auroc, sample_average_precision

TASK = "classification"
_FEW_POSITIVES = 30
_METRICS = {"auroc": sample_auroc, "average_precision": sample_average_precision}


def estimate(rows: Sequence[Mapping[str, Any]], config: EvaluateConfig, *, findings: Sequence[str]) -> list[Result]:
    """AUROC and average precision of every declared finding and their macro averages, for every score of the table.

    The main score's metrics are named "auroc" and "average_precision"; those of a compared score carry its name,
    as in "auroc_finding_prompts" or "auroc_radzero_protocol".  "auroc_difference" is the main score's macro AUROC
    minus that of the first compared one; the differences to others carry their names.  Every figure rests on the
    same patient resamples, so that differences are paired.

    Args:
        rows: predictions of this task, as read from its file.
        config: label policy, resamples, level, seed and the order of scores.
        findings: the declared list; a finding without rows is undefined, not left out.
    """
    good = predictions.scored([dict(row) for row in rows])
    draws = Resamples.draw([row["patient_id"] for row in good], resamples=config.resamples, seed=config.seed)
    results: list[Result] = []
    averages: dict[str, Sampled] = {}
    for position, name in enumerate(config.score_names):
        suffix = "" if position == 0 else suffix_of(name)
        own = [row for row in good if row["score_name"] == name]
        figures, averages[name] = _of_score(own, name, suffix, config, draws, findings)
        results += figures
    return results + _differences(averages, config)


def difference(above: Sampled, below: Sampled) -> Sampled:
    """One statistic minus another of the same draws, so that its interval is paired; undefined where either is."""
    paired = above.resampled.shape == below.resampled.shape  # an average of nothing has no resamples
    return Sampled(
        value=above.value - below.value,
        resampled=above.resampled - below.resampled if paired else np.zeros(0),
        n=above.n,
        n_patients=above.n_patients,
        n_positive=above.n_positive,
        undefined=tuple(dict.fromkeys((*above.undefined, *below.undefined))),
    )


def _differences(averages: Mapping[str, Sampled], config: EvaluateConfig) -> list[Result]:
    main, *compared = config.score_names
    rows = []
    for position, name in enumerate(compared):
        found = difference(averages[main], averages[name]).estimate(level=config.level, reason=TOO_MANY_NULLS)
        words = f"macro AUROC of {words_of(main)} minus that of {words_of(name)}, on the same resamples"
        rows.append(result(TASK, f"auroc_difference{suffix_of(name) if position else ''}", MACRO, found, method=words))
    return rows


def _of_score(
    rows: Sequence[Mapping[str, Any]],
    name: str,
    suffix: str,
    config: EvaluateConfig,
    draws: Resamples,
    findings: Sequence[str],
) -> tuple[list[Result], Sampled]:
    """The figures of one score, and its macro AUROC with its resamples."""
    tables = {finding: labelled(rows, finding, config) for finding in findings}
    method = f"score: {words_of(name)}, {config.views} view"
    results, averages = [], {}
    for metric, sample in _METRICS.items():
        members: dict[str, Sampled] = {
            finding: sample(draws, labels, scores, patients) for finding, (labels, scores, patients) in tables.items()
        }
        averages[metric] = macro(members)
        average = averages[metric].estimate(level=config.level, reason=TOO_MANY_NULLS)
        results.append(
            result(TASK, metric + suffix, MACRO, average, method=f"{method}; mean of {len(members)} findings")
        )
        for finding, member in members.items():
            results.append(result(TASK, metric + suffix, finding, member.estimate(level=config.level), method=method))
    results += _exact(tables, suffix, method, config)
    return results, averages["auroc"]


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


def labelled(
    rows: Sequence[Mapping[str, Any]], finding: str, config: EvaluateConfig, *, column: str = "score"
) -> tuple[Int[np.ndarray, " row"], Float[np.ndarray, " row"], list[str]]:
    """(labels, values of a column, patients) of a finding's rows that the label policy leaves."""
    asked = [row for row in rows if row["finding"] == finding]
    labels = apply_policy([row["label"] for row in asked], config.uncertain)
    kept = np.flatnonzero(labels != LEFT_OUT)
    values = np.array([asked[index][column] for index in kept], dtype=np.float64)
    return labels[kept].astype(np.int64), values, [asked[index]["patient_id"] for index in kept]
