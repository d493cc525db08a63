"""Whether probabilities mean what they say, and whether a model knows when it does not know.

    Brier score                  mean (p - y)^2
    expected calibration error   sum_b n_b / n |mean p - share of positives|, bins of equal width or of equal mass
    calibration line             logit P(y = 1) = slope logit p + intercept; (1, 0) is perfect    (Cox, 1958)
    risk at a coverage           share of wrong decisions among the rows one is surest of         (Geifman et al., 2019)

Each is also to be had as a `Statistic` of row weights, so that a patient bootstrap costs matrix products.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from vlp.errors import DataError
from vlp.metrics.bootstrap import Statistic
from vlp.metrics.ranking import check_pairs

Binning = Literal["width", "mass"]
"""Bins of equal width, or with equally many rows."""

_CLIP = 1e-6
"""Probabilities are kept this far from 0 and 1 where their logit is taken."""
_STEPS = 50
_CONVERGED = 1e-8
_STEEPEST = 1e3
"""Of a calibration line; one that climbs further follows labels that the probabilities separate, and has no slope."""
_DECIDED = 0.5


class Line(NamedTuple):
    """A calibration line; NaN where labels are of one class or separated by the probabilities."""

    slope: float
    """Below 1: probabilities too extreme; above 1: too timid."""
    intercept: float


class RiskCoverage(NamedTuple):
    """What deciding fewer and fewer rows buys."""

    coverage: Float[np.ndarray, " row"]
    """Share of rows that are decided, rising to 1."""
    risk: Float[np.ndarray, " row"]
    """Share of them that are wrong; rows that one is equally sure of count alike."""


class Reliability(NamedTuple):
    """The bins behind an expected calibration error; those without a row are left out."""

    predicted: Float[np.ndarray, " bin"]
    """Mean probability."""
    observed: Float[np.ndarray, " bin"]
    """Share of positives."""
    rows: Int[np.ndarray, " bin"]


def brier(labels: Any, probabilities: Any) -> float:
    """Mean squared distance of probabilities [row] from labels [row]; NaN without rows.

    Raises:
        DataError: for values outside [0, 1]: cosines and logits are not probabilities.
    """
    return _value(brier_statistic(labels, probabilities), labels)


def brier_statistic(labels: Any, probabilities: Any) -> Statistic:
    """The Brier score of fixed labels and probabilities as a function of row weights."""
    positive, values = _check(labels, probabilities)
    squares = (values - positive) ** 2
    return lambda weights: _divide(weights @ squares, weights.sum(axis=1))


def expected_calibration_error(labels: Any, probabilities: Any, *, bins: int = 15, binning: Binning = "width") -> float:
    """sum_b n_b / n |mean probability - share of positives|; NaN without rows.

    Raises:
        DataError: for values outside [0, 1].
    """
    return _value(ece_statistic(labels, probabilities, bins=bins, binning=binning), labels)


def ece_statistic(labels: Any, probabilities: Any, *, bins: int = 15, binning: Binning = "width") -> Statistic:
    """The expected calibration error of fixed labels and probabilities as a function of row weights.

    The edges of equal-mass bins are those of the rows themselves, not of each resample.
    """
    positive, values = _check(labels, probabilities)
    member = np.zeros((len(values), bins))
    member[np.arange(len(values)), _bin_of(values, bins, binning)] = 1.0
    gaps = member * (values - positive)[:, None]
    return lambda weights: _divide(np.abs(weights @ gaps).sum(axis=1), weights.sum(axis=1))


def reliability(labels: Any, probabilities: Any, *, bins: int = 15, binning: Binning = "width") -> Reliability:
    """Mean probability and share of positives per bin, to be drawn against one another.

    Raises:
        DataError: for values outside [0, 1].
    """
    positive, values = _check(labels, probabilities)
    index = _bin_of(values, bins, binning)
    rows = np.bincount(index, minlength=bins)
    kept = rows > 0
    sums = (np.bincount(index, weights=weights, minlength=bins)[kept] for weights in (values, positive))
    predicted, observed = (total / rows[kept] for total in sums)
    return Reliability(predicted=predicted, observed=observed, rows=rows[kept])


def calibration_line(labels: Any, probabilities: Any) -> Line:
    """Slope and intercept of the labels' log odds over those of the probabilities, by maximum likelihood.

    Raises:
        DataError: for values outside [0, 1].
    """
    lines = _lines(labels, probabilities)
    if len(np.asarray(labels)) == 0:
        return Line(slope=float("nan"), intercept=float("nan"))
    slope, intercept = lines(np.ones((1, len(labels))))[0]
    return Line(slope=float(slope), intercept=float(intercept))


def slope_statistic(labels: Any, probabilities: Any) -> Statistic:
    """The slope of the calibration line as a function of row weights."""
    lines = _lines(labels, probabilities)
    return lambda weights: lines(weights)[:, 0]


def intercept_statistic(labels: Any, probabilities: Any) -> Statistic:
    """The intercept of the calibration line as a function of row weights."""
    lines = _lines(labels, probabilities)
    return lambda weights: lines(weights)[:, 1]


def risk_coverage(labels: Any, probabilities: Any) -> RiskCoverage:
    """The curve one gets by deciding the surest rows first: those far from 1/2; wrong is who is on its other side.

    Raises:
        DataError: for values outside [0, 1].
    """
    order, starts, wrong = _by_sureness(labels, probabilities)
    ones = np.ones((1, len(order)))
    rows = np.arange(1, len(order) + 1)
    return RiskCoverage(
        coverage=rows / max(1, len(order)), risk=np.cumsum(_shared(ones, wrong, starts)[0]) / np.maximum(rows, 1)
    )


def aurc(labels: Any, probabilities: Any) -> float:
    """Area under the risk-coverage curve, the mean of its risks; lower is better, NaN without rows.

    Raises:
        DataError: for values outside [0, 1].
    """
    return _value(aurc_statistic(labels, probabilities), labels)


def aurc_statistic(labels: Any, probabilities: Any) -> Statistic:
    """The area under the risk-coverage curve as a function of row weights."""
    from scipy.special import digamma

    order, starts, wrong = _by_sureness(labels, probabilities)

    def statistic(weights: Float[np.ndarray, "resample row"]) -> Float[np.ndarray, " resample"]:
        sorted_weights = weights[:, order]
        size = np.add.reduceat(sorted_weights, starts, axis=1)
        share = np.nan_to_num(_divide(np.add.reduceat(sorted_weights * wrong, starts, axis=1), size))
        covered = np.cumsum(size, axis=1)
        before, failed = covered - size, np.cumsum(share * size, axis=1) - share * size
        # Within a group the risk after k of its rows is (failed + share k) / (before + k); summed over k = 1 ... size
        # with the harmonic numbers H(n) = digamma(n + 1) + const.
        harmonic = digamma(covered + 1.0) - digamma(before + 1.0)
        risks = share * size + (failed - share * before) * harmonic
        return _divide(risks.sum(axis=1), covered[:, -1])

    return statistic


def _by_sureness(labels: Any, probabilities: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(rows, surest first; where each group of equally sure ones begins; who of them is wrong)."""
    positive, values = _check(labels, probabilities)
    # Rounded, because .2 and .8 lie equally far from .5 for everyone but a computer.
    sureness = np.abs(values - _DECIDED).round(12)
    order = np.argsort(-sureness, kind="stable")
    falling = sureness[order]
    starts = np.flatnonzero(np.concatenate(([True], falling[1:] != falling[:-1]))) if values.size else order
    wrong = ((values >= _DECIDED) != positive.astype(bool)).astype(np.float64)
    return order, starts, wrong[order]


def _shared(weights: np.ndarray, wrong: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Weight of wrong decisions per row, that of a group of equally sure rows spread evenly over the group."""
    if not len(starts):
        return weights * wrong
    sizes = np.diff(np.append(starts, weights.shape[1]))
    share = _divide(np.add.reduceat(weights * wrong, starts, axis=1), np.add.reduceat(weights, starts, axis=1))
    spread: np.ndarray = np.repeat(np.nan_to_num(share), sizes, axis=1) * weights
    return spread


def _lines(labels: Any, probabilities: Any) -> Callable[[np.ndarray], np.ndarray]:
    """From weights [resample row] to (slope, intercept) [resample 2], by Newton's method on all resamples at once."""
    positive, values = _check(labels, probabilities)
    kept = np.clip(values, _CLIP, 1.0 - _CLIP)
    design = np.stack((np.log(kept) - np.log1p(-kept), np.ones(len(kept))), axis=1)
    products = (design[:, :, None] * design[:, None, :]).reshape(len(design), 4)

    def lines(weights: np.ndarray) -> np.ndarray:
        found = np.zeros((len(weights), 2))
        step = np.full_like(found, np.inf)
        for _ in range(_STEPS):
            fitted = 0.5 * (1.0 + np.tanh(0.5 * found @ design.T))
            gradient = (weights * (positive - fitted)) @ design
            curvature = ((weights * fitted * (1.0 - fitted)) @ products).reshape(-1, 2, 2)
            step = np.einsum("rij,rj->ri", np.linalg.pinv(curvature, hermitian=True), gradient)
            found = found + np.clip(step, -_STEEPEST, _STEEPEST)
            if np.abs(step).max(initial=0.0) < _CONVERGED:
                break
        settled = (np.abs(step) < _CONVERGED * 100).all(axis=1) & (np.abs(found) < _STEEPEST).all(axis=1)
        both = ((weights @ positive) > 0) & ((weights @ (1.0 - positive)) > 0)
        return np.where((settled & both & ~_separated(weights, positive, design[:, 0]))[:, None], found, np.nan)

    return lines


def _separated(weights: np.ndarray, positive: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Whether, among the rows that a resample holds, no value of one class lies between those of the other."""
    held, is_positive = weights > 0, positive.astype(bool)
    low = np.where(held, logits, np.inf)
    high = np.where(held, logits, -np.inf)
    sides = []
    for own, other in ((is_positive, ~is_positive), (~is_positive, is_positive)):
        least, most = low[:, own].min(axis=1, initial=np.inf), high[:, other].max(axis=1, initial=-np.inf)
        sides.append(least >= most)
    apart: np.ndarray = sides[0] | sides[1]
    return apart


def _bin_of(values: np.ndarray, bins: int, binning: Binning) -> np.ndarray:
    """The bin of every row.  Equal values share a bin, so that bins of equal mass may differ where values repeat."""
    if binning == "width" or values.size == 0:
        return np.minimum((values * bins).astype(int), bins - 1)
    edges = np.quantile(values, np.arange(1, bins) / bins, method="higher")
    index: np.ndarray = np.searchsorted(edges, values, side="right")
    return index


def _value(statistic: Statistic, labels: Any) -> float:
    rows = len(np.asarray(labels))
    return float(statistic(np.ones((1, rows)))[0]) if rows else float("nan")


def _divide(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    quotient: np.ndarray = np.where(below > 0, above / np.where(below > 0, below, 1.0), np.nan)
    return quotient


def _check(labels: Any, probabilities: Any) -> tuple[np.ndarray, np.ndarray]:
    positive, values = check_pairs(labels, probabilities)
    if values.size and not ((values >= 0) & (values <= 1)).all():
        raise DataError("probabilities must lie in [0, 1]; cosines and logits have no calibration to measure")
    return positive.astype(np.float64), values
