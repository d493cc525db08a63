"""The cells of a table, kept so that a table of long reports or masks does not fill the memory.

Short cells are kept, each text once.  A long one is forgotten and read again from the file when it is asked for.
"""

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from io import BufferedIOBase
from pathlib import Path
from typing import overload

from vlp.errors import DataError

LONG = 200
"""Characters from which on a cell is read again rather than kept."""
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

State = tuple[int, int]
"""Time of change and size of a file: whether it is still the one that was read."""


def state_of(path: Path) -> State:
    """The state of the file.

    Raises:
        DataError: if it is not there.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path}: the table cannot be read: {error.strerror}") from None
    return status.st_mtime_ns, status.st_size


class Lines(Iterator[str]):
    """The lines of a file as text, and at which byte the next one starts."""

    def __init__(self, file: BufferedIOBase, encoding: str) -> None:
        self.offset = file.tell()
        self._file = file
        self._encoding = encoding

    def __next__(self) -> str:
        line = self._file.readline()
        if not line:
            raise StopIteration
        first = self.offset == 0
        self.offset += len(line)
        return (line.removeprefix(_BYTE_ORDER_MARK) if first else line).decode(self._encoding)


class Store:
    """Where the rows of a file start, and how one of them is read again."""

    def __init__(self, path: Path, state: State, parse: Callable[[BufferedIOBase], tuple[str, ...]]) -> None:
        self.path = path
        self.state = state
        self.offsets = array("q")
        self._parse = parse
        # The long cells of one row are asked for one after the other.
        self.read = lru_cache(maxsize=2)(self._read)

    def _read(self, index: int) -> tuple[str, ...]:
        """The wanted cells of row `index`.

        Raises:
            DataError: if the file has changed since it was read first.
        """
        if state_of(self.path) != self.state:
            raise DataError(f"{self.path}: the table has changed while it was being read; start again")
        with self.path.open("rb") as file:
            file.seek(self.offsets[index])
            return self._parse(file)


class Cells(Sequence[str]):
    """One column; without a store every cell is kept."""

    def __init__(self, place: int, store: Store | None) -> None:
        self._place = place
        self._store = store
        self._kept: list[str | None] = []

    def append(self, cell: str) -> None:
        """Adds the cell of the next row."""
        self._kept.append(cell if self._store is None or len(cell) < LONG else None)

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[str]:
        return map(self._cell, range(len(self._kept)))

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        chosen = range(len(self._kept))[index]
        return self._cell(chosen) if isinstance(chosen, int) else [self._cell(each) for each in chosen]

    def _cell(self, index: int) -> str:
        cell = self._kept[index]
        if cell is not None:
            return cell
        assert self._store is not None
        return self._store.read(index)[self._place]


class Rows(Sequence[dict[str, str]]):
    """Looks like a list of dicts and makes each when it is asked for."""

    def __init__(self, columns: Mapping[str, Sequence[str]], num_rows: int) -> None:
        self._columns = columns
        self._indices = range(num_rows)

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> dict[str, str]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, str]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, str] | list[dict[str, str]]:
        chosen = self._indices[index]
        return self._row(chosen) if isinstance(chosen, int) else [self._row(each) for each in chosen]

    def _row(self, index: int) -> dict[str, str]:
        return {name: cells[index] for name, cells in self._columns.items()}
