import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from vlp.errors import DataError
from vlp.metrics.bootstrap import Resamples
from vlp.metrics.ranking import (
    auroc,
    auroc_statistic,
    average_precision,
    average_precision_statistic,
    sample_auroc,
    sample_average_precision,
)

rows = st.lists(st.tuples(st.integers(0, 1), st.integers(-3, 3), st.integers(0, 3)), min_size=2, max_size=40)


@given(rows)
def test_weighted_ranking_equals_scikit_learn(drawn: list[tuple[int, int, int]]) -> None:
    labels, scores, weights = (np.array(column) for column in zip(*drawn, strict=True))
    weights = weights + 0.0
    positives, negatives = (weights * labels).sum(), (weights * (1 - labels)).sum()
    area = auroc_statistic(labels, scores)(weights[None])[0]
    precision = average_precision_statistic(labels, scores)(weights[None])[0]
    if positives and negatives:
        assert area == pytest.approx(roc_auc_score(labels, scores, sample_weight=weights))
    else:
        assert np.isnan(area)
    if positives:
        assert precision == pytest.approx(average_precision_score(labels, scores, sample_weight=weights))
    else:
        assert np.isnan(precision)


def test_ties_get_half_credit_by_hand() -> None:
    # Pairs (positive, negative): 3>1, 3>2, 2>1, 2=2 -> (3 + 0.5) / 4; the fifth row is a positive below all: 0 of 2.
    assert auroc([1, 1, 0, 0, 1], [3, 2, 2, 1, 0], resamples=0).value == pytest.approx(3.5 / 6)


def test_constant_perfect_and_inverted_scores() -> None:
    labels = [0, 0, 1, 1]
    assert auroc(labels, [0.3] * 4).value == 0.5
    assert auroc(labels, labels).value == 1.0
    assert auroc(labels, [-label for label in labels]).value == 0.0
    assert average_precision(labels, labels).value == 1.0
    assert average_precision(labels, [0.3] * 4).value == 0.5


def test_monotone_transform_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(2, size=50), rng.normal(size=50)
    assert auroc(labels, scores) == auroc(labels, np.exp(scores))


@pytest.mark.parametrize("metric", [auroc, average_precision])
def test_no_positives_is_null_with_a_reason(metric) -> None:
    estimate = metric([0, 0, 0], [0.1, 0.2, 0.3])
    assert estimate.value is None
    assert estimate.reason == "one_class"
    assert metric([], []).reason == "no_rows"


@pytest.mark.parametrize("bad", [[0, 1, -1], [0, 1, float("nan")], [0, 1, 2]])
def test_labels_without_a_policy_are_refused(bad: list[float]) -> None:
    with pytest.raises(DataError, match="policy"):
        auroc(bad, [0.1, 0.2, 0.3])


def test_nan_scores_and_unequal_lengths_are_refused() -> None:
    with pytest.raises(DataError, match="1 scores are NaN"):
        auroc([0, 1], [float("nan"), 0.2])
    with pytest.raises(DataError, match="one length"):
        auroc([0, 1], [0.1])
    with pytest.raises(DataError, match="one patient per row"):
        auroc([0, 1], [0.1, 0.2], patients=["a"])


def test_estimate_carries_its_counts() -> None:
    estimate = auroc([0, 1, 1, 0], [0.1, 0.9, 0.4, 0.2], patients=["a", "a", "b", "c"])
    assert (estimate.n, estimate.n_patients, estimate.n_positive, estimate.level) == (4, 3, 2, 0.95)


def test_fourteen_labels_and_a_thousand_resamples_take_seconds() -> None:
    rng = np.random.default_rng(0)
    patients = rng.integers(200, size=500)
    started = time.process_time()
    draws = Resamples.draw(patients, resamples=1000)
    for _ in range(14):
        labels, scores = rng.integers(2, size=500), rng.normal(size=500)
        sample_auroc(draws, labels, scores, patients)
        sample_average_precision(draws, labels, scores, patients)
    assert time.process_time() - started < 10.0
