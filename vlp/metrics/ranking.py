"""How well scores rank positives above negatives: AUROC and average precision, with weights and without loops.

With weights w (a patient's multiplicity in a resample), tie groups g in ascending order of score, and
p_g, q_g the weight of positives and negatives in them,
AUROC = sum_g p_g (sum_{h<g} q_h + q_g / 2) / (sum p sum q), which is the pair formula with half credit for ties.
"""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Num

from vlp.errors import DataError
from vlp.metrics.bootstrap import Resamples, Sampled, Statistic
from vlp.metrics.estimate import Estimate


def auroc(
    labels: Num[np.ndarray, " row"] | Sequence[int],
    scores: Num[np.ndarray, " row"] | Sequence[float],
    *,
    patients: Sequence[Hashable] | None = None,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """Area under the ROC curve, ties counted half, with a patient bootstrap interval.

    Args:
        labels: 1 positive, 0 negative.  Uncertain labels are decided or dropped by the caller, by a named policy.
        scores: higher means more likely positive; any monotone scale.
        patients: the patient of each row; None says that every row is a patient of its own.
        resamples: draws for the interval; 0 for none.
        seed: of the draws.
        level: confidence level.

    Returns:
        The estimate; its value is None with reason "one_class" if all labels are equal.

    Raises:
        DataError: for labels other than 0 and 1, scores that are NaN, or lengths that differ.
    """
    return _estimate(auroc_statistic(labels, scores), labels, patients, resamples, seed, level)


def average_precision(
    labels: Num[np.ndarray, " row"] | Sequence[int],
    scores: Num[np.ndarray, " row"] | Sequence[float],
    *,
    patients: Sequence[Hashable] | None = None,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """Average precision, sum_k (R_k - R_{k-1}) P_k without interpolation; arguments and errors as in `auroc`.

    Returns:
        The estimate; its value is None, not 0, if there is no positive.
    """
    return _estimate(average_precision_statistic(labels, scores), labels, patients, resamples, seed, level)


def auroc_statistic(labels: Any, scores: Any) -> Statistic:
    """AUROC of fixed labels and scores as a function of row weights."""
    order, starts, positive = _tie_groups(labels, scores)

    def statistic(weights: Float[np.ndarray, "resample row"]) -> Float[np.ndarray, " resample"]:
        above, below = _group_sums(weights[:, order], starts, positive)
        lower = np.cumsum(below, axis=1) - below / 2.0
        pairs = above.sum(axis=1) * below.sum(axis=1)
        return _guarded((above * lower).sum(axis=1), pairs)

    return statistic


def average_precision_statistic(labels: Any, scores: Any) -> Statistic:
    """Average precision of fixed labels and scores as a function of row weights."""
    order, starts, positive = _tie_groups(labels, -np.asarray(scores, dtype=np.float64))

    def statistic(weights: Float[np.ndarray, "resample row"]) -> Float[np.ndarray, " resample"]:
        hits, misses = _group_sums(weights[:, order], starts, positive)
        found = np.cumsum(hits, axis=1)
        taken = found + np.cumsum(misses, axis=1)
        precision = found / np.maximum(taken, 1.0)
        return _guarded((hits * precision).sum(axis=1), hits.sum(axis=1))

    return statistic


def sample_auroc(draws: Resamples, labels: Any, scores: Any, patients: Sequence[Hashable]) -> Sampled:
    """AUROC on draws shared with other labels, so that macro averages and differences are paired."""
    return draws.sample(auroc_statistic(labels, scores), patients, n_positive=int(np.sum(labels)))


def sample_average_precision(draws: Resamples, labels: Any, scores: Any, patients: Sequence[Hashable]) -> Sampled:
    """Average precision on draws shared with other labels."""
    return draws.sample(average_precision_statistic(labels, scores), patients, n_positive=int(np.sum(labels)))


def check_pairs(labels: Any, scores: Any) -> tuple[np.ndarray, np.ndarray]:
    """Labels as bool and scores as float64, refused unless they can be scored as they are.

    Raises:
        DataError: for labels other than 0 and 1, NaN scores, or lengths that differ.
    """
    label_array = np.asarray(labels)
    score_array = np.asarray(scores, dtype=np.float64)
    if label_array.shape != score_array.shape or label_array.ndim != 1:
        raise DataError(f"labels {label_array.shape} and scores {score_array.shape} must be two lists of one length")
    if not np.isin(label_array, (0, 1)).all():
        raise DataError("labels must be 0 or 1: decide uncertain and missing ones by a label policy first")
    if np.isnan(score_array).any():
        raise DataError(f"{int(np.isnan(score_array).sum())} scores are NaN; they must not be dropped silently")
    return label_array.astype(bool), score_array


def _estimate(
    statistic: Statistic, labels: Any, patients: Sequence[Hashable] | None, resamples: int, seed: int, level: float
) -> Estimate:
    rows = range(len(labels)) if patients is None else patients
    if len(rows) != len(labels):
        raise DataError(f"{len(labels)} rows but {len(rows)} patients; give one patient per row")
    draws = Resamples.draw(rows, resamples=resamples, seed=seed)
    return draws.sample(statistic, rows, n_positive=int(np.sum(labels))).estimate(level=level)


def _tie_groups(labels: Any, scores: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(order of rows by ascending score, first position of each group of equal scores, positives in that order)."""
    positive, values = check_pairs(labels, scores)
    order = np.argsort(values, kind="stable")
    ascending = values[order]
    starts = np.flatnonzero(np.concatenate(([True], ascending[1:] != ascending[:-1]))) if values.size else order
    return order, starts, positive[order]


def _group_sums(weights: np.ndarray, starts: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weight of positives and of negatives in every tie group, each [resample group]."""
    return (
        np.add.reduceat(weights * positive, starts, axis=1),
        np.add.reduceat(weights * ~positive, starts, axis=1),
    )


def _guarded(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    result: np.ndarray = np.where(below > 0, above / np.where(below > 0, below, 1.0), np.nan)
    return result
