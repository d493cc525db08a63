"""Exact search: every allowed row is compared.

One query reads the float16 rows once, a part of them on each thread, which is as fast as memory is; faiss's own flat
index reads twice the bytes on one thread.  Many queries at once multiply matrices, as faiss does.
"""

from pathlib import Path
from typing import Any

import numpy as np

from vlp.errors import DataError
from vlp.retrieval.kinds.base import RowSearcher
from vlp.retrieval.kinds.rows import Found, Mask


class FlatSearcher(RowSearcher):
    """Compares every row: nothing to build, nothing to tune, recall 1."""

    kind = "flat"

    def _build(self) -> None:
        pass

    def _added(self, rows: np.ndarray) -> None:
        pass

    def _candidates(self, queries: np.ndarray, count: int, mask: Mask | None, *, share: float) -> Found:
        raise AssertionError("there is no short cut here")

    def _breadth(self, wanted: int) -> int:
        return len(self.rows)

    def _core(self) -> Any | None:
        return None

    def _core_bytes(self) -> int:
        return 0

    def _take(self, core: Any, path: Path) -> None:
        raise DataError(f"{path}: a flat searcher has no such file")
