"""A graph of neighbours over the float16 rows.

The graph cannot forget: removed rows stay as stepping stones and are left out of results until `rebuild`.  faiss's
search keeps `bounded_queue` as it comes (true): with false it returned rows that it was told to exclude.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np

from vlp.errors import DataError
from vlp.retrieval.kinds.base import RowSearcher
from vlp.retrieval.kinds.kind import load_faiss
from vlp.retrieval.kinds.rows import Found, Mask, Rows

_ADDED_ROWS = 16384
"""Rows linked in one call: as float32 they take 2 KB each at width 512."""


class HnswSearcher(RowSearcher):
    """Walks from neighbour to neighbour towards the query."""

    kind = "hnsw"

    def __init__(self, config: Any, rows: Rows) -> None:
        """See `RowSearcher`."""
        super().__init__(config, rows)
        self._graph: Any | None = None
        self._storage: Any = None

    @property
    def graph(self) -> Any | None:
        """The index of faiss, of links and rows, for those who measure it; None where nothing was built."""
        return self._graph

    def _build(self) -> None:
        self._graph = None
        if len(self.rows):
            graph = self._empty()
            self._storage = load_faiss().downcast_index(graph.storage)
            self._link(graph, 0)
            self._graph = graph

    def _empty(self) -> Any:
        faiss = load_faiss()
        graph = faiss.IndexHNSWSQ(
            self.dim, faiss.ScalarQuantizer.QT_fp16, self.config.links, faiss.METRIC_INNER_PRODUCT
        )
        graph.hnsw.efConstruction = self.config.build_effort
        graph.is_trained = True  # there is nothing to learn for float16
        graph.storage.is_trained = True
        return graph

    def _link(self, graph: Any, first: int) -> None:
        """Links the rows from `first` on; faiss fills a storage of its own, which then becomes a view of our rows."""
        for start in range(first, self.rows.count, _ADDED_ROWS):
            graph.add(self.rows.vectors[start : start + _ADDED_ROWS].astype(np.float32))
        self._storage.codes = self.rows.quantizer().codes

    def _added(self, rows: np.ndarray) -> None:
        if self._graph is not None:
            faiss = load_faiss()
            before = self.rows.vectors[: rows[0]]
            codes = faiss.MaybeOwnedVectorUInt8()
            codes.resize(before.nbytes)
            if before.nbytes:
                faiss.rev_swig_ptr(codes.data(), before.nbytes)[:] = before.reshape(-1).view(np.uint8)
            self._storage.codes = codes
            self._link(self._graph, int(rows[0]))

    def _candidates(self, queries: np.ndarray, count: int, mask: Mask | None, *, share: float) -> Found:
        faiss = load_faiss()
        walk: dict[str, Any] = {"efSearch": max(math.ceil(self.config.effort / share), count)}
        if mask is not None:
            walk["sel"] = faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
        assert self._graph is not None
        found: Found = self._graph.search(queries, count, params=faiss.SearchParametersHNSW(**walk))
        return found

    def _breadth(self, wanted: int) -> int:
        return max(self.config.effort, wanted)

    def _core(self) -> Any | None:
        return self._graph

    def _core_bytes(self) -> int:
        if self._graph is None:
            return 0
        links = self._graph.hnsw
        return int(4 * links.neighbors.size() + 8 * links.offsets.size() + 4 * links.levels.size())

    def _take(self, core: Any, path: Path) -> None:
        faiss = load_faiss()
        fits = isinstance(core, faiss.IndexHNSWSQ) and core.d == self.dim and core.ntotal == self.rows.count
        if not fits or core.metric_type != faiss.METRIC_INNER_PRODUCT or not _sound(core.hnsw, core.ntotal):
            raise DataError(f"{path}: not the links of these vectors; build them anew (vlp index compact)")
        self._storage = self.rows.quantizer()
        core.own_fields = False
        core.storage = self._storage
        self._graph = core


def _sound(links: Any, count: int) -> bool:
    """Whether every link leads to a row: faiss follows them without looking."""
    faiss = load_faiss()
    if links.levels.size() != count or links.offsets.size() != count + 1 or not 0 <= links.entry_point < count:
        return False
    levels, offsets = faiss.vector_to_array(links.levels), faiss.vector_to_array(links.offsets).astype(np.int64)
    per_level = faiss.vector_to_array(links.cum_nneighbor_per_level)
    if levels.min() < 1 or levels.max() >= len(per_level) or links.max_level != levels.max() - 1:
        return False
    room = per_level[levels]
    if offsets[0] != 0 or (np.diff(offsets) != room).any() or offsets[-1] != links.neighbors.size():
        return False
    neighbors = faiss.rev_swig_ptr(links.neighbors.data(), links.neighbors.size())
    return bool(neighbors.min() >= -1 and neighbors.max() < count)
