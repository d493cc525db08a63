"""Tables of an archive (CSV, TSV, JSON lines, Parquet, gzipped or not), and the files their rows name.

Cells are text, always: an id keeps its leading zeros and a missing value is "".  A table is read once per process and
kept, by its path and time of change, so that a worker process pays for it once.
"""

import csv
import gzip
import hashlib
import json
import multiprocessing
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from io import BufferedIOBase
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

from vlp import log
from vlp.errors import DataError
from vlp.ingest.cells import Cells, Lines, Rows, State, Store, state_of

TableFormat = Literal["csv", "tsv", "jsonl", "parquet"]
Encoding = Literal["utf-8", "latin-1"]

_FORMATS: Mapping[str, TableFormat] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
_MAX_CELL_BYTES = 64 * 1024 * 1024
_KEPT_TABLES = 32
_SHORT = 64
"""Cells below this length are kept once per table: most of them are ids, codes and labels that come again and again."""
_Record = tuple[int, int, tuple[str, ...]]
"""The line a row starts in, the byte it starts at, and its wanted cells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The wanted columns of a table, column by column, which takes a fifth of the memory of a list of dicts.

    Long cells (reports, masks) of files that are not compressed are read again when they are asked for.
    """

    path: Path
    columns: Mapping[str, Sequence[str]]
    """Name -> cells, in the order of the file; an optional column that the file lacks holds "" everywhere."""
    lines: Sequence[int]
    """Where each row starts in the file, counted from 1; Parquet has no lines, so its rows are counted."""
    found: frozenset[str]
    """Which of the columns the file has."""
    _groups: dict[str, Mapping[str, list[int]]] = field(default_factory=dict, repr=False)

    @property
    def rows(self) -> Sequence[dict[str, str]]:
        """Every row as a mapping from column to cell; a row is made when it is asked for."""
        return Rows(self.columns, len(self.lines))

    def line(self, index: int) -> int:
        """The line of the file that row `index` starts in."""
        return self.lines[index]

    def where(self, index: int) -> str:
        """How messages name row `index`: the file and the line."""
        return f"{self.path}: line {self.lines[index]}"

    def groups(self, column: str) -> Mapping[str, list[int]]:
        """Value -> indices of the rows that have it, in the order of the file; made once."""
        if column not in self._groups:
            groups: dict[str, list[int]] = {}
            for index, value in enumerate(self.columns[column]):
                groups.setdefault(value, []).append(index)
            self._groups[column] = groups
        return self._groups[column]


def read_table(
    path: Path,
    *,
    columns: Sequence[str],
    optional: Sequence[str] = (),
    form: TableFormat | None = None,
    encoding: Encoding = "utf-8",
) -> Table:
    """The named columns of the table at `path`; all others are left unread.

    Names are compared without blanks around them (SIIM's " EncodedPixels").  Cells are kept as they stand; JSON and
    Parquet values that are no text become JSON text, null becomes "".

    Args:
        path: The file; ".gz" after its name means compressed.
        columns: Columns that must be there.
        optional: Columns that may be missing.
        form: What kind of table it is; None asks the name's ending.
        encoding: UTF-8 (with or without a byte order mark), or Latin-1 where the archive says so.

    Raises:
        DataError: for a missing or unreadable file, a missing column, and a row that is not whole, which is what a
            file cut off in the middle ends with.
    """
    state = state_of(path)
    return _read(
        _Request(
            path=path,
            required=tuple(columns),
            optional=tuple(optional),
            form=form or _form(path),
            encoding=encoding,
            state=state,
        )
    )


def find_table(folder: Path, *names: str) -> Path | None:
    """The first of `names` that is in `folder`, as it is or gzipped; None if none is."""
    candidates = (folder / f"{name}{ending}" for name in names for ending in ("", ".gz"))
    return next((path for path in candidates if path.is_file()), None)


def fingerprint(paths: Iterable[Path | None]) -> str:
    """SHA-256 over the content of the files, in the order given; a missing one counts as missing."""
    digest = hashlib.sha256()
    for path in paths:
        if path is None or not path.is_file():
            digest.update(b"missing;")
            continue
        digest.update(f"{_content_hash(path, state_of(path))};".encode())
    return digest.hexdigest()


def inside(folder: Path, name: str) -> Path:
    """The file that a row calls `name`, under `folder`.

    Raises:
        DataError: if the name is empty or leads out of the folder; the name is not repeated, for it may say whose
            file it is.
    """
    parts = PurePosixPath(name.replace("\\", "/"))
    if not name.strip():
        raise DataError("a file name is empty")
    if "\0" in name:
        raise DataError("a file name holds a null character")
    if parts.is_absolute() or ".." in parts.parts or Path(name).is_absolute() or ":" in (parts.parts or ("",))[0]:
        raise DataError("a file name leads out of the archive's folder")
    return folder / parts


def read_json(path: Path) -> Any:
    """The content of one JSON file, gzipped or not.

    Raises:
        DataError: if it cannot be read or is not whole.
    """
    try:
        with _reading(path) as file:
            return json.loads(file.read().decode("utf-8-sig"))
    except RecursionError:
        raise DataError(f"{path}: nested too deeply") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: line {error.lineno}: not JSON; is the file cut off?") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """What is to be read, and by its state (time of change, size) whether it was read before."""

    path: Path
    required: tuple[str, ...]
    optional: tuple[str, ...]
    form: TableFormat
    encoding: Encoding
    state: State

    @property
    def wanted(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.required, *self.optional)))

    @property
    def delimiter(self) -> str:
        return "," if self.form == "csv" else "\t"

    def check(self, found: Iterable[str]) -> None:
        missing = set(self.required).difference(found)
        if missing:
            names = ", ".join(repr(name) for name in self.required if name in missing)
            raise DataError(f"{self.path}: column {names} is missing; is this the right table?")


@lru_cache(maxsize=_KEPT_TABLES)
def _read(request: _Request) -> Table:
    found: dict[str, int] = {}
    reader = _READERS[request.form]
    store = None
    if reader.again is not None and request.path.suffix != ".gz":
        store = Store(request.path, request.state, partial(reader.again, request, found))
    columns = {name: Cells(place, store) for place, name in enumerate(request.wanted)}
    lines = array("q")
    known: dict[str, str] = {}
    for line, offset, cells in _shown(reader.rows(request, found), request.path):
        lines.append(line)
        if store is not None:
            store.offsets.append(offset)
        for column, cell in zip(columns.values(), cells, strict=True):
            column.append(known.setdefault(cell, cell) if len(cell) < _SHORT else cell)
    return Table(path=request.path, columns=columns, lines=lines, found=frozenset(found))


def _shown(records: Iterator[_Record], path: Path) -> Iterator[_Record]:
    """Worker processes read in silence: all of them read the same tables at once."""
    if multiprocessing.parent_process() is not None:
        return records
    return log.progress(records, description=f"reading {path.name}", unit="rows")


def _delimited(request: _Request, found: dict[str, int]) -> Iterator[_Record]:
    """`found` becomes column -> place in the row."""
    path = request.path
    csv.field_size_limit(_MAX_CELL_BYTES)
    line = 0
    try:
        with _reading(path) as file:
            lines = Lines(file, request.encoding)
            # Strict: a quote that never closes is a file cut off, not a very long cell.
            reader = csv.reader(lines, delimiter=request.delimiter, strict=True)
            header = [name.strip() for name in next(reader, [])]
            while header and not header[-1]:  # NIH's "Bbox [x,y,w,h],,,", whose rows may lack these commas
                header.pop()
            for name in request.wanted:
                if header.count(name) > 1:
                    raise DataError(f"{path}: there are several columns {name!r}")
            found.update({name: header.index(name) for name in request.wanted if name in header})
            request.check(found)
            line, offset = reader.line_num, lines.offset
            for cells in reader:
                if cells:
                    _refuse_ragged(cells, len(header), f"{path}: line {line + 1}")
                    yield line + 1, offset, _picked(request, found, cells)
                line, offset = reader.line_num, lines.offset
    except csv.Error as error:
        if "new-line" in str(error):
            raise DataError(f"{path}: lines end with a carriage return alone; save it with line feeds") from None
        raise DataError(f"{path}: line {line + 1}: a quoted cell does not end; is the file cut off?") from None


def _delimited_again(request: _Request, found: Mapping[str, int], file: BufferedIOBase) -> tuple[str, ...]:
    reader = csv.reader(Lines(file, request.encoding), delimiter=request.delimiter, strict=True)
    return _picked(request, found, next(reader))


def _picked(request: _Request, found: Mapping[str, int], cells: Sequence[str]) -> tuple[str, ...]:
    return tuple(cells[found[name]] if name in found else "" for name in request.wanted)


def _refuse_ragged(cells: Sequence[str], num_columns: int, where: str) -> None:
    if len(cells) < num_columns:
        raise DataError(f"{where}: {len(cells)} cells where {num_columns} belong; is the file cut off?")
    if any(cells[num_columns:]):  # trailing commas are harmless
        raise DataError(f"{where}: {len(cells)} cells where {num_columns} belong; is a comma not quoted?")


def _json_lines(request: _Request, found: dict[str, int]) -> Iterator[_Record]:
    """A key that some lines lack is a missing value there; one that all lines lack is a missing column."""
    line = offset = 0
    with _reading(request.path) as file:
        lines = Lines(file, request.encoding)
        for line, text in enumerate(lines, start=1):
            if text.strip():
                values = _object(text, f"{request.path}: line {line}")
                found.update({name: 0 for name in request.wanted if name in values})
                yield line, offset, tuple(_text(values.get(name)) for name in request.wanted)
            offset = lines.offset
    if line:
        request.check(found)


def _json_line_again(request: _Request, found: Mapping[str, int], file: BufferedIOBase) -> tuple[str, ...]:
    values = _object(next(Lines(file, request.encoding)), str(request.path))
    return tuple(_text(values.get(name)) for name in request.wanted)


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise DataError(f"{where}: not a JSON object; is the file cut off?")
    return values


def _parquet(request: _Request, found: dict[str, int]) -> Iterator[_Record]:
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(request.path) as file:
            names = {name.strip(): name for name in file.schema_arrow.names}
            found.update({name: 0 for name in request.wanted if name in names})
            request.check(found)
            row = 0
            for batch in file.iter_batches(columns=[names[name] for name in found]):
                for values in batch.to_pylist():
                    row += 1
                    yield row, 0, tuple(_text(values.get(names.get(name))) for name in request.wanted)
    except (ArrowException, OSError):
        raise DataError(f"{request.path}: not a whole Parquet file; is it cut off?") from None


class _Reader(NamedTuple):
    """How tables of one form are read, and how one of their rows is read again, if it can be found."""

    rows: Callable[[_Request, dict[str, int]], Iterator[_Record]]
    again: Callable[[_Request, Mapping[str, int], BufferedIOBase], tuple[str, ...]] | None


_READERS = {
    "csv": _Reader(_delimited, _delimited_again),
    "tsv": _Reader(_delimited, _delimited_again),
    "jsonl": _Reader(_json_lines, _json_line_again),
    "parquet": _Reader(_parquet, None),
}


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False, default=str)


def _form(path: Path) -> TableFormat:
    ending = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    form = _FORMATS.get(ending.lower())
    if form is None:
        raise DataError(
            f"{path}: what kind of table is this? Known endings: {', '.join(_FORMATS)}, with or without .gz"
        )
    return form


@contextmanager
def _reading(path: Path) -> Iterator[BufferedIOBase]:
    """The bytes of the file, unpacked if it is gzipped; what goes wrong while they are read is said in plain words."""
    try:
        with path.open("rb") as raw:
            yield gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not {error.encoding.upper()} text; is it in another encoding?") from None
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise DataError(f"{path}: not a whole gzip file; is it cut off?") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


@lru_cache(maxsize=_KEPT_TABLES)
def _content_hash(path: Path, state: State) -> str:
    """SHA-256 of a file; `state` is its time of change and size, so that a changed file is hashed again."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
