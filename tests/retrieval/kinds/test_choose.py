import numpy as np
import pytest

from vlp.errors import ConfigError
from vlp.retrieval.kinds import build, choose
from vlp.retrieval.kinds.choose import FLAT_BELOW, fast_scan_bytes, vectors_bytes


def test_small_archives_are_searched_exactly_and_large_ones_by_lists() -> None:
    assert choose(1, 512).kind == "flat"
    assert choose(FLAT_BELOW - 1, 512).kind == "flat"
    assert choose(FLAT_BELOW, 512).kind == "ivf_fastscan"
    assert choose(50_000_000, 512, recall=1.0).kind == "flat"


def test_more_recall_starts_with_more_effort() -> None:
    low, high = choose(1_000_000, 512, recall=0.95), choose(1_000_000, 512, recall=0.99)
    assert (low.probes, low.rerank) < (high.probes, high.rerank)


def test_memory_decides_too() -> None:
    # 100,000 vectors are 104 MB; lists of them 10 MB with the vectors left on disk.
    assert choose(100_000, 512, memory_bytes=50 << 20).kind == "ivf_fastscan"
    assert choose(100_000, 512, memory_bytes=200 << 20).kind == "flat"
    for arguments in ({"memory_bytes": 1 << 20}, {"memory_bytes": 50 << 20, "recall": 1.0}):
        with pytest.raises(ConfigError, match="allow for more"):
            choose(100_000, 512, **arguments)


@pytest.mark.parametrize("arguments", [(-1, 4, 0.9), (1, 0, 0.9), (1, 4, 0.0), (1, 4, 1.5)])
def test_numbers_that_make_no_sense_are_refused(arguments) -> None:
    count, dim, recall = arguments
    with pytest.raises(ConfigError, match="no kind"):
        choose(count, dim, recall=recall)


def test_the_bytes_it_reckons_with_are_those_of_the_searcher(drawn) -> None:
    count = 4096
    for config, beside in ((choose(count, 32), 0), (choose(count, 32, memory_bytes=vectors_bytes(count, 32) - 1), 1)):
        searcher = build(config, 32, [(np.arange(count), drawn(count))])
        assert searcher.rows.bytes == vectors_bytes(count, 32)
        held = searcher.facts.bytes - beside * searcher.rows.vectors.nbytes
        assert held == (fast_scan_bytes(count, 32) if beside else vectors_bytes(count, 32))
