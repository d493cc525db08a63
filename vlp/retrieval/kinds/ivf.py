"""Inverted lists: rows are gathered around centres, a query reads the lists of its nearest centres.

The lists hold compressed rows; the best candidates are compared by the float16 rows themselves.  faiss chains the two
(`IndexRefine`), here for searching only.  Removed rows stay in the lists until `rebuild`, and a selector leaves them
out: the chain refuses to remove, and fast-scan lists of faiss 1.15 find less (recall 0.74 where it was 0.83) once rows
were removed from them and others added.
"""

import math
from abc import abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

from vlp.errors import DataError
from vlp.retrieval.kinds.base import SPARE, RowSearcher
from vlp.retrieval.kinds.kind import load_faiss
from vlp.retrieval.kinds.rows import Found, Mask, Rows

FEWEST_ROWS = 2048
"""With fewer rows there is nothing to gain from lists: every row is compared."""
_ROWS_PER_LIST = 64
"""Rows that centres are learned from, for each list."""
_FEWEST_PER_LIST = 16
_ROUNDS = 10
"""Of k-means."""
_CODE_ROWS = 65536
"""Rows that codes are learned from, at least."""
_SEED = 0


def automatic_lists(count: int) -> int:
    """About 4 sqrt(count), a power of two: 1,024 for 100,000 rows, 4,096 for a million."""
    return int(2 ** round(math.log2(max(1.0, 4.0 * math.sqrt(count)))))


class IvfSearcher(RowSearcher):
    """What the two ways to compress a row share."""

    def __init__(self, config: Any, rows: Rows) -> None:
        super().__init__(config, rows)
        self._lists: Any | None = None
        self._chain: tuple[Any, Any] | None = None

    @property
    def lists(self) -> int:
        """How many there are; 0 where every row is compared."""
        return 0 if self._lists is None else int(self._lists.nlist)

    def _build(self) -> None:
        self._lists = self._chain = None
        count = len(self.rows)
        if count < FEWEST_ROWS:
            return
        wanted = self.config.lists or automatic_lists(count)
        lists = self._empty(min(wanted, count // _FEWEST_PER_LIST))
        lists.cp.niter = _ROUNDS
        lists.cp.max_points_per_centroid = _ROWS_PER_LIST
        lists.cp.min_points_per_centroid = 1  # the count was looked at above
        lists.cp.seed = _SEED
        lists.train(self._sample(max(_CODE_ROWS, _ROWS_PER_LIST * lists.nlist)))
        for start, block in self.rows.blocks():
            lists.add_with_ids(block, np.arange(start, start + len(block)))
        self._lists = lists

    def _sample(self, count: int) -> np.ndarray:
        every = len(self.rows)
        if every <= count:
            picks = np.arange(every)
        else:
            picks = np.sort(np.random.default_rng(_SEED).choice(every, count, replace=False))
        sample: np.ndarray = self.rows.vectors[picks].astype(np.float32)
        return sample

    def _added(self, rows: np.ndarray) -> None:
        self._chain = None  # the rows may lie elsewhere now
        if self._lists is not None:
            self._lists.add_with_ids(self.rows.vectors[rows].astype(np.float32), rows)

    def _candidates(self, queries: np.ndarray, count: int, mask: Mask | None, *, share: float) -> Found:
        faiss = load_faiss()
        lists: dict[str, Any] = {"nprobe": self._probes(share)}
        if mask is not None:
            lists["sel"] = faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
        parameters = faiss.IndexRefineSearchParameters(
            k_factor=self._breadth(count - SPARE) / count, base_index_params=faiss.SearchParametersIVF(**lists)
        )
        found: Found = self.chained().search(queries, count, params=parameters)
        return found

    def _probes(self, share: float) -> int:
        """The fewer rows are allowed, the farther the nearest of them lie."""
        return min(self.lists, math.ceil(self.config.probes / math.sqrt(share)))

    def _breadth(self, wanted: int) -> int:
        return max(self.config.rerank * wanted, wanted + SPARE)

    def chained(self) -> Any:
        """The index of faiss, of lists and rows, for those who measure it; there must be lists."""
        if self._chain is None:
            assert self._lists is not None
            faiss = load_faiss()
            view = self.rows.quantizer()
            chain = faiss.IndexRefine(self._lists, view)
            chain.own_fields = chain.own_refine_index = False
            self._chain = chain, view
        return self._chain[0]

    def _core(self) -> Any | None:
        return self._lists

    def _core_bytes(self) -> int:
        if self._lists is None:
            return 0
        per_row = self._lists.code_size + 8
        return int(self._lists.ntotal * per_row + self._lists.nlist * self.dim * 4)

    def _take(self, core: Any, path: Path) -> None:
        self._check(core, path)
        self._lists = core

    def _check(self, core: Any, path: Path) -> None:
        """Refuses lists that are not those of these rows: faiss trusts the numbers in them."""
        faiss = load_faiss()
        kind, metric = type(self._empty(1)), faiss.METRIC_INNER_PRODUCT
        fits = isinstance(core, kind) and core.d == self.dim and core.metric_type == metric
        fits = fits and core.ntotal == self.rows.count and core.quantizer.ntotal == core.nlist == core.invlists.nlist
        if fits:
            inside = [_ids(core.invlists, number) for number in range(core.nlist)]
            fits = np.array_equal(np.sort(np.concatenate(inside)), np.arange(core.ntotal))
        if not fits:
            raise DataError(f"{path}: not the lists of these vectors; build them anew (vlp index compact)")

    @abstractmethod
    def _empty(self, lists: int) -> Any:
        """Lists that nothing was learned for yet."""


class IvfFastScanSearcher(IvfSearcher):
    """Codes of 4 bits for each 4 numbers of a row, compared 32 rows at a time in registers."""

    kind = "ivf_fastscan"

    def _empty(self, lists: int) -> Any:
        step = next(step for step in (4, 3, 2, 1) if self.dim % step == 0)
        return _made(self.dim, f"IVF{lists},PQ{self.dim // step}x4fs")


class IvfSq8Searcher(IvfSearcher):
    """A byte for each number of a row."""

    kind = "ivf_sq8"

    def _empty(self, lists: int) -> Any:
        return _made(self.dim, f"IVF{lists},SQ8")


def _made(dim: int, description: str) -> Any:
    faiss = load_faiss()
    return faiss.index_factory(dim, description, faiss.METRIC_INNER_PRODUCT)


def _ids(lists: Any, number: int) -> np.ndarray:
    size = lists.list_size(number)
    if size == 0:
        return np.empty(0, np.int64)
    ids: np.ndarray = load_faiss().rev_swig_ptr(lists.get_ids(number), size).copy()
    return ids
