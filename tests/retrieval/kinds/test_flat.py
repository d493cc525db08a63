import numpy as np
import pytest

from vlp.errors import DataError
from vlp.retrieval.kinds import FlatConfig, create


def _flat(vectors: np.ndarray, ids: np.ndarray):
    flat = create(FlatConfig(), vectors.shape[1])
    flat.add(ids, vectors)
    return flat


def test_finds_all_neighbours_in_order(drawn, is_nearest) -> None:
    vectors, ids, asked = drawn(500), np.random.default_rng(0).permutation(500), drawn(20, seed=4)
    scores, found = _flat(vectors, ids).search(5.0 * asked, 10)
    assert is_nearest((scores, found), vectors, ids, asked, 10)
    assert scores.dtype == np.float32
    assert found.dtype == np.int64


def test_more_than_there_are_is_all_there_are(drawn) -> None:
    flat = _flat(drawn(7), np.arange(7))
    scores, ids = flat.search(drawn(3, seed=2), 50)
    assert scores.shape == ids.shape == (3, 7)
    assert (ids >= 0).all()


def test_an_empty_one_finds_nothing(drawn) -> None:
    flat = create(FlatConfig(), 32)
    assert flat.search(drawn(2), 5)[1].shape == (2, 0)
    assert _flat(drawn(5), np.arange(5)).search(drawn(2), 5, allowed=np.array([], np.int64))[1].shape == (2, 0)
    assert _flat(drawn(5), np.arange(5)).search(drawn(0), 5)[1].shape == (0, 5)


def test_queries_that_mean_nothing_are_refused(drawn) -> None:
    flat = _flat(drawn(5), np.arange(5))
    for fault in (np.full((1, 32), np.nan), np.zeros((1, 32)), np.ones((1, 31))):
        with pytest.raises(DataError, match="queries"):
            flat.search(fault.astype(np.float32), 3)
    with pytest.raises(DataError, match="k must be"):
        flat.search(drawn(1), 0)


def test_the_facts_count_what_is_there(drawn) -> None:
    flat = _flat(drawn(10), np.arange(10))
    assert flat.remove(np.array([1, 2, 99])) == 2
    facts = flat.facts
    assert (facts.count, facts.dead, facts.dim, len(flat)) == (8, 2, 32, 8)
    assert facts.bytes == 10 * (2 * 32 + 8 + 4 + 1)
    flat.rebuild()
    assert flat.facts.dead == 0
