"""Whether probabilities mean what they say: Brier score and expected calibration error."""

from typing import Any

import numpy as np

from vlp.errors import DataError
from vlp.metrics.ranking import check_pairs


def brier(labels: Any, probabilities: Any) -> float:
    """Mean squared distance of probabilities [row] from labels [row]; NaN without rows.

    Raises:
        DataError: for values outside [0, 1]: cosines and logits are not probabilities.
    """
    positive, values = _check(labels, probabilities)
    return float(np.mean((values - positive) ** 2)) if values.size else float("nan")


def expected_calibration_error(labels: Any, probabilities: Any, *, bins: int = 15) -> float:
    """sum_b n_b / n |mean probability - share of positives| over equal-width bins; NaN without rows.

    Raises:
        DataError: for values outside [0, 1].
    """
    positive, values = _check(labels, probabilities)
    if values.size == 0:
        return float("nan")
    index = np.minimum((values * bins).astype(int), bins - 1)
    predicted = np.bincount(index, weights=values, minlength=bins)
    observed = np.bincount(index, weights=positive, minlength=bins)
    return float(np.abs(predicted - observed).sum() / values.size)


def _check(labels: Any, probabilities: Any) -> tuple[np.ndarray, np.ndarray]:
    positive, values = check_pairs(labels, probabilities)
    if values.size and not ((values >= 0) & (values <= 1)).all():
        raise DataError("probabilities must lie in [0, 1]; cosines and logits have no calibration to measure")
    return positive.astype(np.float64), values
