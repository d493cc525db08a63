"""How a searcher lies in a folder: arrays as .npy, codes or links as faiss writes them, a side-car with checksums.

Nothing is trusted: a file is read only if its checksum is the stated one, arrays only without pickles and of the
stated shape, faiss's own format only within limits on what it may allocate.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from vlp.config import Config
from vlp.errors import DataError
from vlp.retrieval.kinds.kind import KindFacts, load_faiss
from vlp.retrieval.kinds.rows import Rows

SIDE_CAR = "searcher.json"
CORE = "core.faiss"
"""Codes and lists, or links: what can be built anew from the arrays."""
_ARRAYS = {"vectors.npy": np.float16, "ids.npy": np.int64, "norms.npy": np.float32, "alive.npy": np.bool_}
_MOST_OVER_FILE = 4
"""faiss may allocate so many times the bytes of the file it reads; more is a file made to exhaust memory."""


class SideCar(Config):
    """What `searcher.json` states."""

    format: Literal["vlp-searcher"] = "vlp-searcher"
    schema_version: Literal[1] = 1
    facts: KindFacts
    sha256: dict[str, str]
    """Checksum by file."""


def write(folder: Path, rows: Rows, facts: KindFacts, *, core: Any | None = None) -> None:
    """Writes rows, core and side-car, each file whole; the side-car last.

    Raises:
        DataError: if the folder cannot be written.
    """
    faiss = load_faiss()
    arrays = {"vectors.npy": rows.vectors, "ids.npy": rows.ids, "norms.npy": rows.norms, "alive.npy": rows.alive}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sums = {}
        for name, array in arrays.items():
            sums[name] = _replace(folder / name, partial(_write_array, array))
        if core is not None:
            sums[CORE] = _replace(folder / CORE, lambda path: faiss.write_index(core, str(path)))
        text = SideCar(facts=facts, sha256=sums).model_dump_json(indent=2) + "\n"
        _replace(folder / SIDE_CAR, lambda path: path.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{folder}: cannot write the index: {error.strerror}") from None


def read(folder: Path, *, mmap: bool, core: bool = True) -> tuple[SideCar, Rows, Any | None]:
    """Side-car, rows and core (None where there is none, or without `core`) of a folder, all of them checked.

    Raises:
        DataError: for a folder that holds no searcher, or one that is damaged or hostile.
    """
    side_car = _read_side_car(folder)
    with_core = core and CORE in side_car.sha256
    for name in (*_ARRAYS, *([CORE] if with_core else [])):
        if not (folder / name).is_file() or _sha256(folder / name) != side_car.sha256.get(name):
            raise DataError(f"{folder / name}: missing or changed since it was written; {_way_out(name)}")
    rows = _read_rows(folder, side_car.facts, mmap=mmap)
    return side_car, rows, _read_core(folder / CORE) if with_core else None


def _read_side_car(folder: Path) -> SideCar:
    try:
        return SideCar.model_validate_json((folder / SIDE_CAR).read_bytes())
    except OSError as error:
        raise DataError(f"{folder}: holds no searcher: {SIDE_CAR}: {error.strerror}") from None
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in fault["loc"])
        raise DataError(f"{folder / SIDE_CAR}: no searcher of this version: {place}: {fault['msg']}") from None


def _read_rows(folder: Path, facts: KindFacts, *, mmap: bool) -> Rows:
    arrays = {}
    count = facts.count + facts.dead
    for name, dtype in _ARRAYS.items():
        mapped = mmap and name == "vectors.npy" and count > 0
        try:
            array = np.load(folder / name, mmap_mode="r" if mapped else None, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{folder / name}: not an array of numbers; {_way_out(name)}") from error
        shape = (count, facts.dim) if name == "vectors.npy" else (count,)
        if array.dtype != dtype or array.shape != shape or not array.flags.c_contiguous:
            raise DataError(f"{folder / name}: not the array that {SIDE_CAR} describes; {_way_out(name)}")
        arrays[name.removesuffix(".npy")] = array
    rows = Rows(**arrays)
    if len(rows) != facts.count or len(np.unique(rows.ids[rows.alive])) != facts.count:
        raise DataError(f"{folder}: ids and counts do not belong together; {_way_out('ids.npy')}")
    return rows


def _read_core(path: Path) -> Any:
    faiss = load_faiss()
    with _limits(max(1 << 20, _MOST_OVER_FILE * path.stat().st_size)):
        try:
            return faiss.read_index(str(path))
        except (RuntimeError, MemoryError) as error:
            raise DataError(f"{path}: faiss cannot read it; {_way_out(CORE)}") from error


@contextmanager
def _limits(most_bytes: int) -> Iterator[None]:
    faiss = load_faiss()
    before = faiss.get_deserialization_vector_byte_limit()
    faiss.set_deserialization_vector_byte_limit(most_bytes)
    try:
        yield
    finally:
        faiss.set_deserialization_vector_byte_limit(before)


def _way_out(name: str) -> str:
    if name == CORE:
        return "build it anew from the vectors beside it (vlp index compact)"
    return "build the index again (vlp index build)"


def _replace(target: Path, write_to: Callable[[Path], object]) -> str:
    """Writes beside the target and takes its place; returns the checksum."""
    beside = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        write_to(beside)
        checksum = _sha256(beside)
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)
    return checksum


def _write_array(array: np.ndarray, path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def kind_of(folder: Path) -> str:
    """The kind of the searcher in a folder.

    Raises:
        DataError: if there is none.
    """
    kind: str = _read_side_car(folder).facts.parameters.kind
    return kind
