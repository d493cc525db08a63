"""From a kind's parameters to its searcher: made empty, built from vectors, opened from a folder."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from vlp.retrieval.kinds import files
from vlp.retrieval.kinds.base import RowSearcher
from vlp.retrieval.kinds.flat import FlatSearcher
from vlp.retrieval.kinds.hnsw import HnswSearcher
from vlp.retrieval.kinds.ivf import IvfFastScanSearcher, IvfSq8Searcher
from vlp.retrieval.kinds.kind import KindConfig
from vlp.retrieval.kinds.rows import Rows

_KINDS: dict[str, type[RowSearcher]] = {
    searcher.kind: searcher for searcher in (FlatSearcher, IvfFastScanSearcher, IvfSq8Searcher, HnswSearcher)
}


def create(config: KindConfig, dim: int) -> RowSearcher:
    """An empty searcher."""
    return over_rows(config, Rows.empty(dim))


def over_rows(config: KindConfig, rows: Rows) -> RowSearcher:
    """A searcher of rows that exist; it compares all of them until `rebuild` is called."""
    return _KINDS[config.kind](config, rows)


def build(config: KindConfig, dim: int, chunks: Iterable[tuple[np.ndarray, np.ndarray]]) -> RowSearcher:
    """A searcher of the (ids, vectors) of all chunks, which are read one after the other.

    Raises:
        DataError: for vectors or ids that `Searcher.add` refuses.
    """
    searcher = create(config, dim)
    for ids, vectors in chunks:
        searcher.add(ids, vectors)
    searcher.rebuild()
    return searcher


def open_searcher(folder: Path | str, *, mmap: bool = True) -> RowSearcher:
    """The searcher in a folder, of whatever kind it is; with `mmap` the vectors stay on disk until they are read.

    Raises:
        DataError: for a folder that holds none, or one that is damaged.
    """
    return _KINDS[files.kind_of(Path(folder))].open(Path(folder), mmap=mmap)


def restore(folder: Path | str) -> RowSearcher:
    """The searcher in a folder built anew from its vectors, whatever happened to its codes or links.

    Raises:
        DataError: if the vectors themselves are damaged.
    """
    side_car, rows, _ = files.read(Path(folder), mmap=False, core=False)
    searcher = over_rows(side_car.facts.parameters, rows)
    searcher.recall = side_car.facts.recall
    searcher.rebuild()
    return searcher
