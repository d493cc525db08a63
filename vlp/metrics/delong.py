"""DeLong's interval for the AUROC, on the logit scale, for labels with few positives.

Structural components: V10_i is the share of negatives that positive i outranks, V01_j the share of positives that
outrank negative j (half for ties); var(AUC) = S10 / n1 + S01 / n0 (DeLong, DeLong and Clarke-Pearson, 1988).
Midranks are kept in float64: half-integers stop being exact in float32 above 2^23 rows.
"""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from scipy.stats import norm, rankdata

from vlp.errors import DataError
from vlp.metrics.estimate import DEGENERATE, ONE_CLASS, Estimate
from vlp.metrics.ranking import check_pairs


def delong_variance(labels: Any, scores: Any) -> tuple[float, float]:
    """(AUROC, its variance); the variance is NaN with fewer than two positives or negatives."""
    positive, values = check_pairs(labels, scores)
    above, below = values[positive], values[~positive]
    n1, n0 = len(above), len(below)
    if n1 == 0 or n0 == 0:
        return float("nan"), float("nan")
    ranks = rankdata(np.concatenate((above, below)))
    v10 = (ranks[:n1] - rankdata(above)) / n0
    v01 = 1.0 - (ranks[n1:] - rankdata(below)) / n1
    if min(n1, n0) < 2:
        return float(v10.mean()), float("nan")
    return float(v10.mean()), float(v10.var(ddof=1) / n1 + v01.var(ddof=1) / n0)


def delong(labels: Any, scores: Any, *, patients: Sequence[Hashable] | None = None, level: float = 0.95) -> Estimate:
    """AUROC with DeLong's logit interval; holds for one row per patient only.

    Raises:
        DataError: if a patient has several rows, since the formula takes rows as independent.
    """
    num = len(labels)
    if patients is not None and len(set(patients)) != num:
        raise DataError("DeLong's interval needs one row per patient; use the patient bootstrap")
    value, variance = delong_variance(labels, scores)
    low = high = reason = None
    if np.isnan(value):
        reason = ONE_CLASS
    elif np.isnan(variance) or not 0.0 < value < 1.0:
        # At 0 and 1 the estimated variance vanishes, which would be an interval of no width.
        reason = DEGENERATE
    else:
        logit = np.log(value / (1.0 - value))
        spread = norm.ppf((1.0 + level) / 2.0) * np.sqrt(variance) / (value * (1.0 - value))
        low, high = (float(1.0 / (1.0 + np.exp(-edge))) for edge in (logit - spread, logit + spread))
    return Estimate(
        value=None if np.isnan(value) else value,
        low=low,
        high=high,
        level=level,
        n=num,
        n_patients=num,
        n_positive=int(np.sum(labels)),
        method="DeLong logit interval",
        reason=reason,
    )
