"""What holds for every kind, asked of every kind."""

from typing import Any

import numpy as np
import pytest

from vlp.errors import DataError
from vlp.retrieval.kinds import (
    FlatConfig,
    HnswConfig,
    IvfFastScanConfig,
    IvfSq8Config,
    KindConfig,
    build,
    recall_of,
)
from vlp.retrieval.kinds.base import RowSearcher

COUNT = 3000
CONFIGS = [
    FlatConfig(),
    IvfFastScanConfig(lists=32, probes=30, rerank=14),
    IvfSq8Config(lists=32, probes=24, rerank=4),
    HnswConfig(effort=64),
]
IDS = np.random.default_rng(3).permutation(4 * COUNT)[:COUNT]


@pytest.fixture(scope="module", params=CONFIGS, ids=lambda config: config.kind)
def config(request: pytest.FixtureRequest) -> KindConfig:
    chosen: KindConfig = request.param
    return chosen


@pytest.fixture(scope="module")
def built(config, drawn) -> RowSearcher:
    return _build(config, drawn)


def _build(config: KindConfig, drawn: Any) -> RowSearcher:
    vectors = drawn(COUNT)
    halves = [(IDS[:1700], vectors[:1700]), (IDS[1700:], vectors[1700:])]
    return build(config, vectors.shape[1], halves)


def test_finds_most_neighbours_with_their_true_cosines(built, drawn, naive) -> None:
    assert built.kind == "flat" or all(built.takes_short_cut(10, total) for total in (COUNT, COUNT // 2))
    asked = drawn(100, seed=8)
    scores, ids = built.search(asked, 10)
    true_scores, true_ids = naive(drawn(COUNT), IDS, asked, 10)
    assert recall_of(ids, true_ids) >= 0.95
    same = ids == true_ids
    np.testing.assert_allclose(scores[same], true_scores[same], atol=3e-6)
    assert (np.diff(np.round(scores, 6), axis=1) <= 0).all()


@pytest.mark.parametrize("share", [0.001, 0.01, 0.1, 0.5, 0.9])
def test_filters_are_kept_and_still_find_neighbours(built, drawn, naive, share) -> None:
    allowed = np.sort(np.random.default_rng(5).permutation(IDS)[: max(1, round(share * COUNT))])
    asked = drawn(60, seed=9)
    _, ids = built.search(asked, 10, allowed=allowed)
    assert np.isin(ids, allowed).all()
    assert recall_of(ids, naive(drawn(COUNT), IDS, asked, 10, allowed=allowed)[1]) >= 0.95
    truth_values = np.zeros(4 * COUNT, bool)
    truth_values[allowed] = True
    np.testing.assert_array_equal(built.search(asked, 10, allowed=truth_values)[1], ids)


def test_what_an_index_wrongly_returns_is_left_out(built, drawn, monkeypatch) -> None:
    # Rows that were excluded, rows that do not exist, and none at all: faiss has done each of them.
    asked, allowed = drawn(5, seed=10), IDS[::2]
    promised = np.tile(np.arange(16), (5, 1))
    promised[:, 0], promised[:, 2] = -1, COUNT + 7
    monkeypatch.setattr(
        built, "_candidates", lambda queries, count, mask, *, share: (np.ones(promised.shape, np.float32), promised)
    )
    _, ids = built.search(asked, 12, allowed=allowed)
    assert ids.shape == (5, 12)
    assert np.isin(ids, allowed).all()
    assert all(len(set(found)) == 12 for found in ids)


def test_all_neighbours_of_a_small_rest_are_found(built) -> None:
    _, ids = built.search(np.ones((2, 32), np.float32), COUNT + 5)
    assert ids.shape == (2, COUNT)
    assert all(set(found) == set(IDS) for found in ids)


def test_what_is_removed_never_comes_back_and_what_is_added_is_found(config, drawn) -> None:
    searcher, vectors = _build(config, drawn), drawn(COUNT)
    gone, rest = IDS[:400], IDS[400:]
    assert searcher.remove(gone) == 400
    assert searcher.remove(gone) == 0
    assert not np.isin(searcher.search(vectors[:400], 10)[1], gone).any()
    assert not np.isin(searcher.search(vectors[:400], 10, allowed=IDS)[1], gone).any()
    fresh = drawn(300, seed=77)
    searcher.add(gone[:300], fresh)
    assert (searcher.search(fresh, 1)[1][:, 0] == gone[:300]).mean() > 0.95
    assert len(searcher) == len(rest) + 300
    searcher.rebuild()
    assert (searcher.facts.count, searcher.facts.dead) == (len(rest) + 300, 0)
    found = searcher.search(np.concatenate([vectors[:400], fresh]), 10)[1]
    assert not np.isin(found, gone[300:]).any()
    assert (found[400:, 0] == gone[:300]).mean() > 0.95


def test_recall_does_not_fall_when_vectors_leave_and_return(config, drawn, naive) -> None:
    # faiss's fast-scan lists lose codes when rows are added where others were removed.
    searcher, vectors, asked = _build(config, drawn), drawn(COUNT), drawn(100, seed=8)
    before = recall_of(searcher.search(asked, 10)[1], naive(vectors, IDS, asked, 10)[1])
    searcher.remove(IDS[:500])
    searcher.add(IDS[:500], vectors[:500])
    after = recall_of(searcher.search(asked, 10)[1], naive(vectors, IDS, asked, 10)[1])
    assert after >= before - 0.02


def test_equal_vectors_come_in_the_order_of_their_ids(config, drawn) -> None:
    vectors = drawn(COUNT)
    twins = [11, 1200, 2999]
    vectors[twins] = vectors[11]
    searcher = build(config, 32, [(IDS, vectors)])
    assert searcher.search(vectors[11:12], 3)[1][0].tolist() == sorted(IDS[twins].tolist())


def test_comes_back_from_its_folder_as_it_was(built, config, drawn, tmp_path) -> None:
    asked = drawn(20, seed=12)
    built.save(tmp_path / "saved")
    for mmap in (True, False):
        opened = type(built).open(tmp_path / "saved", mmap=mmap)
        assert opened.facts == built.facts
        for found, expected in zip(opened.search(asked, 10), built.search(asked, 10), strict=True):
            np.testing.assert_array_equal(found, expected)


def test_an_opened_one_takes_vectors_in_and_leaves_its_folder_alone(built, drawn, tmp_path) -> None:
    built.save(tmp_path)
    opened = type(built).open(tmp_path)
    fresh = drawn(50, seed=13)
    opened.add(np.arange(50) + 4 * COUNT, fresh)
    opened.remove(IDS[:10])
    assert (opened.search(fresh, 1)[1][:, 0] >= 4 * COUNT).mean() > 0.95
    again = type(built).open(tmp_path)
    assert len(again) == COUNT
    opened.save(tmp_path)
    assert len(type(built).open(tmp_path)) == COUNT + 40


def test_faults_leave_it_as_it_was(built, drawn) -> None:
    fault = drawn(3, seed=14)
    fault[2, 5] = np.nan
    with pytest.raises(DataError, match="row 2 is not finite"):
        built.add(np.arange(3) + 5 * COUNT, fault)
    with pytest.raises(DataError, match="in the index"):
        built.add(IDS[:1], drawn(1))
    assert len(built) == COUNT
