"""A number that never travels alone: its interval, its counts, how it was made, and why it may be missing."""

from dataclasses import dataclass

ONE_CLASS = "one_class"
"""Reason code: only positives or only negatives, so that nothing can be ranked."""
NO_ROWS = "no_rows"
"""Reason code: nothing to compute from."""
UNDEFINED_RESAMPLES = "undefined_resamples"
"""Reason code: more than 5 % of the resamples had no value, so that no honest interval exists."""
TOO_MANY_NULLS = "too_many_nulls"
"""Reason code: more than 20 % of the members of a macro average are undefined."""
DEGENERATE = "degenerate_variance"
"""Reason code: perfect separation or a single case, where formula and resamples give an interval of no width."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """One figure with its interval.  Undefined is None with a reason, never zero."""

    value: float | None
    low: float | None = None
    high: float | None = None
    level: float = 0.95
    """Confidence level of [low, high]."""
    n: int
    """Rows (studies, images, queries) the value was computed from."""
    n_patients: int
    n_positive: int = 0
    """Positive rows; 0 where the metric knows no positives."""
    method: str
    """How value and interval came about, in words."""
    reason: str | None = None
    """Why the value or its interval is missing: a reason code of this module."""
    undefined: tuple[str, ...] = ()
    """Members of a macro average that had no value."""

    def __str__(self) -> str:
        return format_interval(self.value, self.low, self.high)


def format_interval(value: float | None, low: float | None, high: float | None, *, digits: int = 3) -> str:
    """The figure as people read it: "0.912 [0.880, 0.941]", with "n/a" for what is undefined."""
    if value is None:
        return "n/a"
    if low is None or high is None:
        return f"{value:.{digits}f} [n/a]"
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
