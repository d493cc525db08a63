import pytest

from vlp.evaluate.explain.table import checked, estimated, failures, missing
from vlp.metrics.estimate import DEGENERATE, Estimate


def _estimate(value: float | None, low: float | None = None, high: float | None = None) -> Estimate:
    reason = DEGENERATE if low is None else None
    return Estimate(value=value, low=low, high=high, n=9, n_patients=7, method="bootstrap", reason=reason)


@pytest.mark.parametrize(
    ("estimate", "above", "outcome"),
    [
        (_estimate(0.2, 0.1, 0.3), 0.0, "passed"),
        (_estimate(0.2, -0.1, 0.3), 0.0, "failed"),
        (_estimate(0.2, 0.0, 0.3), 0.0, "failed"),
        (_estimate(0.2, 0.1, 0.3), None, "reported"),
        (_estimate(0.2), None, "reported"),
        (_estimate(0.2), 0.0, "not run"),
        (_estimate(-0.2), 0.0, "failed"),
        (_estimate(None), None, "not run"),
    ],
)
def test_the_whole_interval_must_keep_the_rule(estimate: Estimate, above: float | None, outcome: str) -> None:
    row = estimated("a test", "a figure", estimate, method="how", above=above)
    assert row.outcome == outcome
    assert (row.n, row.n_patients) == (9, 7)
    assert row.rule == ("interval > 0" if above is not None else "")
    assert ("interval: degenerate" in row.method) == (outcome == "not run")


def test_figures_are_shown_with_their_interval() -> None:
    assert estimated("t", "w", _estimate(0.25, 0.1, 0.4), method="").shown == "0.250 [0.100, 0.400]"
    assert checked("t", "w", 2.5e-16, kept=True, rule="<= 1", n=1, method="").shown == "2.5e-16"
    assert missing("t", "w", "why").shown == "-"


def test_only_broken_rules_are_failures() -> None:
    good = checked("t", "w", 0.0, kept=True, rule="= 0", n=1, method="")
    bad = checked("t", "w", 1.0, kept=False, rule="= 0", n=1, method="")
    assert failures([good, bad, missing("t", "w", "why", rule="= 0")]) == [bad]
