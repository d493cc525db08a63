"""A store of vectors: a folder whose `store.json` says which model made them of which archive, and one part per shard.

`store.json` is there from the beginning, without parts; when the last part is there it is written again with what
each says of itself.  Parts may be made by many processes in any order; the store is complete with the last of them.
"""

import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Float16
from pydantic import Field, ValidationError, model_validator

import vlp
from vlp.config import Config
from vlp.errors import CheckpointError, ConfigError, DataError
from vlp.records import Split
from vlp.retrieval.store.parts import (
    PART_NAME,
    PARTS,
    PartFacts,
    check_part,
    map_vectors,
    read_part,
    read_table,
    write_file,
)
from vlp.retrieval.store.rows import SCHEMA, frame_of
from vlp.retrieval.store.vectors import VectorKind

FILE_NAME = "store.json"


class Plan(Config):
    """What decides a store's vectors; equal for all that may fill it together."""

    checkpoint: str
    """Fingerprint of the model that makes the vectors."""
    preprocess: str
    """Digest of the way images are brought to the model's size."""
    shards: str
    """SHA-256 of the archive's manifest, which in turn names the SHA-256 of every shard."""
    dim: Annotated[int, Field(ge=1)]
    kinds: tuple[VectorKind, ...]
    findings: tuple[str, ...]
    """Whose vectors there are, if "finding" is among the kinds."""
    splits: tuple[Split, ...]


class StoreFacts(Config):
    """What a store says of itself."""

    format: Literal["vlp-vectors"] = "vlp-vectors"
    schema_version: Literal[1] = 1
    vlp_version: str = vlp.__version__
    plan: Plan
    names: tuple[Annotated[str, Field(pattern=rf"^{PART_NAME}$")], ...]
    """All parts, in the archive's order."""
    parts: tuple[PartFacts, ...] = ()
    """Those parts in the same order, once all are there."""

    @model_validator(mode="after")
    def _all_parts_or_none(self) -> "StoreFacts":
        if self.parts and tuple(part.name for part in self.parts) != self.names:
            raise ValueError("parts that are not those that the store is made of")
        return self

    @property
    def counts(self) -> dict[VectorKind, int]:
        """Vectors by kind, of the parts that are there."""
        total: Counter[VectorKind] = Counter(dict.fromkeys(self.plan.kinds, 0))
        for part in self.parts:
            total.update(part.counts)
        return dict(total)

    @property
    def studies(self) -> int:
        """Of the parts that are there; a study lies in one part."""
        return sum(part.studies for part in self.parts)

    @property
    def images(self) -> int:
        """Of the parts that are there."""
        return sum(part.images for part in self.parts)

    @property
    def synthetic(self) -> bool:
        """Whether any study was drawn by a program."""
        return any(part.synthetic for part in self.parts)

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the parts that are not there."""
        there = {part.name for part in self.parts}
        return tuple(name for name in self.names if name not in there)


class VectorStore:
    """A store on the disk, open for reading; made by `open`, or by `vlp.retrieval.store.embed`."""

    def __init__(self, folder: Path, facts: StoreFacts) -> None:
        """Takes what `open` read."""
        self.folder = folder
        self.facts = facts
        self._checked: set[tuple[str, str]] = set()

    @classmethod
    def open(cls, folder: Path | str) -> "VectorStore":
        """The store in a folder.

        A file's checksum is looked at when the file is first read.

        Raises:
            DataError: if the folder holds no store, or one that is not complete.
        """
        path = Path(folder)
        facts = _with_parts(path, read_facts(path))
        if facts.missing:
            raise DataError(
                f"{path}: the store is not complete, {len(facts.missing)} of {len(facts.names)} parts are missing; run "
                "vlp embed again"
            )
        return cls(path, facts)

    @property
    def missing(self) -> tuple[str, ...]:
        """Parts that are not there; none in a store that was opened, perhaps some while it is being filled."""
        return self.facts.missing

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return self.facts.plan.dim

    def __len__(self) -> int:
        """Vectors of all kinds."""
        return sum(self.facts.counts.values())

    def rows(self, kind: VectorKind | None = None) -> pd.DataFrame:
        """What is known of the vectors, one row each (`rows.SCHEMA`), numbered from 0.

        Rows of one kind are in the order of `vectors(kind)`; without a kind they lie part after part, kind after kind.

        Raises:
            DataError: if a file is missing or damaged, or the store holds no such kind.
        """
        if kind is not None:
            self._require(kind)
        tables = [self._table(part, kind) for part in self.facts.parts]
        return frame_of(pa.concat_tables(tables) if tables else SCHEMA.empty_table())

    def vectors(self, kind: VectorKind) -> Iterator[Float16[np.ndarray, "row dim"]]:
        """The vectors of one kind, part by part, memory-mapped; of unit length before they were rounded to float16.

        Raises:
            DataError: if a file is missing or damaged, or the store holds no such kind.
        """
        self._require(kind)
        return (
            map_vectors(self._file(part, "npy"), part, dim=self.dim)[part.span(kind)]
            for part in self.facts.parts
            if part.counts.get(kind)
        )

    def verify(self) -> None:
        """Reads every file.

        Raises:
            DataError: if one is missing, or not the one that was written.
        """
        self._checked.clear()
        for part in self.facts.parts:
            map_vectors(self._file(part, "npy"), part, dim=self.dim)
            self._table(part, None)

    def _require(self, kind: VectorKind) -> None:
        if kind not in self.facts.plan.kinds:
            raise DataError(
                f"{self.folder}: holds no vectors of the kind {kind!r} but {', '.join(self.facts.plan.kinds)}; "
                "make a store with --kinds"
            )

    def _table(self, part: PartFacts, kind: VectorKind | None) -> pa.Table:
        table = read_table(self._file(part, "parquet"), part)
        if kind is None:
            return table
        rows = part.span(kind)
        return table.slice(rows.start, rows.stop - rows.start)

    def _file(self, part: PartFacts, ending: str) -> Path:
        if (part.name, ending) in self._checked:
            return self.folder / PARTS / f"{part.name}.{ending}"
        path = check_part(self.folder, part, ending)
        self._checked.add((part.name, ending))
        return path


def begin(folder: Path, plan: Plan, names: Sequence[str]) -> StoreFacts:
    """Makes the folder of a store, or makes sure that the one that is there is the same; says what it says of itself.

    Raises:
        CheckpointError: if another model fills the store that is there.
        ConfigError: if something else differs, or the folder holds anything but a store.
        DataError: if it cannot be written.
    """
    wanted = StoreFacts(plan=plan, names=tuple(names))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / FILE_NAME).exists() and {path.name for path in folder.iterdir()} - {PARTS}:
            raise ConfigError(f"{folder}: exists and is no store of vectors; name another folder")
        (folder / PARTS).mkdir(exist_ok=True)
        _write_first(folder, wanted)
    except OSError as error:
        raise DataError(f"{folder}: cannot write vectors: {error.strerror}") from None
    there = read_facts(folder)
    _refuse_other(folder, there, wanted)
    return there


def finish(folder: Path, facts: StoreFacts) -> VectorStore:
    """The store with the parts that are there; complete from now on if that is all of them.

    Raises:
        DataError: if it cannot be written.
    """
    now = _with_parts(folder, facts)
    if not now.missing and now != facts:
        try:
            write_file(folder / FILE_NAME, lambda file: file.write(_json(now)))
        except OSError as error:
            raise DataError(f"{folder}: cannot write vectors: {error.strerror}") from None
    return VectorStore(folder, now)


def merge(folder: Path | str) -> VectorStore:
    """Completes a store whose parts other processes have made, without a model: all of them must be there.

    The last process that makes a part does this by itself; this is for one that was stopped before it could, and for
    asking whether all are there.

    Raises:
        DataError: if the folder holds no store, or parts are missing.
    """
    path = Path(folder)
    finish(path, read_facts(path))
    return VectorStore.open(path)


def read_facts(folder: Path) -> StoreFacts:
    """What a store says of itself.

    Raises:
        DataError: if the folder holds none, or one of another version.
    """
    try:
        return StoreFacts.model_validate_json((folder / FILE_NAME).read_bytes())
    except OSError as error:
        raise DataError(f"{folder}: no store of vectors: {FILE_NAME}: {error.strerror}; run vlp embed first") from None
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in fault["loc"])
        raise DataError(f"{folder / FILE_NAME}: no store of this version: {place}: {fault['msg']}") from None


def _with_parts(folder: Path, facts: StoreFacts) -> StoreFacts:
    """The facts with all parts that are there, as they are once the store is complete."""
    if not facts.missing:
        return facts
    found = (read_part(folder, name) for name in facts.names)
    return facts.model_copy(update={"parts": tuple(part for part in found if part is not None)})


def _write_first(folder: Path, facts: StoreFacts) -> None:
    """Writes `store.json` unless it is there; of several processes that try, one succeeds."""
    if (folder / FILE_NAME).exists():
        return
    handle, name = tempfile.mkstemp(dir=folder / PARTS, prefix=".store-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_json(facts))
        os.chmod(name, 0o644)
        with suppress(FileExistsError):
            os.link(name, folder / FILE_NAME)
    finally:
        os.unlink(name)


def _json(facts: StoreFacts) -> bytes:
    return facts.model_dump_json(indent=1).encode() + b"\n"


def _refuse_other(folder: Path, there: StoreFacts, wanted: StoreFacts) -> None:
    before, now = (facts.plan.model_dump() | {"parts": facts.names} for facts in (there, wanted))
    differing = [name for name, value in now.items() if before[name] != value]
    if not differing:
        return
    message = f"{folder}: a store of other vectors ({', '.join(differing)} differ); name another folder or remove it"
    raise CheckpointError(message) if {"checkpoint", "preprocess"} & set(differing) else ConfigError(message)
