"""How an index lies on the disk: segments that never change, and one file that says which of them count.

    index.json             the generation: segments, what is removed from them, counts, checksums; replaced whole
    journal.jsonl          which writes began and which were completed
    .lock                  held by whoever writes
    segments/000007/       cases.parquet, reports.parquet, removed-000009.npy
        space-00/          one kind of vectors: a searcher (`vlp.retrieval.kinds`) and owners.npy

A write makes new files beside the old ones and takes effect when `index.json` is replaced; killed before that it has
no effect, killed after it it is complete.  What no generation names is removed by the next writer.  Whoever has a
generation open keeps it: files that are removed under a reader last as long as it has them open.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
from jaxtyping import Float, Int

from vlp.errors import DataError
from vlp.retrieval import kinds
from vlp.retrieval.facts import SearchPlan, SegmentFacts, SpaceFacts
from vlp.retrieval.kinds.base import RowSearcher
from vlp.retrieval.store.rows import SCHEMA, frame_of
from vlp.retrieval.store.vectors import VectorKind

SEGMENTS = "segments"
_CASES, _REPORTS, _OWNERS, _SIDE_CAR = "cases.parquet", "reports.parquet", "owners.npy", "searcher.json"
_OF_VECTORS = ("kind", "what")
_REPORT_GROUP = 512
"""Reports that are read to have one."""
_HELD_OUT = 200
"""Vectors that a kind is tuned on before it takes them in."""
CASE_SCHEMA = pa.schema([field for field in SCHEMA if field.name not in (*_OF_VECTORS, "report")])


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """Vectors of one kind, to be written."""

    kind: VectorKind
    what: str = ""
    owners: Int[np.ndarray, " vector"]
    """Row of the cases that each vector is of."""
    vectors: Float[np.ndarray, "vector dim"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What a segment is made of."""

    cases: pa.Table
    """One row per image, of `CASE_SCHEMA`."""
    reports: list[str | None]
    """By row."""
    spaces: tuple[Space, ...]

    @classmethod
    def joined(cls, parts: "Sequence[Content]") -> "Content":
        """All of it together, in order."""
        starts = np.cumsum([0, *(part.cases.num_rows for part in parts)])
        found: dict[tuple[VectorKind, str], list[Space]] = {}
        for start, part in zip(starts, parts, strict=False):
            for space in part.spaces:
                moved = replace(space, owners=space.owners + start)
                found.setdefault((space.kind, space.what), []).append(moved)
        spaces = (
            Space(
                kind=kind,
                what=what,
                owners=np.concatenate([space.owners for space in some]),
                vectors=np.concatenate([space.vectors for space in some]),
            )
            for (kind, what), some in found.items()
        )
        return cls(
            cases=pa.concat_tables([part.cases for part in parts]),
            reports=[report for part in parts for report in part.reports],
            spaces=tuple(spaces),
        )


class Segment:
    """A segment as it was opened; its spaces and reports are read when they are asked for."""

    def __init__(self, folder: Path, facts: SegmentFacts) -> None:
        """Opens and checks the files of cases.

        Raises:
            DataError: if one is missing or not the one that was written.
        """
        self.folder, self.facts = folder, facts
        for name in (_CASES, _REPORTS):
            _check(folder / name, facts.sha256)
        self.cases: pd.DataFrame = case_frame(_table(folder / _CASES, facts.images, CASE_SCHEMA))
        """One row per image, removed ones too, without reports."""
        self.alive = np.ones(facts.images, bool)
        if facts.removed_file is not None:
            removed = _array(_check(folder / facts.removed_file, facts.sha256), facts.removed, below=facts.images)
            self.alive[removed] = False
        # Kept open: the file may be removed by a later generation while this one is in use.
        self._reports = _opened(folder / _REPORTS)
        self._open: dict[str, tuple[RowSearcher, np.ndarray]] = {}

    def space(self, facts: SpaceFacts) -> tuple[RowSearcher, Int[np.ndarray, " vector"]]:
        """Searcher and owners of a space: the id of a vector is its place among the owners; -1: removed.

        Raises:
            DataError: if a file is missing or not the one that was written.
        """
        if facts.folder not in self._open:
            folder = self.folder / facts.folder
            for name in (_OWNERS, _SIDE_CAR):
                _check(folder / name, facts.sha256)
            searcher = kinds.open_searcher(folder)
            owners = _array(folder / _OWNERS, facts.count, below=self.facts.images)
            ids = searcher.rows.ids
            if len(ids) != facts.count or (len(ids) and int(ids.max()) >= facts.count):
                raise DataError(f"{folder}: vectors and cases do not belong together; run vlp index build again")
            gone = np.flatnonzero(~self.alive[owners])
            searcher.remove(gone)
            owners[gone] = -1
            self._open[facts.folder] = searcher, owners
        return self._open[facts.folder]

    def report(self, row: int) -> str | None:
        """The report of a case as written."""
        group, place = divmod(row, _REPORT_GROUP)
        text: str | None = self._reports.read_row_group(group, columns=["report"])["report"][place].as_py()
        return text

    def content(self) -> "Content":
        """What it holds and is not removed, with all vectors."""
        table = _table(self.folder / _CASES, self.facts.images, CASE_SCHEMA)
        reports = self._reports.read(columns=["report"])["report"]
        kept = pa.array(self.alive)
        places = np.cumsum(self.alive) - 1
        spaces = []
        for facts in self.facts.spaces:
            searcher, owners = self.space(facts)
            ids = np.flatnonzero(owners >= 0)
            vectors = searcher.rows.vectors[searcher.rows.rows_of(ids)]
            spaces.append(Space(kind=facts.kind, what=facts.what, owners=places[owners[ids]], vectors=vectors))
        return Content(cases=table.filter(kept), reports=reports.filter(kept).to_pylist(), spaces=tuple(spaces))


def case_frame(table: pa.Table) -> pd.DataFrame:
    """A table of `CASE_SCHEMA` for pandas; see `store.rows.frame_of`."""
    return frame_of(table.append_column("report", pa.nulls(table.num_rows, pa.string()))).drop(columns="report")


def write_segment(folder: Path, name: str, content: Content, *, plan: SearchPlan) -> SegmentFacts:
    """Writes a segment into a folder, which is made, and onto the disk.

    Args:
        folder: where.
        name: what it will be called.
        content: what it holds.
        plan: which searchers its vectors get.
    """
    folder.mkdir(parents=True)
    pyarrow.parquet.write_table(content.cases, folder / _CASES, compression="zstd")
    table = pa.table({"report": pa.array(content.reports, pa.string())})
    pyarrow.parquet.write_table(table, folder / _REPORTS, compression="zstd", row_group_size=_REPORT_GROUP)
    written = tuple(
        _write_space(folder / f"space-{number:02d}", space, plan=plan) for number, space in enumerate(content.spaces)
    )
    synced(folder)
    return SegmentFacts(
        name=name,
        images=content.cases.num_rows,
        spaces=written,
        sha256={file: sha256(folder / file) for file in (_CASES, _REPORTS)},
    )


def write_removed(segment: Segment, rows: Int[np.ndarray, " row"], *, generation: int) -> SegmentFacts:
    """Writes down that these rows are removed, beside those that were before, for a generation to come."""
    gone = np.union1d(np.flatnonzero(~segment.alive), rows)
    name = f"removed-{generation:06d}.npy"
    path = segment.folder / name
    beside = segment.folder / f".partial-{name}"
    with beside.open("wb") as file:
        np.save(file, gone.astype(np.int64), allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)  # never written into: a file of this name may be linked with another index's
    sums = {key: value for key, value in segment.facts.sha256.items() if key in (_CASES, _REPORTS)}
    return segment.facts.model_copy(
        update={"removed": len(gone), "removed_file": name, "sha256": {**sums, name: sha256(path)}}
    )


def copy_segment(segment: Segment, target: Path, name: str) -> SegmentFacts:
    """The same segment under another name in another index: linked where the file system can, else copied."""
    shutil.copytree(segment.folder, target, copy_function=_linked)
    for path in target.glob("removed-*.npy"):
        if path.name != segment.facts.removed_file:
            path.unlink()
    synced(target)
    return segment.facts.model_copy(update={"name": name})


def synced(folder: Path) -> None:
    """Sees to it that everything in a folder is on the disk."""
    for path in (*folder.rglob("*"), folder):
        synced_entries(path)


def synced_entries(path: Path) -> None:
    """Sees to it that a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """Checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_space(folder: Path, space: Space, *, plan: SearchPlan) -> SpaceFacts:
    count, dim = space.vectors.shape
    config = plan.config(count, dim)
    ids = np.arange(count)
    few = config.kind == "flat" or count < 10 * _HELD_OUT
    held = np.empty(0, np.int64) if few else np.random.default_rng(0).choice(count, _HELD_OUT, replace=False)
    rest = np.setdiff1d(ids, held)
    searcher = kinds.build(config, dim, _chunks(rest, space.vectors))
    if len(held):
        # Tuned on vectors that it does not hold yet: each would find itself first.
        held.sort()
        kinds.tune(searcher, np.asarray(space.vectors[held], np.float32), plan.recall)
        searcher.add(held, np.asarray(space.vectors[held], np.float32))
    searcher.save(folder)
    with (folder / _OWNERS).open("wb") as file:
        np.save(file, np.asarray(space.owners, np.int64), allow_pickle=False)
    return SpaceFacts(
        kind=space.kind,
        what=space.what,
        folder=folder.name,
        count=count,
        sha256={name: sha256(folder / name) for name in (_OWNERS, _SIDE_CAR)},
    )


def _chunks(ids: np.ndarray, vectors: np.ndarray, *, size: int = 65536) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(ids), size):
        some = ids[start : start + size]
        yield some, np.asarray(vectors[some], np.float32)


def _linked(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _check(path: Path, sums: dict[str, str]) -> Path:
    # A writer may remove a file of an older generation between any two looks at it.
    try:
        if sha256(path) == sums.get(path.name):
            return path
    except OSError:
        pass
    raise _changed(path)


def _changed(path: Path) -> DataError:
    return DataError(
        f"{path}: missing or changed since the index was built; open it again, or run vlp index build again"
    )


def _opened(path: Path) -> Any:
    try:
        return pyarrow.parquet.ParquetFile(path)
    except (OSError, pa.ArrowException):
        raise _changed(path) from None


def _table(path: Path, rows: int, schema: Any) -> Any:
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            # Judged before anything is unpacked: a small file can hold very many rows.
            if file.metadata.num_rows == rows and file.schema_arrow.equals(schema):
                return file.read()
    except (OSError, pa.ArrowException):
        pass
    raise DataError(f"{path}: not the table that the index describes; run vlp index build again")


def _array(path: Path, count: int, *, below: int) -> np.ndarray:
    try:
        array: np.ndarray = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        raise DataError(f"{path}: not an array of numbers; run vlp index build again") from None
    if array.shape != (count,) or array.dtype != np.int64 or (count and not 0 <= array.min() <= array.max() < below):
        raise DataError(f"{path}: not the array that the index describes; run vlp index build again")
    return array
