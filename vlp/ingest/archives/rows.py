"""What archives made of tables share: a `Row` is what one line says of one image; rows become studies."""

import difflib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from vlp import log
from vlp.errors import DataError
from vlp.ingest.geometry import clipped_box, scaled_box
from vlp.ingest.image_index import read_or_fault
from vlp.ingest.source import StudyFault
from vlp.ingest.tables import Encoding, Table, read_table
from vlp.records import Box, Certainty, ImageFile, LoadedStudy, Person, Region, Report, Sentence, Split, Study, View
from vlp.reports.findings import canonical

_STRONGEST = (Certainty.ABSENT, Certainty.UNCERTAIN, Certainty.PRESENT)
_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*([YMWD]?)[A-Z]*", re.IGNORECASE)
_UNITS_A_YEAR = {"": 1.0, "Y": 1.0, "M": 12.0, "W": 365.25 / 7, "D": 365.25}
_DATE = re.compile(r"(\d{4})-(\d\d)-(\d\d)(?:[T ].*)?")
_MAX_AGE = 120.0
_SHOWN = 8
"""Column names a message lists at most."""
_logger = log.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowBox:
    """A box as a table writes it."""

    finding: str
    edges: Box
    frame: tuple[float, float] | None = None
    """(rows, columns) of the picture the edges count in, (1, 1) for fractions; None for the image itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one line of an archive says of one image and its study; an image may have several lines."""

    where: str
    """The file and the line, for messages."""
    image: str
    path: Path
    study: str
    person: Person
    view: View | None = None
    """None: what the image's own header says."""
    inverted: bool = False
    """Whether the stored picture shows bone dark."""
    report: Report | None = None
    sentences: tuple[Sentence, ...] = ()
    """What the archive itself reads from the report; where it is empty, the report is read later."""
    labels: Mapping[str, Certainty] = field(default_factory=dict)
    boxes: tuple[RowBox, ...] = ()
    split: Split | None = None
    order: float | None = None
    """Place in the person's time; None where nothing is known."""


def studies_in(
    table: Table,
    indices: Sequence[int],
    *,
    study: Callable[[Mapping[str, str]], str],
    read: Callable[[Mapping[str, str], str], Row],
) -> list[list[Row] | StudyFault]:
    """The rows of a table gathered by study.

    Args:
        table: The table.
        indices: Its rows that belong to one person.
        study: Which study a row belongs to.
        read: Makes the `Row` of a row, with its place for messages; its `DataError` is the fault of the whole study.
    """
    groups: dict[str, list[int]] = {}
    for index in indices:
        groups.setdefault(study(table.rows[index]), []).append(index)
    studies: list[list[Row] | StudyFault] = []
    for members in groups.values():
        rows: list[Row] = []
        try:
            for index in members:
                where = table.where(index)
                rows.append(read(table.rows[index], where))
            studies.append(rows)
        except DataError as error:
            studies.append(StudyFault(code="bad_row", message=f"{where}: {error}"))
    return studies


def load_studies(
    studies: Sequence[Sequence[Row] | StudyFault], *, source: str, license: str, synthetic: bool = False
) -> Iterator[LoadedStudy | StudyFault]:
    """The studies of one person, oldest first where their order is known, each with its pixels or its fault."""
    known = [rows for rows in studies if not isinstance(rows, StudyFault)]
    yield from (fault for fault in studies if isinstance(fault, StudyFault))
    known.sort(key=lambda rows: math.inf if rows[0].order is None else rows[0].order)
    for rows in known:
        place = math.inf if rows[0].order is None else rows[0].order
        earlier = tuple(
            other[0].study for other in known if other[0].order is not None and other[0].order < place < math.inf
        )
        yield _load_study(rows, source=source, license=license, earlier=earlier, synthetic=synthetic)


def _load_study(
    rows: Sequence[Row], *, source: str, license: str, earlier: tuple[str, ...], synthetic: bool
) -> LoadedStudy | StudyFault:
    first = rows[0]
    reports = tuple(dict.fromkeys(row.report for row in rows if row.report is not None))
    for what, values in (
        ("patients", {row.person.id for row in rows}),
        ("splits", {row.split for row in rows}),
        ("reports", reports),
    ):
        if len(values) > 1:
            return StudyFault(code="bad_row", message=f"{first.where}: the lines of this study name several {what}")
    images: dict[str, tuple[ImageFile, np.ndarray]] = {}
    regions: list[Region] = []
    for row in rows:
        if row.image in images and images[row.image][0].path != row.path:
            return StudyFault(code="bad_row", message=f"{row.where}: two files of this study have the same name")
        if row.image not in images:
            read = read_or_fault(row.path, id_=row.image, where=row.where)
            if isinstance(read, StudyFault):
                return read
            pixels = 255 - read.pixels if row.inverted else read.pixels
            images[row.image] = replace(read.file, view=row.view or read.file.view), pixels
        try:
            regions.extend(_region(box, images[row.image][0]) for box in row.boxes)
        except DataError as error:
            return StudyFault(code="bad_box", message=f"{row.where}: {error}")
    study = Study(
        id=first.study,
        person=first.person,
        images=tuple(image for image, _ in images.values()),
        report=reports[0] if reports else None,
        sentences=next((row.sentences for row in rows if row.sentences), ()),
        labels=strongest(row.labels for row in rows),
        regions=tuple(dict.fromkeys(regions)),
        source=source,
        license=license,
        split=first.split,
        earlier=earlier,
        synthetic=synthetic,
    )
    return LoadedStudy(study=study, pixels=tuple(pixels for _, pixels in images.values()))


def _region(box: RowBox, image: ImageFile) -> Region:
    down, across = (1.0, 1.0) if box.frame is None else (image.rows / box.frame[0], image.columns / box.frame[1])
    edges = clipped_box(scaled_box(box.edges, across=across, down=down), rows=image.rows, columns=image.columns)
    return Region(finding=box.finding, image=image.id, geometry=edges)


def strongest(labels: Iterable[Mapping[str, Certainty]]) -> dict[str, Certainty]:
    """One label per finding: present before uncertain before absent."""
    merged: dict[str, Certainty] = {}
    for mapping in labels:
        for name, certainty in mapping.items():
            merged[name] = max(merged.get(name, certainty), certainty, key=_STRONGEST.index)
    return merged


def finding_name(name: str) -> str:
    """The canonical name, or the archive's own in lower case where the vocabulary lacks it."""
    return canonical(name) or " ".join(name.lower().split())


def years(text: str) -> float | None:
    """An age in years from "63", "63.0", "063Y", "8 months" or "012D"; None for anything else and above 120."""
    match = _AGE.fullmatch(text.strip())
    if match is None:
        return None
    age = float(match[1]) / _UNITS_A_YEAR[match[2].upper()]
    return age if age <= _MAX_AGE else None


def sex_of(text: str) -> Literal["F", "M"] | None:
    """F or M from "F", "female", "M", "male", whatever their case; None for anything else."""
    match text.strip().lower():
        case "f" | "female":
            return "F"
        case "m" | "male":
            return "M"
    return None


def when(text: str) -> float | None:
    """A number that grows with time, from a number, "20150622" or "2015-06-22"; None for a blank.

    Raises:
        DataError: for anything else, for its order would be a guess.
    """
    text = text.strip()
    if not text:
        return None
    date = _DATE.fullmatch(text)
    try:
        number = float("".join(date.groups())) if date else float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise DataError("the place in time is neither a number nor a date written 2015-06-22")
    return number


def units_of(groups: Mapping[str, Sequence[int]]) -> list[str]:
    """One unit per person: the numbers of his rows, joined by commas, so that no unit is called by an id."""
    return [",".join(map(str, indices)) for indices in groups.values()]


def rows_of(unit: str, table: Table) -> list[int]:
    """The rows a unit stands for.

    Raises:
        DataError: if it is none of this table's units.
    """
    return places_of(unit, len(table.lines), where=table.path)


def places_of(unit: str, number: int, *, where: Path) -> list[int]:
    """The same for an archive whose records, `number` of them, are in another kind of file."""
    indices = [int(place) for place in unit.split(",") if place.isdecimal()]
    if len(indices) != unit.count(",") + 1 or max(indices) >= number:
        raise DataError(f"{where}: {unit!r:.40} is not a unit of this archive")
    return indices


def log_outside(names: Mapping[str, int]) -> None:
    """Says once which of an archive's labels the vocabulary lacks, and how often they came."""
    if names:
        shown = ", ".join(f"{name} ({count})" for name, count in sorted(names.items()))
        _logger.info("labels outside the vocabulary are not kept: %s", shown)


def read_named(path: Path, named: Mapping[str, str], encoding: Encoding = "utf-8") -> Table:
    """The table with the columns that a configuration names (its key -> column).

    Raises:
        DataError: for a missing column, with the key that names it, the nearest name and what the table has.
    """
    table = read_table(path, columns=(), optional=tuple(named.values()), encoding=encoding)
    for key, column in named.items():
        if column not in table.found:
            found = column_names(path, encoding)
            close = difflib.get_close_matches(column.lower(), [name.lower() for name in found], n=1, cutoff=0.5)
            nearest = next((name for name in found if close and name.lower() == close[0]), None)
            hint = f"did you mean {nearest!r}? " if nearest else ""
            raise DataError(f"{path}: {key}: there is no column {column!r}; {hint}The table has: {_listed(found)}")
    return table


def column_names(path: Path, encoding: Encoding = "utf-8") -> list[str]:
    """The columns of a table, or the keys of its first hundred lines; none where nothing can be read."""
    import pandas as pd
    from pyarrow import parquet

    kind = path.name.lower().removesuffix(".gz").rpartition(".")[2]
    try:
        if kind == "parquet":
            return list(parquet.read_schema(path).names)
        if kind in ("jsonl", "ndjson"):
            return list(pd.read_json(path, lines=True, nrows=100, encoding=encoding).columns)
        return [
            str(name).strip()
            for name in pd.read_csv(path, sep="," if kind == "csv" else "\t", nrows=0, encoding=encoding)
        ]
    except (ValueError, OSError):
        return []


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(repr(name) for name in names[:_SHOWN]) + more
