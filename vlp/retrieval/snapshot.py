"""One generation of an index in memory: what is known of its cases, and the way to their vectors.  Never changes."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32, Int, Int64

from vlp.errors import DataError
from vlp.retrieval.facts import IndexFacts, SpaceFacts, read_facts
from vlp.retrieval.filters import CaseFacts
from vlp.retrieval.kinds.base import RowSearcher
from vlp.retrieval.kinds.kind import Searcher
from vlp.retrieval.search import Nearest, StudyCodes
from vlp.retrieval.segments import CASE_SCHEMA, SEGMENTS, Segment, case_frame
from vlp.retrieval.store.vectors import VectorKind

_STORED_ROWS = 8192
_ATTEMPTS = 5
"""Of opening a generation that a writer may replace meanwhile."""
FEW = 64
"""Up to so many vectors that must not be found, fetching as many more is quicker than leaving them out by a mask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Vectors of one kind of one segment."""

    searcher: Searcher
    rows: Int64[np.ndarray, " vector"]
    """Row of the cases by id; -1: removed."""


class Snapshot:
    """What an index holds at one generation."""

    def __init__(self, folder: Path, facts: IndexFacts, segments: list[Segment]) -> None:
        """Takes opened segments in the order of the facts; `open_snapshot` opens them."""
        self.folder, self.facts, self.segments = folder, facts, segments
        tables = [segment.cases[segment.alive] for segment in segments if segment.alive.any()]
        empty = case_frame(CASE_SCHEMA.empty_table())
        self.cases: pd.DataFrame = pd.concat(tables, ignore_index=True) if tables else empty
        """One row per image that is there."""
        self.studies = StudyCodes.of(self.cases)
        self.case_facts = CaseFacts(self.cases)
        self._starts = np.cumsum([0, *(int(segment.alive.sum()) for segment in segments)])
        self._parts: dict[tuple[VectorKind, str | None], list[Part]] = {}
        self._missing: dict[tuple[VectorKind, str | None], np.ndarray | None] = {}

    def served(self, kind: VectorKind, part: Part) -> "Snapshot":
        """The same, with the vectors of a kind found by something else."""
        served = Snapshot(self.folder, self.facts, self.segments)
        served._parts[kind, None] = [part]
        return served

    @cached_property
    def rows(self) -> dict[tuple[str, int], int]:
        """Row of the cases by key and image."""
        places = zip(self.cases["key"], self.cases["image"], strict=True)
        return {(str(key), int(image)): row for row, (key, image) in enumerate(places)}

    @property
    def spaces(self) -> tuple[tuple[VectorKind, str], ...]:
        """Kinds of vectors, and the finding where they are of one."""
        return tuple(
            dict.fromkeys((space.kind, space.what) for segment in self.facts.segments for space in segment.spaces)
        )

    @property
    def default_kind(self) -> VectorKind:
        """The vectors that are searched unless others are named: of single images, else the first kind there is."""
        kinds = [kind for kind, _ in self.spaces]
        return "view" if "view" in kinds or not kinds else kinds[0]

    def parts(self, kind: VectorKind, what: str | None = None) -> list[Part]:
        """Where the vectors of a kind are; without `what`, all of that kind.

        Raises:
            DataError: if there are none, or their files are damaged.
        """
        if (kind, what) not in self._parts:
            found = [
                self._part(number, segment, space)
                for number, segment in enumerate(self.segments)
                for space in segment.facts.spaces
                if space.kind == kind and what in (None, space.what)
            ]
            if not found and len(self.cases):
                held = ", ".join(sorted({f"{one}: {of}" if of else one for one, of in self.spaces}))
                asked = f"{kind}: {what}" if what else kind
                raise DataError(
                    f"{self.folder}: holds no vectors of the kind {asked!r} but {held}; make them with vlp embed"
                )
            self._parts[kind, what] = found
        return self._parts[kind, what]

    def missing(self, kind: VectorKind, what: str | None = None) -> Bool[np.ndarray, " row"] | None:
        """Rows of the cases that have no vector of a kind; None if all have one."""
        if (kind, what) not in self._missing:
            there = np.zeros(len(self.cases), bool)
            for part in self.parts(kind, what):
                there[part.rows[part.rows >= 0]] = True
            self._missing[kind, what] = None if there.all() else ~there
        return self._missing[kind, what]

    def nearest(self, kind: VectorKind, what: str | None, *, out: Bool[np.ndarray, " row"]) -> Nearest:
        """The way to the nearest vectors of a kind whose rows are not `out`."""
        return nearest_of(self.parts(kind, what), out=out)

    def vector(self, row: int, kind: VectorKind, what: str | None = None) -> Float32[np.ndarray, " dim"] | None:
        """The stored unit vector of a kind of a case, the first if it has several; None if it has none."""
        for number, segment in enumerate(self.segments):
            for space in segment.facts.spaces:
                if space.kind == kind and what in (None, space.what):
                    ids = np.flatnonzero(self._part(number, segment, space).rows == row)
                    if len(ids):
                        return unit_vectors(segment.space(space)[0], ids[:1])[0]
        return None

    def report(self, row: int) -> str | None:
        """The report of a case."""
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        segment = self.segments[number]
        return segment.report(int(np.flatnonzero(segment.alive)[row - self._starts[number]]))

    def differing_bits(self, fingerprint: bytes) -> Int[np.ndarray, " row"]:
        """In how many signs the fingerprint of each image differs from this one."""
        asked = np.frombuffer(fingerprint, np.uint64)
        # Word by word, so that nothing larger than a column is made.
        differing: np.ndarray = np.zeros(len(self._words), np.int64)
        for word, own in zip(asked, self._words.T, strict=True):
            differing += np.bitwise_count(own ^ word)
        return differing

    def stored(self, kind: VectorKind) -> Iterator[tuple[Int64[np.ndarray, " row"], Float32[np.ndarray, "row dim"]]]:
        """Rows of the cases and their vectors of a kind, some thousands at a time."""
        for number, segment in enumerate(self.segments):
            for space in segment.facts.spaces:
                if space.kind == kind:
                    rows = self._part(number, segment, space).rows
                    there = np.flatnonzero(rows >= 0)
                    for start in range(0, len(there), _STORED_ROWS):
                        ids = there[start : start + _STORED_ROWS]
                        yield rows[ids], unit_vectors(segment.space(space)[0], ids)

    def searchers(self) -> Iterator[tuple[SpaceFacts, RowSearcher]]:
        """Every space with its searcher."""
        for segment in self.segments:
            for space in segment.facts.spaces:
                yield space, segment.space(space)[0]

    def local_rows(self, rows: np.ndarray) -> Iterator[tuple[Segment, Int64[np.ndarray, " row"]]]:
        """Every segment, and which of its own rows these rows of the cases are."""
        for number, segment in enumerate(self.segments):
            start, stop = self._starts[number], self._starts[number + 1]
            own = rows[(rows >= start) & (rows < stop)] - start
            yield segment, np.flatnonzero(segment.alive)[own]

    @cached_property
    def _words(self) -> np.ndarray:
        joined = b"".join(self.cases["fingerprint"])
        return np.frombuffer(joined, np.uint64).reshape(len(self.cases), -1)

    def _part(self, number: int, segment: Segment, space: SpaceFacts) -> Part:
        searcher, owners = segment.space(space)
        rows = np.full(len(segment.alive), -1)
        rows[segment.alive] = np.arange(self._starts[number], self._starts[number + 1])
        return Part(searcher=searcher, rows=np.where(owners >= 0, rows[owners], -1))


def open_snapshot(folder: Path, facts: IndexFacts, *, before: "Snapshot | None" = None) -> Snapshot:
    """The generation that these facts describe.

    Args:
        folder: of the index.
        facts: of the generation.
        before: an earlier generation, whose segments need not be opened again.

    Raises:
        DataError: if a file is missing or damaged.
    """
    known = {segment.facts.model_dump_json(): segment for segment in before.segments} if before is not None else {}
    return Snapshot(
        folder,
        facts,
        [known.get(one.model_dump_json()) or Segment(folder / SEGMENTS / one.name, one) for one in facts.segments],
    )


def open_current(folder: Path, *, before: Snapshot | None = None) -> Snapshot:
    """The generation that counts now.

    Raises:
        DataError: for a folder that holds no index, or one that is damaged.
    """
    for attempt in range(_ATTEMPTS):
        facts = read_facts(folder)
        try:
            snapshot = open_snapshot(folder, facts, before=before)
            if snapshot.spaces:
                snapshot.parts(snapshot.default_kind)  # so that it can be searched whatever is written meanwhile
            return snapshot
        except DataError:
            # A writer may have replaced the generation after it was read, and removed its files.
            if attempt == _ATTEMPTS - 1 or read_facts(folder) == facts:
                raise
    raise AssertionError("the last attempt returns or raises")


def nearest_of(parts: Iterable[Part], *, out: Bool[np.ndarray, " row"]) -> Nearest:
    """The way to the nearest vectors of several parts whose rows are not `out`."""
    asked = [(part, *_allowed(part, out)) for part in parts]

    def nearest(vector: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        scores, rows = [np.empty(0, np.float32)], [np.empty(0, np.int64)]
        for part, allowed, spare in asked:
            found = part.searcher.search(vector[None], count + spare, allowed=allowed)
            of_part = part.rows[found[1][0]]
            wanted = (of_part >= 0) & ~out[of_part]
            scores.append(found[0][0][wanted])
            rows.append(of_part[wanted])
        joined, joined_rows = np.concatenate(scores), np.concatenate(rows)
        # Every part gave its best; only so many of all are sure to be the best of all.
        order = np.argsort(-joined, kind="stable")[:count]
        return joined[order], joined_rows[order]

    return nearest


def unit_vectors(searcher: RowSearcher, ids: np.ndarray) -> Float32[np.ndarray, "id dim"]:
    """The stored vectors of ids that the searcher holds, at unit length."""
    rows = searcher.rows.rows_of(np.asarray(ids, np.int64))
    assert (rows >= 0).all()
    unit: np.ndarray = searcher.rows.vectors[rows].astype(np.float32) / searcher.rows.norms[rows, None]
    return unit


def _allowed(part: Part, out: np.ndarray) -> tuple[np.ndarray | None, int]:
    """What a searcher may return (None: all), and how many more to fetch instead."""
    there = part.rows >= 0
    allowed = there & ~out[part.rows] if len(out) else there
    unwanted = int(there.sum() - allowed.sum())
    return (None, unwanted) if unwanted <= FEW else (allowed, 0)
