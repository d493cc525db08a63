"""CheXmask (PhysioNet): masks of heart and lungs that a model drew on six archives, with an estimate of their quality.

Read is one table of its `OriginalResolution/` folder, e.g. `MIMIC-CXR-JPG.csv`: several gigabytes, so it is gone
through once per process to note where each image's row begins, and rows are read when their image comes.  Masks are
run lengths, row by row ("start length ...", counted from 1).  Left and right are the patient's.  CC BY 4.0.
"""

import csv
import io
import math
import multiprocessing
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

import numpy as np
from pydantic import Field

from vlp import log
from vlp.errors import DataError
from vlp.ingest.annotations.annotation import Annotation
from vlp.ingest.annotations.chexlocalize import fitted
from vlp.ingest.image_index import image_name
from vlp.ingest.tables import fingerprint
from vlp.records import ImageFile, Mask, Region, Study

Organ = Literal["heart", "left lung", "right lung"]

IMAGE_COLUMNS = ("Image Index", "ImageID", "Path", "dicom_id", "image_id", "SOPInstanceUID", "Image ID")
"""What the image is called in the tables of ChestX-ray14, PadChest, CheXpert, MIMIC-CXR, VinDr-CXR and CANDID-PTX."""
_QUALITY = "Dice RCA (Mean)"
_COLUMNS: Mapping[Organ, str] = {"heart": "Heart", "left lung": "Left Lung", "right lung": "Right Lung"}
_NEEDED = (_QUALITY, "Height", "Width", *_COLUMNS.values())
_CHEXPERT = re.compile(r"(?:.*/)?(patient\d+)/(study\d+)/(view\d+_[a-z]+)(?:\.[a-z]+)?")
_MAX_CELL_BYTES = 64 * 1024 * 1024
_MAX_SIDE = 20_000
_logger = log.get_logger(__name__)


class CheXmaskAnnotation(Annotation):
    """One table of CheXmask beside the archive it was made for; see the module's documentation."""

    kind: Literal["chexmask"] = "chexmask"
    table: Path
    """A table of `OriginalResolution/`, unpacked; name a second set for a second archive."""
    min_dice: Annotated[float, Field(ge=0.0, le=1.0)] = 0.7
    """Masks are left out whose mean Dice by reverse classification accuracy is below or not given; 0.7 is the
    authors' advice."""
    organs: tuple[Organ, ...] = ("heart", "left lung", "right lung")

    def apply(self, study: Study) -> Study:
        """The study with the masks of its images that are good enough.

        Raises:
            DataError: for a missing or damaged table, and for masks that cannot be those of the study's image.
        """
        index = self._index()
        regions = tuple(
            region
            for image in study.images
            if (place := index.places.get(image_key(image.id))) is not None
            for region in self._regions(index, place, image)
            if region not in study.regions
        )
        return replace(study, regions=(*study.regions, *regions)) if regions else study

    def fingerprint(self) -> str:
        """SHA-256 of the table."""
        return fingerprint([self.table])

    def _index(self) -> "_Index":
        try:
            status = self.table.stat()
        except OSError as error:
            raise DataError(f"{self.table}: the masks cannot be read: {error.strerror}") from None
        return _read_index(self.table, (status.st_mtime_ns, status.st_size))

    def _regions(self, index: "_Index", place: int, image: ImageFile) -> Iterator[Region]:
        try:
            row = index.row(place)
            if image_key(row[index.image_column]) != image_key(image.id):
                raise DataError("the table has changed while it was read")
            if not _number(row[_QUALITY]) >= self.min_dice:
                return
            rows, columns = (_side(row[name]) for name in ("Height", "Width"))
            for organ in self.organs:
                mask = mask_of_runs(row[_COLUMNS[organ]], rows=rows, columns=columns)
                if mask is not None:
                    yield Region(finding=organ, image=image.id, geometry=fitted(mask, image))
        except DataError as error:
            raise DataError(f"{self.table}: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Index:
    """Where the rows of a table begin."""

    path: Path
    header: tuple[str, ...]
    image_column: str
    places: Mapping[str, int]
    """Image (see `image_key`) -> place of its row in the file, in bytes."""

    def row(self, place: int) -> dict[str, str]:
        """The row that begins at `place`.

        Raises:
            DataError: if it is not whole.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(place)
                _, record = next(_records(file), (0, b""))
            cells = _cells(record)
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror}") from None
        if len(cells) != len(self.header):
            raise DataError(f"a row has {len(cells)} cells where {len(self.header)} belong; is the file cut off?")
        return dict(zip(self.header, cells, strict=True))


def image_key(name: str) -> str:
    """What an image is called here and in its archive alike: no folders, no ending; CheXpert's path in one word."""
    match = _CHEXPERT.fullmatch(name.strip())
    return "_".join(match.groups()) if match else image_name(name.strip())


def mask_of_runs(text: str, *, rows: int, columns: int) -> Mask | None:
    """The mask of run lengths "start length start length ...", row by row, counted from 1; None if there is none.

    Raises:
        DataError: for anything that is no run length of an image of this size.
    """
    if text.strip().lower() in ("", "nan"):
        return None
    try:
        numbers = np.array([int(number) for number in text.split()], dtype=np.int64)
    except (ValueError, OverflowError):
        raise DataError("the run lengths of a mask are not whole numbers") from None
    if len(numbers) % 2:
        raise DataError("the run lengths of a mask are cut off")
    starts, lengths = numbers[::2] - 1, numbers[1::2]
    if (starts < 0).any() or (lengths < 0).any() or (starts + lengths > rows * columns).any():
        raise DataError("the run lengths of a mask reach out of its image")
    edges = np.zeros(rows * columns + 1, dtype=np.int32)
    np.add.at(edges, starts, 1)
    np.add.at(edges, starts + lengths, -1)
    pixels = np.cumsum(edges[:-1]) > 0
    return Mask.encode(pixels.reshape(rows, columns)) if pixels.any() else None


@lru_cache(maxsize=2)
def _read_index(path: Path, state: tuple[int, int]) -> _Index:
    """`state` is the file's time of change and size: a changed file is gone through again."""
    if path.suffix.lower() != ".csv":
        raise DataError(f"{path}: a table of CheXmask is read where each row begins; unpack it to .csv first")
    csv.field_size_limit(_MAX_CELL_BYTES)
    places: dict[str, int] = {}
    twice = 0
    last = b""
    try:
        with path.open("rb") as file:
            records = _records(file)
            header = tuple(name.strip() for name in _cells(next(records, (0, b""))[1].removeprefix(b"\xef\xbb\xbf")))
            column = _image_column(header, path)
            for place, last in _shown(records, path):
                key = image_key(_cell(last, header.index(column)))
                twice += places.setdefault(key, place) != place
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    # The release ends with a line break; without one a last number cut short would look whole.
    if not last.endswith(b"\n") or len(_cells(last)) != len(header):
        raise DataError(f"{path}: the last row is not whole; is the file cut off?")
    if twice:
        _logger.warning("%s: %d images are there twice; their first row is used", path, twice)
    return _Index(path=path, header=header, image_column=column, places=places)


def _records(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """(place, content) of every row; a row goes on while a quoted cell is open.

    Raises:
        DataError: for a row too long to be one.
    """
    place = file.tell()
    record = b""
    for line in file:
        record += line
        if len(record) > _MAX_CELL_BYTES:
            raise DataError("a quoted cell does not end; is the table damaged?")
        if record.count(b'"') % 2 == 0:
            if record.strip():
                yield place, record
            place += len(record)
            record = b""
    if record:
        yield place, record


def _shown(records: Iterable[tuple[int, bytes]], path: Path) -> Iterable[tuple[int, bytes]]:
    """Worker processes read in silence: all of them go through the table at once."""
    if multiprocessing.parent_process() is not None:
        return records
    return log.progress(records, description=f"indexing {path.name}", unit="rows")


def _cells(record: bytes) -> list[str]:
    try:
        return next(csv.reader(io.StringIO(record.decode(), newline=""), strict=True), [])
    except (UnicodeDecodeError, csv.Error):
        return []


def _cell(record: bytes, place: int) -> str:
    """One of the first cells, without parsing the masks that follow; "" where the row is too short."""
    parts = record.split(b",", place + 1)
    if b'"' in b",".join(parts[: place + 1]):
        cells = _cells(record)
        return cells[place] if place < len(cells) else ""
    return parts[place].decode(errors="replace").strip() if place < len(parts) else ""


def _image_column(header: tuple[str, ...], path: Path) -> str:
    missing = [name for name in _NEEDED if name not in header]
    if missing:
        raise DataError(f"{path}: column {', '.join(map(repr, missing))} is missing; is this a table of CheXmask?")
    column = next((name for name in IMAGE_COLUMNS if name in header), None)
    if column is None:
        raise DataError(f"{path}: no column names the image; expected one of {', '.join(IMAGE_COLUMNS)}")
    return column


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan


def _side(cell: str) -> int:
    number = _number(cell)
    if not (0 < number <= _MAX_SIDE and number == int(number)):
        raise DataError("the size of an image cannot be")
    return int(number)
