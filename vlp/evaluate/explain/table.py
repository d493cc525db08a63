"""The table of the tests: one row per figure, with its rule, and whether it was kept."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from vlp.metrics.estimate import DEGENERATE, Estimate, format_interval

Outcome = Literal["passed", "failed", "reported", "not run"]
_MAX_DIGITS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure of one test."""

    test: str
    what: str
    """Which figure of the test, in words."""
    value: float | None
    """None where there is none; `method` says why."""
    low: float | None = None
    high: float | None = None
    rule: str = ""
    """What the figure must be; empty where it is only reported."""
    outcome: Outcome
    n: int
    """How many cases the figure was computed from."""
    n_patients: int | None = None
    method: str = ""
    """How the figure came about, or why it did not."""

    @property
    def shown(self) -> str:
        """Value and interval as people read them."""
        if self.value is None:
            return "-"
        if self.low is None and self.high is None:
            return f"{self.value:.3g}"
        return format_interval(self.value, self.low, self.high)

    def to_json(self) -> dict[str, Any]:
        """The row as plain values."""
        return asdict(self)


def checked(test: str, what: str, value: float, *, kept: bool, rule: str, n: int, method: str) -> Row:
    """A figure that has no interval, since it is exact, and either keeps its rule or does not."""
    outcome: Outcome = "passed" if kept else "failed"
    return Row(test=test, what=what, value=value, rule=rule, outcome=outcome, n=n, method=method)


def estimated(test: str, what: str, estimate: Estimate, *, method: str, above: float | None = None) -> Row:
    """A figure with its interval; with `above`, the whole interval must lie above that value.

    Where too little was seen for an interval, the row says that the test was not run.  Where all cases agree, so that
    resampling gives an interval of no width, a value that breaks the rule fails, and one that keeps it proves nothing.
    """
    rule = "" if above is None else f"interval > {above:g}"
    outcome: Outcome = "reported"
    words = f"{method}; {estimate.method} ({estimate.level:.0%})"
    if above is not None and estimate.reason == DEGENERATE and estimate.value is not None and estimate.value <= above:
        outcome = "failed"
    elif estimate.value is None or (above is not None and estimate.low is None):
        outcome = "not run"
        words = f"{words}; too few or too equal cases for an interval: {estimate.reason}"
    elif above is not None:
        assert estimate.low is not None
        outcome = "passed" if estimate.low > above else "failed"
    return Row(
        test=test,
        what=what,
        value=None if estimate.value is None else round(estimate.value, _MAX_DIGITS),
        low=None if estimate.low is None else round(estimate.low, _MAX_DIGITS),
        high=None if estimate.high is None else round(estimate.high, _MAX_DIGITS),
        rule=rule,
        outcome=outcome,
        n=estimate.n,
        n_patients=estimate.n_patients,
        method=words,
    )


def missing(test: str, what: str, why: str, *, rule: str = "") -> Row:
    """A test that could not be run, and why."""
    return Row(test=test, what=what, value=None, rule=rule, outcome="not run", n=0, method=why)


def failures(rows: Sequence[Row]) -> list[Row]:
    """The rows whose rule was not kept."""
    return [row for row in rows if row.outcome == "failed"]
