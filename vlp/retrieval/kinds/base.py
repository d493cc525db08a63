"""What all kinds share: rows, the order of results, what is refused, and when to compare every allowed row instead."""

from abc import ABC, abstractmethod
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar, Self

import numpy as np

from vlp.errors import DataError
from vlp.retrieval.kinds import files
from vlp.retrieval.kinds.kind import KindFacts, MeasuredRecall, checked_vectors
from vlp.retrieval.kinds.rows import Found, Mask, Rows

SELECTIVE = 0.12
"""Share of allowed rows up to which comparing them all is exact and no slower than walking around the others."""
_WORTH = 0.1
"""Share of the rows that candidates may be; with more, comparing them all costs the same and is exact."""
SPARE = 6
"""Results fetched beyond those wanted, so that ties with the last one are told apart by their ids."""


class RowSearcher(ABC):
    """A `Searcher` over rows; a kind adds the way to its candidates."""

    kind: ClassVar[str]

    def __init__(self, config: Any, rows: Rows) -> None:
        """A searcher of these rows that knows no short cut yet: `rebuild` makes it."""
        assert config.kind == self.kind
        self.config: Any = config
        self.rows = rows
        self.dim = rows.dim
        self.recall: MeasuredRecall | None = None
        """Set by `tune`."""
        self._build_s = 0.0

    @property
    def facts(self) -> KindFacts:
        """See `Searcher`."""
        return KindFacts(
            parameters=self.config,
            dim=self.dim,
            count=len(self.rows),
            dead=self.rows.count - len(self.rows),
            build_s=round(self._build_s, 3),
            bytes=self.rows.bytes + self._core_bytes(),
            recall=self.recall,
        )

    def __len__(self) -> int:
        """Vectors that can be found."""
        return len(self.rows)

    def add(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        """See `Searcher`."""
        added = self.rows.add(ids, vectors)
        if len(added):
            self._added(added)

    def remove(self, ids: np.ndarray) -> int:
        """See `Searcher`."""
        return len(self.rows.remove(ids))

    def rebuild(self) -> None:
        """See `Searcher`."""
        started = perf_counter()
        self.rows.compact()
        self._build()
        self._build_s = perf_counter() - started

    def search(self, queries: np.ndarray, k: int, *, allowed: np.ndarray | None = None) -> Found:
        """See `Searcher`."""
        if k < 1:
            raise DataError(f"k must be at least 1, not {k}")
        unit = checked_vectors(queries, self.dim, what="queries")
        mask = self.rows.mask(allowed)
        total = len(self.rows) if mask is None else int(mask.sum())
        wanted = min(k, total)
        if wanted == 0 or not self.takes_short_cut(wanted, total):
            scores, rows = self.rows.exact(unit, wanted or 1, mask)
        else:
            scores, rows = self._found(unit, wanted, mask, share=total / len(self.rows))
        return scores, self.rows.ids[rows]

    def save(self, folder: Path) -> None:
        """See `Searcher`."""
        files.write(Path(folder), self.rows, self.facts, core=self._core())

    @classmethod
    def open(cls, folder: Path, *, mmap: bool = True) -> Self:
        """See `Searcher`."""
        folder = Path(folder)
        side_car, rows, core = files.read(folder, mmap=mmap)
        facts = side_car.facts
        if facts.parameters.kind != cls.kind:
            raise DataError(f"{folder}: a searcher of kind {facts.parameters.kind}, not {cls.kind}")
        searcher = cls(facts.parameters, rows)
        searcher.recall, searcher._build_s = facts.recall, facts.build_s
        if core is not None:
            searcher._take(core, folder / files.CORE)
        return searcher

    def takes_short_cut(self, wanted: int, total: int) -> bool:
        """Whether so many results out of so many allowed rows are found by candidates, or by comparing all."""
        if self._core() is None or total <= SELECTIVE * len(self.rows):
            return False
        return self._breadth(wanted) <= _WORTH * total

    def _found(self, queries: np.ndarray, wanted: int, mask: Mask | None, *, share: float) -> Found:
        """By the short cut; queries that it brings too little for are compared with every row."""
        scores, rows = self._candidates(queries, wanted + SPARE, mask, share=share)
        known = (rows >= 0) & (rows < self.rows.count)
        if mask is not None:
            # Whatever an index promised to leave out is left out here: faiss has returned rows it was told to exclude.
            known &= mask[np.where(known, rows, 0)]
        if not known.all():
            scores, rows = np.where(known, scores, -1.0), np.where(known, rows, -1)
        # A missing row borrows the length of the last one: its score is not looked at.
        scores = np.clip(scores / self.rows.norms[rows], -1.0, 1.0)
        scores, rows = self.rows.ranked(scores, rows)
        scores, rows = scores[:, :wanted], rows[:, :wanted]
        short = np.flatnonzero(rows[:, -1] < 0)
        if len(short):
            scores[short], rows[short] = self.rows.exact(queries[short], wanted, mask)
        return scores, rows

    @abstractmethod
    def _build(self) -> None:
        """Makes the core from the rows, none of which is removed."""

    @abstractmethod
    def _added(self, rows: np.ndarray) -> None:
        """Takes new rows into the core, if there is one."""

    @abstractmethod
    def _candidates(self, queries: np.ndarray, count: int, mask: Mask | None, *, share: float) -> Found:
        """Inner products and rows, -1 for none; `share` of the rows is allowed."""

    @abstractmethod
    def _breadth(self, wanted: int) -> int:
        """How many rows are compared for so many results."""

    @abstractmethod
    def _core(self) -> Any | None:
        """The faiss index that is saved beside the rows."""

    @abstractmethod
    def _core_bytes(self) -> int:
        """What the core takes beside the rows."""

    @abstractmethod
    def _take(self, core: Any, path: Path) -> None:
        """Takes a core that was read from a file, if it is one for these rows; else DataError."""
