import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from vlp.errors import DataError
from vlp.metrics.delong import delong, delong_variance
from vlp.metrics.ranking import auroc


def naive(labels: np.ndarray, scores: np.ndarray) -> float:
    above, below = scores[labels == 1], scores[labels == 0]
    psi = (above[:, None] > below[None]) + 0.5 * (above[:, None] == below[None])
    return psi.mean(axis=1).var(ddof=1) / len(above) + psi.mean(axis=0).var(ddof=1) / len(below)


@pytest.mark.parametrize("decimals", [0, 1, 6])
def test_variance_equals_the_pair_matrix(decimals: int) -> None:
    rng = np.random.default_rng(decimals)
    labels = rng.integers(2, size=80)
    scores = (rng.normal(size=80) + labels).round(decimals)
    value, variance = delong_variance(labels, scores)
    assert value == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert variance == pytest.approx(naive(labels, scores), abs=1e-12)


def test_interval_agrees_with_the_bootstrap() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(2, size=400)
    scores = rng.normal(size=400) + labels
    formula, resampled = delong(labels, scores), auroc(labels, scores)
    assert formula.value == pytest.approx(resampled.value)
    assert (formula.low, formula.high) == pytest.approx((resampled.low, resampled.high), abs=0.01)


def test_interval_stays_inside_the_unit_interval() -> None:
    labels = np.array([0] * 30 + [1] * 3)
    scores = np.concatenate((np.arange(30.0), [28.5, 29.5, 40.0]))
    estimate = delong(labels, scores)
    assert 0.0 < estimate.low < estimate.value < estimate.high < 1.0


def test_where_the_formula_says_nothing_there_is_no_interval() -> None:
    assert delong([0, 0, 1, 1], [0, 1, 2, 3]).reason == "degenerate_variance"
    assert delong([0, 0, 1], [0, 2, 1]).low is None
    assert delong([0, 0], [0, 1]).reason == "one_class"


def test_several_rows_of_a_patient_are_refused() -> None:
    with pytest.raises(DataError, match="one row per patient"):
        delong([0, 1, 1], [0, 1, 2], patients=["a", "a", "b"])
