import numpy as np
import pytest
from sklearn.metrics import brier_score_loss

from vlp.errors import DataError
from vlp.metrics.calibration import brier, expected_calibration_error


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


def test_monotone_transform_changes_calibration() -> None:
    labels, values = [0, 0, 1, 1], np.array([0.0, 0.0, 1.0, 1.0])
    assert expected_calibration_error(labels, values) == 0.0
    assert expected_calibration_error(labels, 0.5 + values / 4) > 0.3


@pytest.mark.parametrize("metric", [brier, expected_calibration_error])
def test_cosines_are_no_probabilities(metric) -> None:
    with pytest.raises(DataError, match="probabilities must lie"):
        metric([0, 1], [-0.2, 0.4])
    with pytest.raises(DataError, match="probabilities must lie"):
        metric([0, 1], [0.2, 1.2])
    assert np.isnan(metric([], []))
