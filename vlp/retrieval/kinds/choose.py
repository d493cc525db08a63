"""Which kind of searcher suits so many vectors and so much memory.

The figures behind it are those of `benchmarks/search.py`: below 200,000 vectors comparing all of them is exact and
quick; above, fast-scan lists are built as quickly as any and answer many times faster at the same recall.
"""

import math
from typing import Annotated

from pydantic import Field

from vlp.errors import ConfigError
from vlp.retrieval.kinds.ivf import FEWEST_ROWS, automatic_lists
from vlp.retrieval.kinds.kind import FlatConfig, IvfFastScanConfig, KindConfig

FLAT_BELOW = 200_000
"""Vectors up to which every one is compared."""

Share = Annotated[float, Field(gt=0, le=1)]


def choose(count: int, dim: int, *, memory_bytes: int | None = None, recall: float = 0.99) -> KindConfig:
    """The kind for `count` vectors, with parameters to begin with; `tune` finds the ones that reach `recall`.

    Args:
        count: vectors.
        dim: numbers in each.
        memory_bytes: what the index may take in memory; None for no limit.  Kinds that compare candidates by the
            vectors may leave those on disk (`open_searcher` maps the file), so only what they hold beside the
            vectors has to fit; `flat` reads all of them for every query.
        recall: share of the true 10 nearest to be found; 1 leaves only `flat`.

    Raises:
        ConfigError: if no kind fits, or the numbers make no sense.
    """
    if count < 0 or dim < 1 or not 0.0 < recall <= 1.0:
        raise ConfigError(f"no kind of index for {count} vectors of {dim} numbers at recall {recall}")
    budget = math.inf if memory_bytes is None else memory_bytes
    exact_fits = vectors_bytes(count, dim) <= budget
    if recall == 1.0 or count < FEWEST_ROWS or (count < FLAT_BELOW and exact_fits):
        if exact_fits:
            return FlatConfig()
        raise ConfigError(f"{count} vectors of {dim} numbers take {vectors_bytes(count, dim)} bytes: allow for more")
    if fast_scan_bytes(count, dim) > budget:
        raise ConfigError(
            f"{count} vectors of {dim} numbers need {fast_scan_bytes(count, dim)} bytes with their vectors on disk: "
            "allow for more, or divide them into several indexes"
        )
    probes, rerank = (64, 10) if recall <= 0.97 else (192, 20)
    return IvfFastScanConfig(probes=min(probes, automatic_lists(count)), rerank=rerank)


def vectors_bytes(count: int, dim: int) -> int:
    """Of float16 vectors with ids, lengths and marks."""
    return count * (2 * dim + 8 + 4 + 1)


def fast_scan_bytes(count: int, dim: int) -> int:
    """What fast-scan lists hold in memory when the vectors stay on disk: codes, ids, lengths, marks, centres."""
    return count * (math.ceil(dim / 8) + 8 + 8 + 4 + 1) + automatic_lists(count) * dim * 4
