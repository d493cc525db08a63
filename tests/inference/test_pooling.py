import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlp.errors import DataError
from vlp.inference.pooling import CLIP, GeometricMean, Groups, LogOdds, Pooling, from_json, logit, sigma

GROUPS = Groups(findings=("a", "b", "c"), ids=("a0", "a1", "b0", "c0", "c1", "c2"), starts=(0, 2, 3))
FITTED = LogOdds(
    weights={"a0": 0.7, "a1": 0.0, "b0": 1.3, "c0": 0.2, "c1": 2.0, "c2": 0.4}, bias={"a": -1.0, "b": 0.5, "c": -3.0}
)
RULES = [GeometricMean(), FITTED, LogOdds(), LogOdds(weights={"b0": 2.0}, bias={"b": -0.3})]


def probabilities(rows: int = 7, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.01, 0.99, size=(rows, 6))


def test_the_geometric_mean_is_the_root_of_the_product() -> None:
    p = probabilities()
    expected = [[(r[0] * r[1]) ** 0.5, r[2], (r[3] * r[4] * r[5]) ** (1 / 3)] for r in p]
    np.testing.assert_allclose(GeometricMean().pool(p, GROUPS), expected, rtol=1e-12)


def test_log_odds_are_a_logistic_regression() -> None:
    p = probabilities()
    for row, scores in zip(p, FITTED.pool(p, GROUPS), strict=True):
        odds = [math.log(value / (1 - value)) for value in row]
        totals = [-1.0 + 0.7 * odds[0], 0.5 + 1.3 * odds[2], -3.0 + 0.2 * odds[3] + 2.0 * odds[4] + 0.4 * odds[5]]
        assert list(scores) == pytest.approx([1 / (1 + math.exp(-total)) for total in totals], abs=1e-12)


def test_a_finding_that_was_not_fitted_counts_its_descriptors_alike() -> None:
    p = probabilities()
    scores = LogOdds(weights={"b0": 2.0}, bias={"b": 0.0}).pool(p, GROUPS)
    np.testing.assert_allclose(scores[:, 0], sigma(logit(p[:, :2]).mean(axis=1)))
    np.testing.assert_allclose(scores[:, 1], sigma(2.0 * logit(p[:, 2])))


@pytest.mark.parametrize("rule", RULES)
@given(seed=st.integers(0, 1000))
def test_contributions_add_up_and_undecided_means_nothing(rule: Pooling, seed: int) -> None:
    p = probabilities(3, seed=seed)
    parts = rule.contributions(p, GROUPS)
    sums = np.stack([parts[:, 0:2].sum(axis=1), parts[:, 2], parts[:, 3:6].sum(axis=1)], axis=1)
    totals = rule.offsets(GROUPS) + sums
    np.testing.assert_allclose(rule.link(totals), rule.pool(p, GROUPS), rtol=1e-12)
    for column in range(6):
        changed = p.copy()
        changed[:, column] = 0.5
        finding = [0, 0, 1, 2, 2, 2][column]
        expected = rule.link(totals[:, finding] - parts[:, column])
        np.testing.assert_allclose(rule.pool(changed, GROUPS)[:, finding], expected, rtol=1e-10)


@pytest.mark.parametrize("rule", [GeometricMean(), FITTED])
def test_no_descriptor_can_veto_alone(rule: Pooling) -> None:
    p = np.array([[0.0, 1.0, 0.0, 1.0, 0.0, 1.0]])
    assert np.isfinite(rule.totals(p, GROUPS)).all()
    assert GeometricMean().pool(p, GROUPS)[0, 0] == pytest.approx(math.sqrt(CLIP), rel=1e-4)


def test_a_descriptor_without_a_weight_is_refused() -> None:
    rule = LogOdds(weights={"a0": 1.0}, bias={"a": 0.0})
    with pytest.raises(DataError, match="'a1' of 'a'"):
        rule.pool(probabilities(), GROUPS)


def test_a_finding_without_descriptors_has_its_offset() -> None:
    groups = Groups(findings=("none", "a", "none too"), ids=("a0", "a1"), starts=(0, 0, 2))
    assert groups.counts == (0, 2, 0)
    p = probabilities()[:, :2]
    np.testing.assert_allclose(GeometricMean().pool(p, groups), [[0.5, math.sqrt(r[0] * r[1]), 0.5] for r in p])


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_survives_its_json(rule: Pooling) -> None:
    assert from_json(json.loads(json.dumps(rule.to_json()))) == rule


@pytest.mark.parametrize(
    "content", [{}, {"kind": "mean"}, {"kind": "log_odds"}, {"kind": "log_odds", "weights": {"a": "x"}, "bias": {}}]
)
def test_what_is_no_rule_is_refused(content: dict) -> None:
    with pytest.raises(DataError, match="pooling rule"):
        from_json(content)
