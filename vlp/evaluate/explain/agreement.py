"""How alike two maps are: structural similarity and rank correlation, each of maps of one size."""

import numpy as np
from jaxtyping import Float
from scipy.ndimage import uniform_filter
from scipy.stats import spearmanr

WINDOW = 7
"""Side of the window of local means, in patches; smaller on smaller grids."""
_K1, _K2 = 0.01, 0.03


def ssim(one: Float[np.ndarray, "rows columns"], other: Float[np.ndarray, "rows columns"]) -> float:
    """Mean structural similarity (Wang et al., 2004) of two maps, each stretched to [0, 1]; NaN stands for 0.

    Windows of 7 x 7 that lie wholly on the grid, population variances.  A constant map stretches to 0 everywhere.
    """
    x, y = _stretched(one), _stretched(other)
    size = min(WINDOW, *x.shape)
    inside = tuple(slice(size // 2, side - (size - 1) // 2) for side in x.shape)

    def mean(values: np.ndarray) -> np.ndarray:
        found: np.ndarray = uniform_filter(values, size=size, mode="reflect")[inside]
        return found

    mean_x, mean_y = mean(x), mean(y)
    variance_x, variance_y = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    c1, c2 = _K1**2, _K2**2
    likeness = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return float((likeness / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))).mean())


def spearman(one: Float[np.ndarray, "*shape"], other: Float[np.ndarray, "*shape"]) -> float:
    """Rank correlation over the places where both have a value; 0 where either is constant."""
    x, y = np.ravel(one), np.ravel(other)
    both = np.isfinite(x) & np.isfinite(y)
    x, y = x[both], y[both]
    if x.size < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(spearmanr(x, y).statistic)


def _stretched(values: np.ndarray) -> np.ndarray:
    low, high = np.nanmin(values), np.nanmax(values)
    if not high > low:
        return np.zeros(values.shape)
    stretched: np.ndarray = np.nan_to_num((values - low) / (high - low), nan=0.0)
    return stretched
