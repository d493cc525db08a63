"""The reports of Open-I in each of the three layouts the collection goes round in."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal
from xml.etree.ElementTree import Element

from pydantic import BaseModel, ConfigDict, ValidationError

from vlp.errors import DataError
from vlp.ingest.archives.rows import places_of, rows_of, units_of
from vlp.ingest.image_index import image_name
from vlp.ingest.safe_xml import read_xml
from vlp.ingest.tables import Table, find_table, read_json, read_table
from vlp.records import Split

Layout = Literal["xml", "kaggle", "r2gen"]
LICENSE = "CC BY-NC-ND 4.0"
_LICENSE_URL = "creativecommons.org/licenses/by-nc-nd/4.0"
SECTIONS = ("COMPARISON", "INDICATION", "FINDINGS", "IMPRESSION")
FOLDER = "ecgen-radiology"
REPORTS = "indiana_reports.csv"
PROJECTIONS = "indiana_projections.csv"
ANNOTATION = "annotation.json"
_LOST = "#NAME?"
"""What a spreadsheet left of a few sections that began with "+" or "-" in Kaggle's table."""
_NAME = re.compile(r"(?:CXR)?(\d+)_(?:\1_)?(IM-.*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One image as a report names it."""

    name: str
    caption: str = ""
    file: str | None = None
    """Its place in the folder of the images; None where it must be looked for by its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One report of the collection, whatever layout it came in."""

    where: str
    """What messages call it; its own number stays out of them."""
    id: str
    text: str
    pictures: tuple[Picture, ...]
    codes: tuple[str, ...] = ()
    """MeSH codes given by people ("major")."""
    automatic: tuple[str, ...] = ()
    """MeSH codes given by a program."""
    license: str = LICENSE
    split: Split | None = None
    person: str | None = None


class Reports(ABC):
    """The reports of one layout."""

    images_by_name: ClassVar[bool] = True
    """Whether images are looked for by name rather than at a place the report states."""

    @abstractmethod
    def units(self) -> Sequence[str]:
        """One unit per report."""

    @abstractmethod
    def entry(self, unit: str) -> Entry:
        """The report of a unit.

        Raises:
            DataError: if it cannot be read; the message names its place.
        """

    @abstractmethod
    def files(self) -> Sequence[Path]:
        """The files the reports are in."""


def find_reports(path: Path, layout: Layout | None) -> Reports:
    """The reports in `path`, in the layout asked for or, for None, in the one it has.

    Raises:
        DataError: if there are none, or several layouts to choose from.
    """
    readers: Mapping[Layout, type[_InFolder]] = {"xml": XmlReports, "kaggle": KaggleReports, "r2gen": R2GenReports}
    if layout is not None:
        return readers[layout](path)
    found = [reader for reader in readers.values() if reader.there(path)]
    if len(found) > 1:
        raise DataError(f"{path}: the reports are there in several layouts; name one with `layout`")
    if not found:
        raise DataError(f"{path}: holds no {FOLDER}, {REPORTS} or {ANNOTATION}; is this Open-I?")
    return found[0](path)


def bare_name(name: str) -> str:
    """The part of an image's name that all layouts share: "CXR1_1_IM-0001-3001" is "1_IM-0001-3001"."""
    match = _NAME.fullmatch(name)
    return name if match is None else f"{match[1]}_{match[2]}"


class _InFolder(Reports):
    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    @abstractmethod
    def there(path: Path) -> bool:
        """Whether a folder holds this layout."""


class XmlReports(_InFolder):
    """`ecgen-radiology/<n>.xml`, one file per report."""

    @staticmethod
    def there(path: Path) -> bool:
        """Whether there is a folder of XML files."""
        return bool(_xml_files(path))

    def units(self) -> Sequence[str]:
        """The names of the files."""
        files = _xml_files(self.path)
        if not files:
            raise DataError(f"{self.path}: holds no folder {FOLDER} of XML files")
        return list(files)

    def entry(self, unit: str) -> Entry:
        """The report in one file."""
        files = _xml_files(self.path)
        path = files.get(unit)
        if path is None:
            raise DataError(f"{self.path}: {unit!r:.40} is not a unit of this archive")
        where = f"{path.parent}: report {list(files).index(unit) + 1} of {len(files)}"
        try:
            return _xml_entry(read_xml(path), where)
        except DataError as error:
            raise DataError(f"{where}: {str(error).removeprefix(f'{path}: ').removeprefix(f'{where}: ')}") from None

    def files(self) -> Sequence[Path]:
        """All XML files."""
        return list(_xml_files(self.path).values())


def _xml_files(path: Path) -> Mapping[str, Path]:
    folder = path / FOLDER if (path / FOLDER).is_dir() else path
    try:
        return _listed(folder, folder.stat().st_mtime_ns)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}") from None


@lru_cache(maxsize=2)
def _listed(folder: Path, changed: int) -> Mapping[str, Path]:
    """Name -> XML file by number; `changed`, the folder's time of change, makes it be listed again."""
    names = (path for path in folder.glob("*.xml") if not path.name.startswith("."))
    return {path.stem: path for path in sorted(names, key=lambda path: (len(path.stem), path.stem))}


def _xml_entry(root: Element, where: str) -> Entry:
    identity = root.find("uId")
    name = None if identity is None else identity.get("id")
    if not name:
        raise DataError(f"{where}: there is no uId")
    sections = {part.get("Label", ""): part.text or "" for part in root.iter("AbstractText")}
    pictures = tuple(
        Picture(name=image.get("id", ""), caption=image.findtext("caption") or "") for image in root.iter("parentImage")
    )
    url = (root.findtext("licenseURL") or "").strip()
    return Entry(
        where=where,
        id=name,
        text=_text(sections),
        pictures=pictures,
        codes=_codes(root, "major"),
        automatic=_codes(root, "automatic"),
        license=LICENSE if not url or _LICENSE_URL in url else url,
    )


def _codes(root: Element, kind: str) -> tuple[str, ...]:
    return tuple(text for code in root.iter(kind) if (text := (code.text or "").strip()))


def _text(sections: Mapping[str, str]) -> str:
    """The report with its headings; a section that says nothing has none."""
    return "\n".join(f"{name.upper()}: {text.strip()}" for name, text in sections.items() if text.strip())


class KaggleReports(_InFolder):
    """`indiana_reports.csv`, whose images `indiana_projections.csv` names."""

    @staticmethod
    def there(path: Path) -> bool:
        """Whether there is a table of reports."""
        return find_table(path, REPORTS) is not None

    def units(self) -> Sequence[str]:
        """One unit per report."""
        return units_of(self._table().groups("uid"))

    def entry(self, unit: str) -> Entry:
        """The report of one row."""
        table = self._table()
        index, *others = rows_of(unit, table)
        where, cells = table.where(index), table.rows[index]
        if others:
            raise DataError(f"{where}: the same report as line {table.line(others[0])}")
        number = cells["uid"].strip()
        if not number.isdecimal():
            raise DataError(f"{where}: the uid is no number")
        projections = projection_table(self.path)
        pictures = [
            image_name(projections.columns["filename"][row]) for row in projections.groups("uid").get(number, ())
        ]
        return Entry(
            where=where,
            id=f"CXR{number}",
            text=_text({name: cells[name.lower()] for name in SECTIONS if cells[name.lower()].strip() != _LOST}),
            pictures=tuple(Picture(name=name, caption=cells["image"]) for name in pictures),
            codes=tuple(code.strip() for code in cells["MeSH"].split(";") if code.strip()),
        )

    def files(self) -> Sequence[Path]:
        """Both tables."""
        return [path for name in (REPORTS, PROJECTIONS) if (path := find_table(self.path, name)) is not None]

    def _table(self) -> Table:
        path = find_table(self.path, REPORTS) or self.path / REPORTS
        return read_table(path, columns=("uid", "MeSH", "image", *map(str.lower, SECTIONS)))


def projection_table(path: Path) -> Table:
    """Kaggle's table of what each image shows, in a folder or as a file."""
    file = path if path.is_file() else find_table(path, PROJECTIONS) or path / PROJECTIONS
    return read_table(file, columns=("uid", "filename", "projection"))


class _R2GenRecord(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")
    id: str
    report: str
    image_path: tuple[str, ...]


class R2GenReports(_InFolder):
    """R2Gen's `annotation.json`: reports as its authors cleaned them, two images each, and a split."""

    images_by_name = False

    @staticmethod
    def there(path: Path) -> bool:
        """Whether there is a file of this name."""
        return find_table(path, ANNOTATION) is not None

    def units(self) -> Sequence[str]:
        """One unit per report: its number, counted through all splits."""
        return [str(number) for number in range(len(self._records()))]

    def entry(self, unit: str) -> Entry:
        """The report of one record."""
        records, path = self._records(), self._path()
        (number,) = places_of(unit, len(records), where=path)
        split, values = records[number]
        where = f"{path}: record {number + 1}"
        try:
            record = _R2GenRecord.model_validate(values | {"image_path": tuple(values.get("image_path") or ())})
        except (ValidationError, TypeError, AttributeError):
            raise DataError(f"{where}: not a report with id, report and image_path") from None
        return Entry(
            where=where,
            id=record.id,
            text=record.report,
            pictures=tuple(Picture(name=f"{record.id}/{image_name(file)}", file=file) for file in record.image_path),
            split=split,
            person=record.id.partition("_")[0],
        )

    def files(self) -> Sequence[Path]:
        """The one file."""
        return [self._path()]

    def _path(self) -> Path:
        return find_table(self.path, ANNOTATION) or self.path / ANNOTATION

    def _records(self) -> Sequence[tuple[Split, Any]]:
        path = self._path()
        try:
            return _read_annotation(path, path.stat().st_mtime_ns)
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from None


@lru_cache(maxsize=2)
def _read_annotation(path: Path, changed: int) -> Sequence[tuple[Split, Any]]:
    """(split, record) of the file; `changed`, its time of change, makes a changed file be read again."""
    content = read_json(path)
    splits: tuple[Split, ...] = ("train", "val", "test")
    if not isinstance(content, dict) or not all(isinstance(content.get(split), list) for split in splits):
        raise DataError(f"{path}: not an object of the lists train, val and test")
    records = [(split, values) for split in splits for values in content[split]]
    if not records:
        raise DataError(f"{path}: holds no report")
    return records
