"""Shares of successes: Wilson's interval, which keeps a width where every trial came out the same."""

from scipy.stats import binomtest


def wilson(successes: int, trials: int, *, level: float = 0.95) -> tuple[float, float]:
    """(low, high) of the share of `successes` among independent `trials` (Wilson, 1927)."""
    assert 0 <= successes <= trials
    assert trials > 0
    interval = binomtest(successes, trials).proportion_ci(confidence_level=level, method="wilson")
    return float(interval.low), float(interval.high)
