import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from vlp.metrics.retrieval import (
    average_precision_at_r,
    average_precision_at_r_of_random,
    hit_at_k,
    hit_at_k_of_random,
    ndcg,
    ndcg_of_random,
    precision_at_k,
    precision_at_k_of_random,
    rank_by_score,
    reciprocal_rank,
    reciprocal_rank_of_random,
    vote_shares,
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


@pytest.mark.parametrize("relevant", [[1, 0, 0, 1, 0], [1, 1, 0], [0, 1, 0, 0, 0, 0], [1, 1, 1], [1]])
def test_chance_of_hits_ranks_and_average_precision_equals_the_mean_over_all_orders(relevant: list[int]) -> None:
    orders = [np.array(order, dtype=bool) for order in itertools.permutations(relevant)]
    found, cases = sum(relevant), len(relevant)
    for k in (1, 2, 9):
        assert hit_at_k_of_random(found, cases, k) == pytest.approx(np.mean([hit_at_k(order, k) for order in orders]))
    expected = np.mean([average_precision_at_r(order) for order in orders])
    assert average_precision_at_r_of_random(found, cases) == pytest.approx(expected)
    assert reciprocal_rank_of_random(found, cases) == pytest.approx(np.mean([reciprocal_rank(one) for one in orders]))


@given(st.lists(st.booleans(), min_size=1, max_size=20))
def test_average_precision_at_r_equals_its_definition(relevant: list[bool]) -> None:
    total = sum(relevant)
    value = average_precision_at_r(np.array(relevant))
    if total == 0:
        assert np.isnan(value)
        assert np.isnan(average_precision_at_r_of_random(0, len(relevant)))
    else:
        terms = [sum(relevant[: rank + 1]) / (rank + 1) for rank in range(total) if relevant[rank]]
        assert value == pytest.approx(sum(terms) / total)


def test_hits_and_ranks_of_hand_made_lists() -> None:
    ranked = np.array([False, False, True, True])
    assert (hit_at_k(ranked, 2), hit_at_k(ranked, 3)) == (0.0, 1.0)
    assert reciprocal_rank(ranked) == pytest.approx(1 / 3)
    assert reciprocal_rank(np.zeros(4, dtype=bool)) == 0.0
    assert reciprocal_rank_of_random(0, 4) == 0.0
    # Two relevant, and the second of them at rank 4 lies beyond R = 2.
    assert average_precision_at_r(np.array([True, False, False, True])) == 0.5


def test_votes_weigh_by_similarity_and_leave_out_who_says_nothing() -> None:
    votes = np.array([[1.0, np.nan, np.nan], [0.0, 1.0, np.nan], [1.0, 0.0, np.nan]])
    shares = vote_shares(votes, np.array([0.5, 0.25, 0.25]))
    assert shares[:2] == pytest.approx([0.75, 0.5])
    assert np.isnan(shares[2])


def test_a_case_unlike_the_query_has_no_voice() -> None:
    assert vote_shares(np.array([[1.0], [0.0]]), np.array([0.4, -0.4])) == pytest.approx([1.0])
    assert np.isnan(vote_shares(np.array([[1.0]]), np.array([-1.0]))).all()


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
