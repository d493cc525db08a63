import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from vlp.metrics.retrieval import (
    ndcg,
    ndcg_of_random,
    precision_at_k,
    precision_at_k_of_random,
    rank_by_score,
)


def test_precision_divides_by_k_even_for_short_lists() -> None:
    assert precision_at_k(np.array([True, False, True]), 2) == 0.5
    assert precision_at_k(np.array([True, True]), 5) == 0.4


@pytest.mark.parametrize(("relevant", "k"), [([1, 0, 0, 1], 2), ([1, 1, 0], 3), ([0, 1, 0], 5)])
def test_random_rates_equal_the_mean_over_all_orders(relevant: list[int], k: int) -> None:
    orders = list(itertools.permutations(relevant))
    expected = np.mean([precision_at_k(np.array(order, dtype=bool), k) for order in orders])
    assert precision_at_k_of_random(sum(relevant), len(relevant), k) == pytest.approx(expected)
    gains = np.array(relevant) * 0.5
    expected = np.mean([ndcg(np.array(order) * 0.5, gains, k) for order in orders])
    assert ndcg_of_random(gains, k) == pytest.approx(expected)


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=2, max_size=12), st.integers(1, 12))
def test_ndcg_equals_scikit_learn(gains: list[float], k: int) -> None:
    values = np.array(gains)
    scores = -np.arange(len(gains), dtype=float)
    if values.sum() == 0:
        assert np.isnan(ndcg(values, values, k))
        assert np.isnan(ndcg_of_random(values, k))
    else:
        assert ndcg(values, values, k) == pytest.approx(ndcg_score(values[None], scores[None], k=k))


def test_ties_are_ordered_by_key() -> None:
    order = rank_by_score(np.array([0.5, 0.9, 0.5 + 1e-8, 0.5]), ["c", "z", "b", "a"])
    assert order.tolist() == [1, 3, 2, 0]


def test_an_empty_gallery_gives_nothing() -> None:
    assert precision_at_k_of_random(0, 0, 5) == 0.0
    assert precision_at_k(np.zeros(0, dtype=bool), 5) == 0.0
