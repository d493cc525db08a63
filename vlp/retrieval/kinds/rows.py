"""The vectors a searcher stands on: float16 rows with ids, some of them removed, searched exactly.

All kinds keep these rows.  `flat` is nothing else; the others find candidates by codes or links, compare them by these
rows, and build anew from them.  The rows are numpy memory (often a file mapped into it); faiss looks at the same bytes
through a view, so nothing is held twice.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Bool, Float16, Float32, Int64

from vlp.errors import DataError
from vlp.retrieval.kinds.kind import DECIMALS, checked_ids, checked_vectors, load_faiss

Mask = np.ndarray
"""A truth value per row."""
Found = tuple[Float32[np.ndarray, "q found"], Int64[np.ndarray, "q found"]]
"""Cosines, and rows or ids, of every query."""

_BLOCK_NUMBERS = 1 << 24
"""Numbers turned to float32 at once, 64 MB: faiss begins its search anew with every block."""
_FEW_QUERIES = 8
"""Up to so many queries, reading float16 rows once for each beats turning them to float32 for all."""
_SPARE = 6
"""Neighbours fetched beyond those wanted, so that ties with the last can be told apart."""
_RESCORED_NUMBERS = 1 << 22
"""Numbers of float32 made at once where candidates are compared again."""
_NOISE = 2.0 * 10.0**-DECIMALS


class Rows:
    """Vectors in the order they came, their ids, and which of them were removed."""

    def __init__(
        self,
        vectors: Float16[np.ndarray, "n dim"],
        ids: Int64[np.ndarray, " n"],
        norms: Float32[np.ndarray, " n"],
        alive: Bool[np.ndarray, " n"],
    ) -> None:
        """Takes arrays that belong together; `Rows.empty` makes the first ones."""
        self.dim = vectors.shape[1]
        self.count = len(vectors)
        """Rows, removed ones too."""
        self._vectors, self._ids, self._norms, self._alive = vectors, ids, norms, alive
        self._changed()

    @classmethod
    def empty(cls, dim: int) -> "Rows":
        """No row yet, of a width."""
        return cls(
            np.empty((0, dim), np.float16), np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.bool_)
        )

    def __len__(self) -> int:
        """Rows that were not removed."""
        return len(self._order)

    @property
    def vectors(self) -> Float16[np.ndarray, "n dim"]:
        """Every row's vector as it is stored, removed ones too."""
        return self._vectors[: self.count]

    @property
    def ids(self) -> Int64[np.ndarray, " n"]:
        """Every row's id."""
        return self._ids[: self.count]

    @property
    def norms(self) -> Float32[np.ndarray, " n"]:
        """Length of every row's vector: 1 but for the rounding to float16."""
        return self._norms[: self.count]

    @property
    def alive(self) -> Mask:
        """False for rows that were removed."""
        return self._alive[: self.count]

    @property
    def bytes(self) -> int:
        """Of the arrays in use."""
        return sum(part.nbytes for part in (self.vectors, self.ids, self.norms, self.alive))

    def add(self, ids: np.ndarray, vectors: np.ndarray) -> Int64[np.ndarray, " n"]:
        """Appends rows; returns their numbers.  See `Searcher.add` for what is refused."""
        unit = checked_vectors(vectors, self.dim, what="vectors")
        whole = checked_ids(ids, len(unit))
        if (self.rows_of(whole) >= 0).any():
            raise DataError("ids: one of them is in the index; remove it first")
        first, last = self.count, self.count + len(unit)
        self._make_room(last)
        self._vectors[first:last] = unit
        stored = self._vectors[first:last].astype(np.float32)
        self._norms[first:last] = np.sqrt(np.einsum("nd,nd->n", stored, stored))
        self._ids[first:last] = whole
        self._alive[first:last] = True
        self.count = last
        self._changed()
        return np.arange(first, last)

    def remove(self, ids: np.ndarray) -> Int64[np.ndarray, " removed"]:
        """Marks rows as removed; returns their numbers."""
        rows = self.rows_of(np.unique(np.asarray(ids, dtype=np.int64)))
        rows = rows[rows >= 0]
        if len(rows):
            self._alive[rows] = False
            self._changed()
        return rows

    def compact(self) -> None:
        """Leaves out the rows that were removed; the others keep their order."""
        if len(self) < self.count:
            kept = np.flatnonzero(self.alive)
            self._vectors, self._ids, self._norms = self._vectors[kept], self._ids[kept], self._norms[kept]
            self._alive = np.ones(len(kept), np.bool_)
            self.count = len(kept)
            self._changed()

    def rows_of(self, ids: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """The row of each id; -1 where there is none, or it was removed."""
        if not len(self._order):
            return np.full(len(ids), -1)
        places = np.minimum(np.searchsorted(self._sorted, ids), len(self._order) - 1)
        return np.where(self._sorted[places] == ids, self._order[places], -1)

    def mask(self, allowed: np.ndarray | None) -> Mask | None:
        """Which rows may be found; None for all.  `allowed` as in `Searcher.search`."""
        if allowed is None:
            return None if len(self) == self.count else self.alive.copy()
        asked = np.asarray(allowed)
        if asked.ndim != 1 or (asked.size and asked.dtype.kind not in "biu"):
            raise DataError("allowed: wanted ids, or a truth value per id")
        if asked.dtype.kind == "b":
            padded = asked if len(asked) > self._highest else np.pad(asked, (0, self._highest + 1 - len(asked)))
            mask: Mask = self.alive & padded[self.ids]
            return mask
        rows = self.rows_of(asked.astype(np.int64))
        picked = np.zeros(self.count, np.bool_)
        picked[rows[rows >= 0]] = True
        return picked

    def quantizer(self, first: int = 0, last: int | None = None) -> Any:
        """A faiss index of inner products over these rows, which reads our memory: it lives no longer than that."""
        return _view(self._vectors[first : self.count if last is None else last])

    def exact(self, queries: Float32[np.ndarray, "q dim"], k: int, mask: Mask | None = None) -> Found:
        """Cosines and rows of the `k` nearest rows of unit queries, in the order of results.

        More and more neighbours are fetched until no row can be missing that ties with the last.
        """
        total = self.count if mask is None else int(mask.sum())
        wanted = min(k, total)
        scores = np.empty((len(queries), wanted), np.float32)
        rows = np.empty((len(queries), wanted), np.int64)
        open_queries = np.arange(len(queries))
        fetched = min(total, wanted + _SPARE)
        while wanted and len(open_queries):
            least, candidates = self._nearest(queries[open_queries], fetched, mask)
            best, ordered = self.ranked(self._cosines(queries[open_queries], candidates), candidates)
            scores[open_queries], rows[open_queries] = best[:, :wanted], ordered[:, :wanted]
            if fetched == total:
                break
            open_queries = open_queries[least + self._stretch + _NOISE >= best[:, wanted - 1]]
            fetched = min(total, 4 * fetched)
        return scores, rows

    def ranked(self, scores: np.ndarray, rows: np.ndarray) -> Found:
        """Both in the order of results within each query: (-score rounded, id), rows below 0 last."""
        rounded = np.round(scores, DECIMALS)
        if scores.shape[1] > 1:
            unsure = np.flatnonzero((rounded[:, 1:] >= rounded[:, :-1]).any(axis=1) | (rows < 0).any(axis=1))
        else:
            unsure = np.empty(0, np.int64)
        if not len(unsure):
            return scores, rows
        some = rows[unsure]
        ids = np.where(some >= 0, self._ids[some], np.iinfo(np.int64).max)
        order = np.lexsort((ids, np.where(some >= 0, -rounded[unsure], np.inf)), axis=-1)
        scores, rows = scores.copy(), rows.copy()
        scores[unsure] = np.take_along_axis(scores[unsure], order, 1)
        rows[unsure] = np.take_along_axis(some, order, 1)
        return scores, rows

    def blocks(self, picks: Int64[np.ndarray, " picked"] | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """Start and float32 vectors of one block of rows after the other, of all or of the picked ones.

        The memory is used again for the next block, and by the thread's next call.
        """
        total = self.count if picks is None else len(picks)
        step = max(1, _BLOCK_NUMBERS // self.dim)
        room = _room(min(step, total) * self.dim).reshape(-1, self.dim)
        for start in range(0, total, step):
            stop = min(start + step, total)
            block = room[: stop - start]
            if picks is None:
                self.quantizer(start, stop).reconstruct_n(0, stop - start, block)  # quicker than numpy
            else:
                _in_parts(partial(self._gather, block, picks[start:stop]), len(block))
            yield start, block

    def _gather(self, block: np.ndarray, picks: np.ndarray, part: slice) -> None:
        block[part] = self._vectors[picks[part]]

    def _nearest(
        self, queries: np.ndarray, count: int, mask: Mask | None
    ) -> tuple[Float32[np.ndarray, " q"], Int64[np.ndarray, "q count"]]:
        """The least inner product and the rows of the `count` largest, in no order; there must be as many."""
        if len(queries) <= _FEW_QUERIES and (mask is None or 4 * mask.sum() > len(mask)):
            scores, rows = self._scanned(queries, count, mask)
        else:
            scores, rows = self._multiplied(queries, count, None if mask is None else np.flatnonzero(mask))
        return scores.min(axis=1), rows

    def _scanned(self, queries: np.ndarray, count: int, mask: Mask | None) -> Found:
        """By reading the float16 rows, a part of them on each thread."""
        faiss = load_faiss()

        def scan(part: slice) -> Found:
            parameters = None
            if mask is not None:
                bits = np.packbits(mask[part], bitorder="little")
                parameters = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(bits))
            found = self.quantizer(part.start, part.stop).search(
                queries, min(count, part.stop - part.start), params=parameters
            )
            return found[0], np.where(found[1] >= 0, found[1] + part.start, -1)

        parts = _in_parts(scan, self.count)
        return _largest([scores for scores, _ in parts], [rows for _, rows in parts], count)

    def _multiplied(self, queries: np.ndarray, count: int, picks: np.ndarray | None) -> Found:
        """By products of matrices, block by block."""
        faiss = load_faiss()
        best = faiss.ResultHeap(len(queries), count, keep_max=True)
        for start, block in self.blocks(picks):
            scores, rows = faiss.knn(queries, block, min(count, len(block)), metric=faiss.METRIC_INNER_PRODUCT)
            best.add_result(scores, rows + start)
        best.finalize()
        return best.D, best.I if picks is None else picks[best.I]

    def _cosines(self, queries: np.ndarray, rows: np.ndarray) -> Float32[np.ndarray, "q count"]:
        """Of every query with its own rows: the same number for a pair, whatever else is asked at the same time."""
        scores = np.empty(rows.shape, np.float32)
        step = max(1, _RESCORED_NUMBERS // max(1, rows.shape[1] * self.dim))

        def fill(part: slice) -> None:
            for start in range(part.start, part.stop, step):
                some = slice(start, min(start + step, part.stop))
                vectors = self._vectors[rows[some]].astype(np.float32)
                np.einsum("qkd,qd->qk", vectors, queries[some], out=scores[some])

        _in_parts(fill, len(queries))
        scores /= self._norms[rows]
        return np.clip(scores, -1.0, 1.0, out=scores)

    def _make_room(self, count: int) -> None:
        if count > len(self._vectors):
            room = max(count, self.count + self.count // 2)
            self._vectors = _grown(self._vectors, self.count, room)
            self._ids = _grown(self._ids, self.count, room)
            self._norms = _grown(self._norms, self.count, room)
            self._alive = _grown(self._alive, self.count, room)

    def _changed(self) -> None:
        """Works out anew what depends on the rows as a whole."""
        order = np.flatnonzero(self.alive)
        ids = self.ids[order]
        if len(ids) and (ids[1:] < ids[:-1]).any():
            by_id = np.argsort(ids, kind="stable")
            order, ids = order[by_id], ids[by_id]
        self._order, self._sorted = order, ids
        self._highest = int(self.ids.max()) if self.count else 0
        self._stretch = float(np.abs(self.norms - 1.0).max()) if self.count else 0.0


_kept = threading.local()


def _room(count: int) -> np.ndarray:
    """Memory of a thread for so many numbers, kept for its next search: new memory costs as much as filling it."""
    if getattr(_kept, "room", None) is None or len(_kept.room) < count:
        _kept.room = np.empty(count, np.float32)
    room: np.ndarray = _kept.room[:count]
    return room


def _grown(array: np.ndarray, used: int, room: int) -> np.ndarray:
    larger = np.empty((room, *array.shape[1:]), array.dtype)
    larger[:used] = array[:used]
    return larger


def _largest(scores: list[np.ndarray], rows: list[np.ndarray], count: int) -> Found:
    """The `count` largest of several findings per query, in no order."""
    joined, joined_rows = np.concatenate(scores, axis=1), np.concatenate(rows, axis=1)
    if joined.shape[1] <= count:
        return joined, joined_rows
    best = np.argpartition(joined, -count, axis=1)[:, -count:]
    return np.take_along_axis(joined, best, 1), np.take_along_axis(joined_rows, best, 1)


def _in_parts(work: Callable[[slice], Any], count: int) -> list[Any]:
    """`work` on equal parts of 0..count, as many as faiss has threads, at the same time."""
    threads = max(1, min(load_faiss().omp_get_max_threads(), count))
    edges = [count * part // threads for part in range(threads + 1)]
    parts = [slice(start, stop) for start, stop in pairwise(edges)]
    return [work(parts[0])] if threads == 1 else list(_pool(threads).map(work, parts))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    faiss = load_faiss()
    # Each of them is one of the threads: none may start more (the setting is that of the thread that makes it).
    return ThreadPoolExecutor(threads, "vlp-rows", initializer=faiss.omp_set_num_threads, initargs=(1,))


def _view(vectors: Float16[np.ndarray, "n dim"]) -> Any:
    faiss = load_faiss()
    index = faiss.IndexScalarQuantizer(vectors.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    index.is_trained = True  # there is nothing to learn for float16
    if len(vectors):
        flat = vectors.reshape(-1).view(np.uint8)
        index.codes = faiss.MaybeOwnedVectorUInt8.create_view(faiss.swig_ptr(flat), flat.nbytes, _unowned().codes.owner)
        index.ntotal = len(vectors)
    return index


@cache
def _unowned() -> Any:
    """An index whose codes belong to nobody.

    A view wants an owner of its memory, "nobody" included, and reading is the only way faiss has to make one.
    """
    faiss = load_faiss()
    tiny = faiss.IndexScalarQuantizer(1, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    tiny.train(np.ones((1, 1), np.float32))
    tiny.add(np.ones((1, 1), np.float32))
    written = faiss.serialize_index(tiny)
    return faiss.read_index(faiss.ZeroCopyIOReader(faiss.swig_ptr(written), len(written)))
