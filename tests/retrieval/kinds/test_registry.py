import numpy as np
import pytest

from vlp.errors import DataError
from vlp.retrieval.kinds import FlatConfig, HnswConfig, IvfFastScanConfig, IvfSq8Config, build, create, open_searcher
from vlp.retrieval.kinds.registry import over_rows


@pytest.mark.parametrize("config", [FlatConfig(), IvfFastScanConfig(), IvfSq8Config(), HnswConfig()])
def test_every_kind_is_made_saved_and_opened_by_its_name(config, drawn, tmp_path) -> None:
    searcher = build(config, 32, [(np.arange(60), drawn(60)), (np.arange(60, 70), drawn(10, seed=1))])
    searcher.save(tmp_path)
    opened = open_searcher(tmp_path)
    assert type(opened) is type(searcher)
    assert opened.facts.parameters == config
    assert len(opened) == 70


@pytest.mark.parametrize("config", [FlatConfig(), IvfFastScanConfig(), HnswConfig()])
def test_an_empty_one_can_be_saved_and_filled_later(config, drawn, tmp_path) -> None:
    create(config, 32).save(tmp_path)
    opened = open_searcher(tmp_path)
    assert len(opened) == 0
    assert opened.search(drawn(2), 3)[1].shape == (2, 0)
    opened.add(np.arange(9), drawn(9))
    opened.rebuild()
    assert opened.search(drawn(9), 1)[1][:, 0].tolist() == list(range(9))


def test_a_fault_in_any_chunk_is_told(drawn) -> None:
    with pytest.raises(DataError, match="in the index"):
        build(FlatConfig(), 32, [(np.arange(5), drawn(5)), (np.arange(4, 9), drawn(5))])


def test_rows_may_be_shared_and_are_all_compared_until_something_is_built(drawn) -> None:
    flat = build(FlatConfig(), 32, [(np.arange(3000), drawn(3000))])
    lists = over_rows(IvfFastScanConfig(probes=1), flat.rows)
    asked = drawn(30, seed=1)
    np.testing.assert_array_equal(lists.search(asked, 10)[1], flat.search(asked, 10)[1])
    assert lists.rows is flat.rows
