import numpy as np
import pytest

from vlp.retrieval.kinds import FlatConfig, IvfFastScanConfig, IvfSq8Config, build, recall_of, true_neighbours
from vlp.retrieval.kinds.ivf import FEWEST_ROWS, automatic_lists


def test_lists_grow_with_the_root_of_the_count() -> None:
    assert [automatic_lists(count) for count in (100_000, 1_000_000, 16_000_000)] == [1024, 4096, 16384]
    assert automatic_lists(0) == 1


def test_few_vectors_are_all_compared(drawn) -> None:
    vectors = drawn(FEWEST_ROWS - 1)
    searcher = build(IvfFastScanConfig(probes=1), 32, [(np.arange(len(vectors)), vectors)])
    assert searcher.lists == 0
    flat = build(FlatConfig(), 32, [(np.arange(len(vectors)), vectors)])
    np.testing.assert_array_equal(searcher.search(vectors[:50], 10)[1], flat.search(vectors[:50], 10)[1])


@pytest.mark.parametrize("dim", [6, 7, 10, 64])
def test_every_width_has_codes(drawn, dim) -> None:
    vectors = drawn(FEWEST_ROWS, dim=dim)
    searcher = build(IvfFastScanConfig(lists=8, probes=8, rerank=20), dim, [(np.arange(FEWEST_ROWS), vectors)])
    assert searcher.lists == 8
    assert recall_of(searcher.search(vectors[:50], 10)[1], true_neighbours(searcher, vectors[:50], 10)) > 0.9


@pytest.mark.parametrize("config", [IvfFastScanConfig(lists=64, rerank=30), IvfSq8Config(lists=64)])
def test_more_probes_find_more(drawn, config) -> None:
    vectors, asked = drawn(4000), drawn(200, seed=3)
    searcher = build(config, 32, [(np.arange(4000), vectors)])
    truth = true_neighbours(searcher, asked, 10)
    found = []
    for probes in (1, 8, 64):
        searcher.config = config.model_copy(update={"probes": probes})
        found.append(recall_of(searcher.search(asked, 10)[1], truth))
    assert found[0] < found[1] < found[2]
    assert found[2] > 0.97


def test_codes_take_an_eighth_of_a_byte_per_number_and_bytes_are_counted(drawn) -> None:
    searcher = build(IvfFastScanConfig(lists=16), 32, [(np.arange(2048), drawn(2048))])
    beside = searcher.facts.bytes - searcher.rows.bytes
    assert beside == 2048 * (32 // 8 + 8) + 16 * 32 * 4


def test_building_twice_finds_the_same(drawn) -> None:
    vectors, asked = drawn(2500), drawn(40, seed=2)
    first, second = (build(IvfFastScanConfig(lists=16, probes=2), 32, [(np.arange(2500), vectors)]) for _ in range(2))
    np.testing.assert_array_equal(first.search(asked, 10)[1], second.search(asked, 10)[1])
