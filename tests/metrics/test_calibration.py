import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss

from vlp.errors import DataError
from vlp.metrics.calibration import (
    aurc,
    aurc_statistic,
    brier,
    brier_statistic,
    calibration_line,
    ece_statistic,
    expected_calibration_error,
    intercept_statistic,
    reliability,
    risk_coverage,
    slope_statistic,
)

STATISTICS = {
    "brier": (brier, brier_statistic),
    "ece": (expected_calibration_error, ece_statistic),
    "aurc": (aurc, aurc_statistic),
    "slope": (lambda labels, values: calibration_line(labels, values).slope, slope_statistic),
    "intercept": (lambda labels, values: calibration_line(labels, values).intercept, intercept_statistic),
}


def drawn(rows: int, *, seed: int = 0, overconfident: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn at the odds that their probabilities claim, made `overconfident` times as extreme."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-0.5, 1.5, size=rows)
    labels = (rng.random(rows) < 1 / (1 + np.exp(-logits))).astype(int)
    return labels, 1 / (1 + np.exp(-overconfident * logits))


def test_brier_equals_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    labels, values = rng.integers(2, size=50), rng.random(50)
    assert brier(labels, values) == pytest.approx(brier_score_loss(labels, values))


def test_calibration_error_equals_a_loop_over_bins() -> None:
    rng = np.random.default_rng(1)
    labels, values = rng.integers(2, size=200), rng.random(200)
    values[:2] = (0.0, 1.0)
    expected = 0.0
    for index in range(10):
        upper = values <= 1.0 if index == 9 else values < (index + 1) / 10
        inside = (values >= index / 10) & upper
        if inside.any():
            expected += inside.mean() * abs(values[inside].mean() - labels[inside].mean())
    assert expected_calibration_error(labels, values, bins=10) == pytest.approx(expected)


def test_bins_of_equal_mass_hold_equally_many_rows() -> None:
    labels, values = drawn(300, seed=2)
    values = values**4  # most of them near 0, where bins of equal width see little
    order = np.argsort(values)
    expected = sum(
        len(part) / 300 * abs(values[part].mean() - labels[part].mean()) for part in np.array_split(order, 15)
    )
    assert expected_calibration_error(labels, values, binning="mass") == pytest.approx(expected)
    assert reliability(labels, values, binning="mass").rows.tolist() == [20] * 15
    assert reliability(labels, values).rows.max() > 100


def test_equal_values_share_a_bin_of_equal_mass() -> None:
    labels = [0] * 10 + [1] * 10
    assert expected_calibration_error(labels, [0.5] * 20, bins=4, binning="mass") == 0.0
    assert reliability(labels, [0.5] * 20, bins=4, binning="mass").rows.tolist() == [20]


def test_reliability_adds_up_to_the_error() -> None:
    labels, values = drawn(120, seed=3, overconfident=2.0)
    bins = reliability(labels, values)
    error = (np.abs(bins.predicted - bins.observed) * bins.rows).sum() / bins.rows.sum()
    assert error == pytest.approx(expected_calibration_error(labels, values))


def test_line_equals_unpenalised_logistic_regression() -> None:
    labels, values = drawn(400, seed=4, overconfident=2.0)
    logits = np.log(values / (1 - values))
    reference = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(logits[:, None], labels)
    line = calibration_line(labels, values)
    assert line.slope == pytest.approx(reference.coef_[0, 0], rel=1e-4)
    assert line.intercept == pytest.approx(reference.intercept_[0], abs=1e-4)
    assert line.slope == pytest.approx(0.5, abs=0.1), "twice too extreme: half the slope"


@pytest.mark.parametrize(
    ("labels", "values"),
    [([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.9]), ([1, 1, 0], [0.1, 0.2, 0.9]), ([1, 1], [0.3, 0.6]), ([], [])],
    ids=["separated", "separated the wrong way", "one class", "no rows"],
)
def test_there_is_no_line_without_overlap(labels: list[int], values: list[float]) -> None:
    assert np.isnan(calibration_line(labels, values)).all()


def test_risk_coverage_by_hand() -> None:
    # Surest first: .99 right, .05 (label 1) wrong, .9 right, .4 right, .6 (label 0) wrong; .4 and .6 are equally sure.
    curve = risk_coverage([1, 1, 1, 0, 0], [0.99, 0.05, 0.9, 0.4, 0.6])
    assert curve.coverage == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert curve.risk == pytest.approx([0, 1 / 2, 1 / 3, 1.5 / 4, 2 / 5])
    assert aurc([1, 1, 1, 0, 0], [0.99, 0.05, 0.9, 0.4, 0.6]) == pytest.approx(np.mean(curve.risk))


def test_the_order_of_equally_sure_rows_does_not_matter() -> None:
    labels, values = np.array([1, 0, 0, 1, 0, 1]), np.array([0.8, 0.8, 0.2, 0.2, 0.8, 0.3])
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(6)
        assert aurc(labels[order], values[order]) == pytest.approx(aurc(labels, values))


def test_better_ordered_doubt_costs_less() -> None:
    labels = np.array([1, 1, 1, 0, 0, 0])
    knows = np.array([0.9, 0.9, 0.45, 0.1, 0.1, 0.55])  # unsure where it is wrong
    boasts = np.array([0.6, 0.6, 0.05, 0.4, 0.4, 0.95])  # surest where it is wrong
    assert aurc(labels, knows) < 0.2 < aurc(labels, boasts)


@pytest.mark.parametrize("name", STATISTICS)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_weights_count_rows_as_copies_do(name: str, seed: int) -> None:
    metric, statistic = STATISTICS[name]
    labels, values = drawn(40, seed=seed)
    counts = np.random.default_rng(seed).integers(0, 3, size=40)
    values = np.round(values, 2).clip(0.01, 0.99)  # with ties
    weighted = statistic(labels, values)(np.stack((counts.astype(float), np.ones(40))))
    copies = np.repeat(np.arange(40), counts)
    assert weighted[0] == pytest.approx(metric(labels[copies], values[copies]), nan_ok=True, rel=1e-5, abs=1e-7)
    assert weighted[1] == pytest.approx(metric(labels, values), nan_ok=True)


def test_monotone_transform_changes_calibration() -> None:
    labels, values = [0, 0, 1, 1], np.array([0.0, 0.0, 1.0, 1.0])
    assert expected_calibration_error(labels, values) == 0.0
    assert expected_calibration_error(labels, 0.5 + values / 4) > 0.3


@pytest.mark.parametrize("metric", [brier, expected_calibration_error, aurc])
def test_cosines_are_no_probabilities(metric) -> None:
    with pytest.raises(DataError, match="probabilities must lie"):
        metric([0, 1], [-0.2, 0.4])
    with pytest.raises(DataError, match="probabilities must lie"):
        metric([0, 1], [0.2, 1.2])
    assert np.isnan(metric([], []))
