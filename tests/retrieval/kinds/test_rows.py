import faiss
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vlp.errors import DataError
from vlp.retrieval.kinds import rows as module
from vlp.retrieval.kinds.kind import checked_vectors
from vlp.retrieval.kinds.rows import Rows


@pytest.fixture(autouse=True, params=[1, 2])
def threads(one_thread, request) -> None:
    faiss.omp_set_num_threads(request.param)


def _rows(vectors: np.ndarray, ids: np.ndarray) -> Rows:
    rows = Rows.empty(vectors.shape[1])
    rows.add(ids, vectors)
    return rows


@pytest.mark.parametrize("queries", [1, module._FEW_QUERIES, 40])
@pytest.mark.parametrize("share", [None, 0.02, 0.6])
def test_finds_what_sorting_everything_finds(drawn, is_nearest, monkeypatch, queries, share) -> None:
    monkeypatch.setattr(module, "_BLOCK_NUMBERS", 128 * 32)
    vectors, ids = drawn(1000), np.random.default_rng(1).permutation(5000)[:1000]
    rows = _rows(vectors, ids)
    allowed = None if share is None else ids[np.random.default_rng(2).random(1000) < share]
    asked = drawn(queries, seed=5)
    scores, found = rows.exact(asked, 12, rows.mask(allowed))
    assert is_nearest((scores, rows.ids[found]), vectors, ids, asked, 12, allowed=allowed)


def test_a_query_scores_the_same_alone_and_among_others(drawn) -> None:
    rows = _rows(drawn(700), np.arange(700))
    asked = drawn(50, seed=3)
    together = rows.exact(asked, 9)
    for number in (0, 7, 49):
        alone = rows.exact(asked[number : number + 1], 9)
        np.testing.assert_array_equal(alone[0][0], together[0][number])
        np.testing.assert_array_equal(alone[1][0], together[1][number])


@pytest.mark.parametrize("queries", [1, 30])
def test_many_equal_vectors_come_in_the_order_of_their_ids(drawn, queries) -> None:
    # More of them than are fetched at first: the lowest ids must not be missing.
    vectors = drawn(400)
    ids = np.random.default_rng(0).permutation(400)
    vectors[50:250] = vectors[50]
    scores, found = _rows(vectors, ids).exact(np.repeat(vectors[50:51], queries, axis=0), 20)
    expected = np.sort(ids[50:250])[:20]
    assert all(np.array_equal(ids[row], expected) for row in found)
    np.testing.assert_allclose(scores, 1.0, atol=1e-6)


def test_an_image_is_itself_whatever_float16_made_of_it(drawn) -> None:
    vectors = drawn(300, dim=512)
    scores, _ = _rows(vectors, np.arange(300)).exact(vectors, 1)
    assert scores.min() > 1.0 - 1e-6


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.booleans(), st.sets(st.integers(0, 30), max_size=8)), max_size=12))
def test_adding_and_removing_is_that_of_a_dictionary(steps) -> None:
    rng = np.random.default_rng(0)
    rows, held = Rows.empty(6), {}
    for is_added, some in steps:
        ids = np.array(sorted(some), np.int64)
        if is_added:
            fresh = ids[~np.isin(ids, list(held))]
            vectors = checked_vectors(rng.normal(size=(len(fresh), 6)), 6, what="vectors")
            rows.add(fresh, vectors)
            held |= dict(zip(fresh.tolist(), vectors, strict=True))
        else:
            assert len(rows.remove(ids)) == sum(held.pop(int(number), None) is not None for number in ids)
    for compacted in (False, True):
        if compacted:
            rows.compact()
            assert rows.count == len(held)
        assert len(rows) == len(held)
        places = rows.rows_of(np.arange(31))
        assert {int(number) for number in np.flatnonzero(places >= 0)} == set(held)
        for number, vector in held.items():
            np.testing.assert_allclose(rows.vectors[places[number]], vector, atol=1e-3)


def test_a_taken_id_is_refused_and_nothing_is_added(drawn) -> None:
    rows = _rows(drawn(5), np.arange(5))
    with pytest.raises(DataError, match="in the index"):
        rows.add(np.array([7, 4]), drawn(2))
    assert len(rows) == rows.count == 5
    rows.remove(np.array([4]))
    rows.add(np.array([7, 4]), drawn(2))
    assert len(rows) == 6


def test_truth_values_are_by_id_and_ids_beyond_them_are_left_out(drawn) -> None:
    rows = _rows(drawn(4), np.array([3, 0, 9, 2]))
    mask = rows.mask(np.array([True, True, False, True]))
    np.testing.assert_array_equal(mask, [True, True, False, False])
    np.testing.assert_array_equal(rows.mask(np.array([9, 77, -5])), [False, False, True, False])
    rows.remove(np.array([3]))
    np.testing.assert_array_equal(rows.mask(np.ones(20, bool)), [False, True, True, True])
    with pytest.raises(DataError, match="allowed"):
        rows.mask(np.array([0.5]))


def test_faiss_looks_at_our_memory(drawn) -> None:
    rows = _rows(drawn(50), np.arange(50))
    view = rows.quantizer(10, 30)
    rows.vectors[12] = -rows.vectors[12]
    np.testing.assert_array_equal(view.reconstruct(2), rows.vectors[12].astype(np.float32))
    assert view.ntotal == 20
