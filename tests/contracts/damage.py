"""Ways in which an archive's tables are spoiled on their way to us."""

import csv
import gzip
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

TABLES = {".csv", ".tsv", ".jsonl", ".json", ".xml", ".parquet", ".zip", ".tgz"}
_DELIMITED = {".csv": ",", ".tsv": "\t"}


def is_table(file: Path) -> bool:
    return kind(file) in TABLES


def kind(file: Path) -> str:
    """The ending that says what is inside, whether or not it is gzipped."""
    return (Path(file.stem).suffix if file.suffix == ".gz" else file.suffix).lower()


def content(file: Path) -> bytes:
    """What is in the file, unpacked if it is gzipped."""
    return gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()


def packed(file: Path, inside: bytes) -> bytes:
    """What the file holds when `inside` is what is in it."""
    return gzip.compress(inside) if file.suffix == ".gz" else inside


def renamed(file: Path, names: Mapping[str, str]) -> bytes:
    """The file with every `names` key in it replaced by its value."""
    inside = content(file)
    for old, new in names.items():
        inside = inside.replace(old.encode(), new.encode())
    return packed(file, inside)


def cut(file: Path) -> bytes | None:
    """The file as a broken download leaves it; None for a table of one column, whose loss nobody can see."""
    whole = file.read_bytes()
    delimiter = _DELIMITED.get(kind(file))
    if file.suffix == ".gz" or delimiter is None:
        return whole[: len(whole) // 2]
    rows = list(csv.reader(io.StringIO(whole.decode("utf-8-sig", "replace"), newline=""), delimiter=delimiter))
    middle = max(1, len(rows) // 2)
    if len(rows[middle]) < 2:
        return None
    return _written([*rows[:middle], rows[middle][: len(rows[middle]) // 2]], delimiter).rstrip(b"\r\n")


def without_column(file: Path) -> Iterator[tuple[str, bytes]]:
    """(column, the file in which that column has another name), for every column."""
    delimiter = _DELIMITED.get(kind(file))
    if delimiter is not None:
        rows = list(
            csv.reader(io.StringIO(content(file).decode("utf-8-sig", "replace"), newline=""), delimiter=delimiter)
        )
        for place, name in enumerate(rows[0]):
            header = [*rows[0][:place], "a column of another name", *rows[0][place + 1 :]]
            yield name, packed(file, _written([header, *rows[1:]], delimiter))
    elif kind(file) == ".jsonl":
        lines = [json.loads(line) for line in content(file).splitlines() if line.strip()]
        for name in dict.fromkeys(name for line in lines for name in line):
            kept = [{key: value for key, value in line.items() if key != name} for line in lines]
            yield name, packed(file, "\n".join(map(json.dumps, kept)).encode())


def _written(rows: list[list[str]], delimiter: str) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
