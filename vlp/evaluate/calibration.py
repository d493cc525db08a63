"""Calibrated probabilities, scored on patients they were not fitted on: are they right, are the sets, what is refused.

Everything but the share of refused studies is computed on the studies that the gate lets through: those that a person
would have been given an answer for.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vlp.evaluate import predictions
from vlp.evaluate.config import EvaluateConfig
from vlp.evaluate.results import ALL, MACRO, Result, result
from vlp.metrics.bootstrap import Resamples, Sampled, Statistic, macro, weighted_mean
from vlp.metrics.calibration import (
    aurc_statistic,
    brier_statistic,
    ece_statistic,
    intercept_statistic,
    reliability,
    risk_coverage,
    slope_statistic,
)
from vlp.metrics.estimate import NO_ROWS, TOO_MANY_NULLS
from vlp.metrics.policy import LEFT_OUT, apply_policy

TASK = "calibration"
INDETERMINATE = "indeterminate"
_CURVE_POINTS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """The rows of one finding that the gate and the label policy leave, column by column."""

    labels: np.ndarray
    score: np.ndarray
    probability: np.ndarray
    holds: np.ndarray
    """Whether the conformal set holds the label."""
    size: np.ndarray
    decided: np.ndarray
    right: np.ndarray
    """Whether the state is that of the label; means nothing where nothing was decided."""
    patients: list[str]

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]], config: EvaluateConfig) -> "_Table":
        """The table of rows of one finding."""
        labels = apply_policy([row["label"] for row in rows], config.uncertain)
        kept = [(row, int(label)) for row, label in zip(rows, labels, strict=True) if label != LEFT_OUT]
        words = {1: ("present", "positive"), 0: ("absent", "negative")}
        return cls(
            labels=np.array([label for _, label in kept], dtype=np.int64),
            score=np.array([row["score"] for row, _ in kept], dtype=np.float64),
            probability=np.array([row["probability"] for row, _ in kept], dtype=np.float64),
            holds=np.array([words[label][0] in row["possible"] for row, label in kept], dtype=np.float64),
            size=np.array([len(row["possible"]) for row, _ in kept], dtype=np.float64),
            decided=np.array([row["state"] != INDETERMINATE for row, _ in kept], dtype=np.float64),
            right=np.array([row["state"] == words[label][1] for row, label in kept], dtype=np.float64),
            patients=[row["patient_id"] for row, _ in kept],
        )

    def mean(self, draws: Resamples, values: np.ndarray, kept: np.ndarray | None = None) -> Sampled:
        """The mean of a column over the rows in `kept` (default: all) on the shared resamples."""
        rows = np.arange(len(self.labels)) if kept is None else np.flatnonzero(kept)
        patients = [self.patients[row] for row in rows]
        return draws.sample(weighted_mean(values[rows]), patients, n_positive=int(self.labels[rows].sum()))


_Figure = Callable[[_Table, Resamples], Sampled]
BINS = 15


def _of(statistic: Callable[..., Statistic], column: str, **options: Any) -> _Figure:
    """The figure that a metric makes of labels and a column."""

    def figure(table: _Table, draws: Resamples) -> Sampled:
        if not len(table.labels):
            return table.mean(draws, table.labels)
        values = statistic(table.labels, getattr(table, column), **options)
        return draws.sample(values, table.patients, n_positive=int(table.labels.sum()))

    return figure


_CENTRED = frozenset({"ece", "ece_equal_mass", "ece_similarity"})
"""Resampling adds noise to every bin, so that resampled errors lie above the value: their interval is shifted back."""
_RAW = "of the similarity (uncalibrated, geometric mean) read as if it were a probability"
_FIGURES: Mapping[str, tuple[str, _Figure]] = {
    "ece": (f"expected calibration error over {BINS} bins of equal width", _of(ece_statistic, "probability")),
    "ece_equal_mass": (
        f"expected calibration error over {BINS} bins of equally many rows",
        _of(ece_statistic, "probability", binning="mass"),
    ),
    "ece_similarity": (f"{_RAW}, over {BINS} bins of equal width", _of(ece_statistic, "score")),
    "brier": ("mean squared distance of probability and label", _of(brier_statistic, "probability")),
    "brier_similarity": (_RAW, _of(brier_statistic, "score")),
    "slope": (
        "slope of the labels' log odds over the probabilities'; 1 is right, less is overconfident",
        _of(slope_statistic, "probability"),
    ),
    "intercept": (
        "intercept of the labels' log odds over the probabilities'; 0 is right",
        _of(intercept_statistic, "probability"),
    ),
    "coverage": ("share of studies whose conformal set holds the label", lambda t, draws: t.mean(draws, t.holds)),
    "coverage_present": (
        "of studies with the finding, share whose set holds present",
        lambda table, draws: table.mean(draws, table.holds, table.labels == 1),
    ),
    "coverage_absent": (
        "of studies without the finding, share whose set holds absent",
        lambda table, draws: table.mean(draws, table.holds, table.labels == 0),
    ),
    "set_size": ("mean number of labels in the conformal set", lambda table, draws: table.mean(draws, table.size)),
    "decided": (
        "share of studies with a state: one label alone in the conformal set",
        lambda table, draws: table.mean(draws, table.decided),
    ),
    "error_decided": (
        "share of studies with the wrong state among those with a state",
        lambda table, draws: table.mean(draws, 1.0 - table.right, table.decided == 1),
    ),
    "error_forced": (
        "share of wrong answers where p >= 1/2 has to decide every study",
        lambda table, draws: table.mean(draws, (table.probability >= 0.5) != (table.labels == 1)),
    ),
    "aurc": (
        "mean over all coverages of the error rate of p >= 1/2 among the most confident",
        _of(aurc_statistic, "probability"),
    ),
}


def estimate(rows: Sequence[Mapping[str, Any]], config: EvaluateConfig, *, findings: Sequence[str]) -> list[Result]:
    """Calibration error, Brier score, coverage and abstention per finding with their macro averages; gate refusals.

    Args:
        rows: predictions of this task, as read from its file.
        config: label policy, resamples, level and seed.
        findings: the declared list; a finding that was not calibrated is undefined, not left out.
    """
    good = predictions.scored([dict(row) for row in rows])
    draws = Resamples.draw([row["patient_id"] for row in good], resamples=config.resamples, seed=config.seed)
    tables = {name: _table(good, name, config) for name in findings}
    results: list[Result] = []
    for metric, (words, figure) in _FIGURES.items():
        members = {name: figure(table, draws) for name, table in tables.items()}
        average = macro(members)
        if metric in _CENTRED:
            members, average = {name: _centred(member) for name, member in members.items()}, _centred(average)
            words = f"{words}; interval shifted by the mean noise of resampling"
        several = f"{words}; mean of {len(members)} findings"
        over = average.estimate(level=config.level, reason=TOO_MANY_NULLS)
        results.append(result(TASK, metric, MACRO, over, method=several))
        results += [
            result(TASK, metric, name, member.estimate(level=config.level, reason=NO_ROWS), method=words)
            for name, member in members.items()
        ]
    return results + _refused(good, draws, config)


def plots(
    rows: Sequence[Mapping[str, Any]], config: EvaluateConfig, *, findings: Sequence[str]
) -> dict[str, list[Any]]:
    """The points of a reliability plot before and after calibration and of a risk-coverage curve, findings pooled."""
    good = predictions.scored([dict(row) for row in rows])
    tables = [_table(good, name, config) for name in findings]
    labels = np.concatenate([table.labels for table in tables])
    probability = np.concatenate([table.probability for table in tables])
    curve = risk_coverage(labels, probability)
    last = len(labels) - 1
    shown = np.unique(np.linspace(0, last, _CURVE_POINTS).astype(int)).tolist() if last >= 0 else []
    return {
        "before": _points(labels, np.concatenate([table.score for table in tables])),
        "after": _points(labels, probability),
        "risk": [(float(curve.coverage[row]), float(curve.risk[row])) for row in shown],
    }


def _points(labels: np.ndarray, probability: np.ndarray) -> list[tuple[float, float, int]]:
    """(mean probability, share of positives, rows) of every bin that holds a row."""
    found = reliability(labels, probability, bins=BINS)
    return list(zip(found.predicted.tolist(), found.observed.tolist(), found.rows.tolist(), strict=True))


def _table(rows: Sequence[Mapping[str, Any]], finding: str, config: EvaluateConfig) -> _Table:
    return _Table.of([row for row in rows if row["finding"] == finding and not row["gate"]], config)


def _centred(sampled: Sampled) -> Sampled:
    if np.isnan(sampled.resampled).all():
        return sampled
    shift = np.nanmean(sampled.resampled) - sampled.value
    return replace(sampled, resampled=np.maximum(sampled.resampled - shift, 0.0))


def _refused(rows: Sequence[Mapping[str, Any]], draws: Resamples, config: EvaluateConfig) -> list[Result]:
    """Share of studies the gate refuses, with the reasons in the method; nothing where there was no gate."""
    studies = {row["study_id"]: row for row in rows if row["gate"] is not None}
    if not studies:
        return []
    reasons = Counter(row["gate"] for row in studies.values() if row["gate"])
    values = np.array([float(bool(row["gate"])) for row in studies.values()])
    patients = [row["patient_id"] for row in studies.values()]
    found = draws.sample(weighted_mean(values), patients, n_positive=int(values.sum())).estimate(level=config.level)
    counts = ", ".join(f"{reason} {number}" for reason, number in sorted(reasons.items())) or "none"
    words = f"share of {len(studies)} studies of this split that the gate refuses: {counts}"
    return [result(TASK, "gate_refused", ALL, found, method=words)]
