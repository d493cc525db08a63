"""One shard's vectors as three files: numbers, rows, and a word on both that is written last.

    parts/train-000000.npy      float16 [row dim], to be memory-mapped
    parts/train-000000.parquet  what is known of each row (`rows.SCHEMA`)
    parts/train-000000.json     counts and checksums; a part that has it is whole

Rows lie kind after kind.  Files are untrusted: nothing is read whose checksum is not the stated one.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from jaxtyping import Float16
from pydantic import Field, ValidationError

from vlp.config import Config
from vlp.data.locks import take_lock
from vlp.data.schema import Count
from vlp.errors import DataError
from vlp.log import get_logger
from vlp.retrieval.store.rows import SCHEMA
from vlp.retrieval.store.vectors import VectorKind

PARTS = "parts"
PART_NAME = r"(train|val|test)-\d{6}"
"""What a part is called: as its shard, without the ending; never a path."""

_logger = get_logger(__name__)


class PartFacts(Config):
    """What a part says of itself."""

    name: Annotated[str, Field(pattern=rf"^{PART_NAME}$")]
    counts: dict[VectorKind, Count]
    """Vectors by kind, in the order they lie in."""
    studies: Count
    images: Count
    """Images that have a row; of the kind global alone, one per study."""
    synthetic: bool
    """Whether any of its studies was drawn by a program."""
    bytes: dict[str, Count]
    """Length by file ending."""
    sha256: dict[str, str]
    """Checksum by file ending."""

    @property
    def rows(self) -> int:
        """Vectors of all kinds."""
        return sum(self.counts.values())

    def span(self, kind: VectorKind) -> slice:
        """The rows of one kind."""
        kinds = list(self.counts)
        if kind not in kinds:
            return slice(0, 0)
        start = sum(self.counts[before] for before in kinds[: kinds.index(kind)])
        return slice(start, start + self.counts[kind])


def write_part(
    folder: Path, name: str, vectors: Float16[np.ndarray, "row dim"], table: pa.Table, *, counts: dict[VectorKind, int]
) -> PartFacts:
    """Writes a part, whole or not at all.

    Args:
        folder: of the store; its folder of parts is there.
        name: of the part.
        vectors: row by row.
        table: the rows, of `SCHEMA`.
        counts: rows by kind, in the order they lie in.

    Raises:
        DataError: if it cannot be written.
    """
    assert vectors.dtype == np.float16
    assert len(vectors) == table.num_rows == sum(counts.values())
    base = folder / PARTS / name
    try:
        write_file(base.with_suffix(".npy"), lambda file: np.save(file, vectors, allow_pickle=False))
        write_file(
            base.with_suffix(".parquet"), lambda file: pyarrow.parquet.write_table(table, file, compression="zstd")
        )
        written = {end: base.with_suffix(f".{end}") for end in ("npy", "parquet")}
        facts = PartFacts(
            name=name,
            counts=counts,
            studies=len(set(table["key"].to_pylist())),
            images=len(set(zip(table["key"].to_pylist(), table["image"].to_pylist(), strict=True))),
            synthetic=any(table["synthetic"].to_pylist()),
            bytes={end: path.stat().st_size for end, path in written.items()},
            sha256={end: _sha256(path) for end, path in written.items()},
        )
        write_file(base.with_suffix(".json"), lambda file: file.write(facts.model_dump_json(indent=1).encode() + b"\n"))
    except OSError as error:
        raise DataError(f"{folder}: cannot write vectors: {error.strerror}") from None
    return facts


def read_part(folder: Path, name: str) -> PartFacts | None:
    """What a part says of itself, if it is whole: its files are there, in their full lengths.

    Raises:
        DataError: if its word is damaged.
    """
    base = folder / PARTS / name
    try:
        facts = PartFacts.model_validate_json(base.with_suffix(".json").read_bytes())
        lengths = {end: base.with_suffix(f".{end}").stat().st_size for end in facts.bytes}
    except OSError:
        return None
    except ValidationError:
        raise DataError(f"{base}.json: damaged; remove it and run vlp embed again") from None
    return facts if lengths == facts.bytes and facts.name == name else None


def check_part(folder: Path, facts: PartFacts, ending: str) -> Path:
    """The part's file with this ending, after checking that it is the one that was written.

    Raises:
        DataError: if it is missing or another one.
    """
    path = folder / PARTS / f"{facts.name}.{ending}"
    try:
        same = _sha256(path) == facts.sha256.get(ending)
    except OSError:
        same = False
    if not same:
        raise DataError(
            f"{path}: missing or changed since it was written; remove the part's files and store.json, and run vlp "
            "embed again"
        )
    return path


def map_vectors(path: Path, facts: PartFacts, *, dim: int) -> Float16[np.ndarray, "row dim"]:
    """The numbers of a checked part, memory-mapped.

    Raises:
        DataError: if the file is not the array that the store describes.
    """
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        raise DataError(f"{path}: not an array of numbers") from None
    if array.dtype != np.float16 or array.shape != (facts.rows, dim) or not array.flags.c_contiguous:
        raise DataError(f"{path}: not the array that the store describes")
    return array


def read_table(path: Path, facts: PartFacts) -> pa.Table:
    """The rows of a checked part.

    Raises:
        DataError: if the file is not the table that the store describes.
    """
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            # Judged before anything is unpacked: a small file can hold very many rows.
            fits = file.metadata.num_rows == facts.rows and file.schema_arrow.equals(SCHEMA)
            table = file.read() if fits else None
    except (OSError, pa.ArrowException):
        table = None
    if table is None:
        raise DataError(f"{path}: not the table that the store describes")
    return table


@contextmanager
def held(folder: Path, name: str) -> Iterator[None]:
    """Keeps other processes from writing this part.

    Raises:
        DataError: if one is writing it, or the folder cannot be written.
    """
    path = folder / PARTS / f".{name}.lock"
    try:
        file = path.open("wb")
    except OSError as error:
        raise DataError(f"{folder}: cannot write vectors: {error.strerror}") from None
    with file:
        try:
            if not take_lock(file):
                _logger.warning("%s: this file system knows no locks; see to it that no part is made twice", folder)
            free = os.path.samestat(path.stat(), os.fstat(file.fileno()))
        except (BlockingIOError, FileNotFoundError):  # not found: whoever held it has just finished
            free = False
        except OSError as error:
            raise DataError(f"{folder}: cannot lock the part: {error.strerror}") from None
        if not free:
            raise DataError(f"{folder}: another process is embedding the same shard; wait for it")
        yield
        with suppress(OSError):
            path.unlink()


def write_file(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a file whole or not at all, under a name of this process's own until then."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
