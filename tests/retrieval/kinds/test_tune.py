import logging
import sys

import numpy as np
import pytest

from vlp.errors import DataError
from vlp.retrieval.kinds import (
    FlatConfig,
    HnswConfig,
    IvfFastScanConfig,
    IvfSq8Config,
    build,
    open_searcher,
    recall_of,
    true_neighbours,
    tune,
)

COUNT = 4000


@pytest.mark.parametrize("config", [IvfFastScanConfig(lists=64), IvfSq8Config(lists=64), HnswConfig(links=8)])
def test_reaches_the_recall_on_queries_it_never_saw_and_stores_it(config, drawn, tmp_path, monkeypatch) -> None:
    # What takes how long is the machine's affair: here it is what is read and compared.
    def cost(_, config, *rest) -> float:
        return float(getattr(config, "effort", 0) or config.probes * COUNT / 64 + 20 * config.rerank)

    monkeypatch.setattr(sys.modules[tune.__module__], "_seconds", cost)
    searcher = build(config, 32, [(np.arange(COUNT), drawn(COUNT))])
    tuned = tune(searcher, drawn(300, seed=5), 0.9)
    fresh = drawn(300, seed=6)
    found = recall_of(searcher.search(fresh, 10)[1], true_neighbours(searcher, fresh, 10))
    assert 0.88 < found < 0.99  # enough, and no more effort than that takes
    assert searcher.facts.parameters == tuned
    stored = searcher.facts.recall
    assert (stored.asked, stored.k, stored.queries) == (0.9, 10, 150)
    assert abs(stored.found - found) < 0.03
    searcher.save(tmp_path)
    assert open_searcher(tmp_path).facts.recall == stored


def test_more_recall_takes_more_effort(drawn) -> None:
    searcher = build(HnswConfig(links=8), 32, [(np.arange(COUNT), drawn(COUNT))])
    efforts = [tune(searcher, drawn(200, seed=5), recall).effort for recall in (0.7, 0.9, 0.99)]
    assert efforts == sorted(set(efforts))


def test_the_stored_recall_is_of_the_other_half_of_the_queries(drawn, monkeypatch) -> None:
    searcher = build(FlatConfig(), 32, [(np.arange(50), drawn(50))])
    seen = []

    def quickest(own, queries, *_):
        seen.append(queries)
        return own.config

    monkeypatch.setattr(sys.modules[tune.__module__], "_quickest", quickest)
    asked = drawn(40, seed=2)
    tune(searcher, asked, 1.0)
    np.testing.assert_allclose(seen[0], asked[::2], atol=1e-6)
    assert searcher.facts.recall.found == 1.0


def test_what_cannot_be_reached_is_said(drawn, caplog) -> None:
    searcher = build(IvfFastScanConfig(lists=64), 32, [(np.arange(COUNT), drawn(COUNT))])
    with caplog.at_level(logging.WARNING):
        tune(searcher, drawn(100, seed=5), 1.0)
    if searcher.facts.recall.found < 1.0:
        assert "below the 1.0000 that was asked for" in caplog.text
    assert searcher.facts.recall.found > 0.97


def test_too_few_queries_and_impossible_recalls_are_refused(drawn) -> None:
    searcher = build(FlatConfig(), 32, [(np.arange(50), drawn(50))])
    with pytest.raises(DataError, match="at least 20 queries"):
        tune(searcher, drawn(19), 0.9)
    with pytest.raises(DataError, match="recall must be"):
        tune(searcher, drawn(20), 1.2)


def test_recall_is_the_share_of_true_neighbours() -> None:
    truth = np.array([[1, 2], [3, 4]])
    assert recall_of(np.array([[2, 9], [4, 3]]), truth) == 0.75
    assert recall_of(np.empty((2, 0), int), np.empty((2, 0), int)) == 1.0
