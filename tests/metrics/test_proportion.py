from math import sqrt

import pytest

from vlp.metrics.proportion import wilson


def formula(successes: int, trials: int, z: float = 1.959963984540054) -> tuple[float, float]:
    share, square = successes / trials, z * z / trials
    middle = (share + square / 2) / (1 + square)
    half = z / (1 + square) * sqrt(share * (1 - share) / trials + square / (4 * trials))
    return middle - half, middle + half


@pytest.mark.parametrize(("successes", "trials"), [(0, 12), (12, 12), (3, 7), (50, 100)])
def test_interval_equals_the_formula(successes: int, trials: int) -> None:
    assert wilson(successes, trials) == pytest.approx(formula(successes, trials), abs=1e-9)


def test_no_success_at_all_still_leaves_a_width() -> None:
    low, high = wilson(0, 12)
    assert low == 0.0
    assert high > 0.2
