"""MIMIC-CXR and MIMIC-CXR-JPG (PhysioNet): images and reports by patient and study, facts in gzipped tables.

Read: `mimic-cxr-2.0.0-metadata.csv` (else `cxr-record-list.csv`, which knows neither views nor dates), `-split.csv`,
`-chexpert.csv` or `-negbio.csv`, `mimic-cxr-2.1.0-test-set-labeled.csv`, each gzipped or not;
`files/p10/p10000032/s50414267/<dicom_id>.jpg` (or `.dcm`), and the reports as `files/p10/p10000032/s50414267.txt`, as
`mimic-cxr-reports.zip` or as `mimic_cxr_sectioned.csv`.  Reports are kept as written, wet reads and addenda included.
"""

import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

from vlp import log
from vlp.errors import DataError
from vlp.ingest.archives.chexpert import LABELS, labels_of
from vlp.ingest.archives.rows import Row, load_studies, rows_of, sex_of, units_of
from vlp.ingest.source import Source, StudyFault
from vlp.ingest.tables import Table, find_table, fingerprint, inside, read_table
from vlp.records import Certainty, LoadedStudy, Person, Report, Split, View

SOURCE = "mimic-cxr"
LICENSE = "PhysioNet Credentialed Health Data License 1.5.0"

_ENDINGS = {"jpg": ".jpg", "png": ".png", "dicom": ".dcm"}
_SPLITS: Mapping[str, Split] = {"train": "train", "validate": "val", "test": "test"}
_VIEWS: Mapping[str, View] = {
    "PA": "PA", "AP": "AP", "LATERAL": "lateral", "LL": "lateral", "RL": "lateral", "XTABLE LATERAL": "lateral",
}  # fmt: skip
"""Oblique views, decubitus and the like are "other": a frontal image of another kind is no frontal image here."""
_VIEW_CODES: Mapping[str, View] = {
    "postero-anterior": "PA", "antero-posterior": "AP", "lateral": "lateral", "left lateral": "lateral",
    "right lateral": "lateral",
}  # fmt: skip
_NUMBER = re.compile(r"\d+")
_IMAGE_NAME = re.compile(r"[\w-]+")
_TIME = re.compile(r"\d{1,6}(?:\.\d+)?")
_MAX_REPORT_BYTES = 1 << 20
_MAX_AGE = 120
_logger = log.get_logger(__name__)


class MimicCxrSource(Source):
    """MIMIC-CXR in a folder; see the module's documentation."""

    kind: Literal["mimic_cxr"] = "mimic_cxr"
    path: Path
    """The folder that holds the tables and `files/`."""
    images: Literal["jpg", "png", "dicom"] = "jpg"
    """Which form of the images lies in `files/`."""
    reports: Path | None = None
    """Where the reports are: a folder with `files/`, `mimic-cxr-reports.zip`, or a table of sections
    (`mimic_cxr_sectioned.csv`); null looks beside the images."""
    labels: Literal["chexpert", "negbio"] | None = "chexpert"
    """Whose labels are taken; null leaves labelling to our own reader of reports."""
    test_labels: bool = True
    """Whether the radiologists' labels of release 2.1.0, where the archive has them, replace the labeler's."""
    official_splits: bool = True
    """Whether the archive's own train, validate and test are kept; false divides the persons anew."""
    folders: tuple[str, ...] = ()
    """Only patients in these folders of `files/`, e.g. [p10, p11], for part of the archive; empty takes all."""
    patients: Path | None = None
    """MIMIC-IV's `patients.csv`, which gives sex and age; MIMIC-CXR itself knows neither."""

    def units(self) -> Sequence[str]:
        """One unit per patient: the numbers of his rows in the table of images."""
        table = self._listing()
        self._facts()
        self._report("")
        groups = {person: rows for person, rows in table.groups("subject_id").items() if self._wanted(person)}
        if not groups:
            raise DataError(f"{table.path}: no image to use; is it empty, or does `folders` leave all out?")
        left_out = len(table.lines) - sum(map(len, groups.values()))
        if left_out:
            _logger.info("%d of %d images are in other folders and left out", left_out, len(table.lines))
        return units_of(groups)

    def load(self, unit: str) -> Iterator[LoadedStudy | StudyFault]:
        """The studies of one patient, oldest first."""
        table = self._listing()
        studies: dict[str, list[int]] = {}
        for index in rows_of(unit, table):
            studies.setdefault(table.columns["study_id"][index], []).append(index)
        facts = self._facts()
        loadable = [item for rows in studies.values() for item in self._study(table, rows, facts)]
        yield from load_studies(loadable, source=SOURCE, license=LICENSE)

    def fingerprint(self) -> str:
        """SHA-256 of all tables that are read, and of the reports where they are one file."""
        paths = [self._listing().path, *self._facts().values(), self.patients]
        return fingerprint([*paths, self.reports if self.reports is not None and self.reports.is_file() else None])

    def _wanted(self, person: str) -> bool:
        return not self.folders or f"p{person[:2]}" in self.folders

    def _listing(self) -> Table:
        ids = ("dicom_id", "subject_id", "study_id")
        metadata = find_table(self.path, "mimic-cxr-2.0.0-metadata.csv", "mimic-cxr-2.1.0-metadata.csv")
        if metadata is not None:
            taken = ("ViewPosition", "StudyDate", "StudyTime")
            return read_table(metadata, columns=(*ids, *taken), optional=("ViewCodeSequence_CodeMeaning",))
        records = find_table(self.path, "cxr-record-list.csv")
        if records is None:
            raise DataError(
                f"{self.path}: neither mimic-cxr-2.0.0-metadata.csv nor cxr-record-list.csv is here; "
                "is this the folder of MIMIC-CXR?"
            )
        return read_table(records, columns=ids)

    def _facts(self) -> dict[str, Path]:
        """The tables beside the listing that the configuration asks for."""
        facts = {}
        if self.official_splits:
            facts["split"] = self._needed("split", "official_splits: false")
        if self.labels is not None:
            facts["labels"] = self._needed(self.labels, "labels: null")
        radiologists = find_table(self.path, "mimic-cxr-2.1.0-test-set-labeled.csv") if self.test_labels else None
        return facts if radiologists is None else facts | {"radiologists": radiologists}

    def _needed(self, name: str, otherwise: str) -> Path:
        names = [f"mimic-cxr-{version}-{name}.csv" for version in ("2.0.0", "2.1.0")]
        path = find_table(self.path, *names)
        if path is None:
            raise DataError(f"{self.path / names[0]}: the table is missing; fetch it or set {otherwise}")
        return path

    def _study(
        self, table: Table, indices: Sequence[int], facts: Mapping[str, Path]
    ) -> Iterator[list[Row] | StudyFault]:
        """The rows of one study, after the faults of rows that cannot be used."""
        kept: dict[str, Row] = {}
        order = min((time for index in indices if (time := _when(table.rows[index])) is not None), default=None)
        for index in indices:
            try:
                row = self._row(table, index, facts, order)
                if row.image in kept:
                    raise DataError("this image is listed twice")
                kept[row.image] = row
            except DataError as error:
                reason = str(error)
                yield StudyFault(code="bad_row", message=f"{table.where(index)}: {reason}")
        if kept:
            yield list(kept.values())

    def _row(self, table: Table, index: int, facts: Mapping[str, Path], order: float | None) -> Row:
        row = table.rows[index]
        person, study, image = row["subject_id"], row["study_id"], row["dicom_id"]
        if not (_NUMBER.fullmatch(person) and _NUMBER.fullmatch(study) and _IMAGE_NAME.fullmatch(image)):
            raise DataError("the ids are not those of MIMIC-CXR (two numbers and the name of an image)")
        if len({table.columns["subject_id"][other] for other in table.groups("study_id")[study]}) > 1:
            raise DataError("this study is listed under several patients")
        folder = f"files/p{person[:2]}/p{person}/s{study}"
        labels, labelled_by = _labels(facts, study)
        return Row(
            where=table.where(index),
            image=image,
            path=inside(self.path, f"{folder}/{image}{_ENDINGS[self.images]}"),
            study=study,
            person=self._person(person, year=row.get("StudyDate", "")[:4], labelled_by=labelled_by),
            view=view_of(row.get("ViewPosition", ""), row.get("ViewCodeSequence_CodeMeaning", "")),
            report=self._report(f"{folder}.txt"),
            labels=labels,
            split=_split(facts, image),
            order=order,
        )

    def _person(self, person: str, *, year: str, labelled_by: str) -> Person:
        groups = {"labels": labelled_by} if labelled_by else {}
        if self.patients is None:
            return Person(id=person, groups=groups)
        table = read_table(self.patients, columns=("subject_id", "gender", "anchor_age", "anchor_year"))
        for index in table.groups("subject_id").get(person, ()):
            row = table.rows[index]
            return Person(id=person, sex=sex_of(row["gender"]), age=_age(row, year), groups=groups)
        return Person(id=person, groups=groups)

    def _report(self, name: str) -> Report | None:
        """The report called `name` ("files/p10/p10000032/s50414267.txt"); None where there is none or it is empty."""
        where = self.reports if self.reports is not None else self.path
        if where.name.lower().endswith(".zip"):
            text = _text(_from_zip(where, name))
        elif where.is_dir():
            text = _text(_from_file(where / name))
        else:
            text = _from_sections(where, study=name.rpartition("/")[2].removesuffix(".txt"))
        return Report(text=text) if text.strip() else None


def view_of(position: str, code: str) -> View | None:
    """The view from ViewPosition, and from the meaning of the view's code where that is blank; None: nobody says."""
    if position.strip():
        return _VIEWS.get(position.strip().upper(), "other")
    return _VIEW_CODES.get(code.strip().lower())


def _split(facts: Mapping[str, Path], image: str) -> Split | None:
    path = facts.get("split")
    if path is None:
        return None
    table = read_table(path, columns=("dicom_id", "split"))
    said = {table.columns["split"][index] for index in table.groups("dicom_id").get(image, ())}
    if len(said) != 1 or not said <= _SPLITS.keys():
        raise DataError(f"{path.name} does not say train, validate or test of this image")
    return _SPLITS[said.pop()]


def _labels(facts: Mapping[str, Path], study: str) -> tuple[dict[str, Certainty], str]:
    """The labels of a study and who gave them."""
    if "radiologists" in facts:
        table = read_table(facts["radiologists"], columns=("study_id",), optional=(*LABELS, "Airspace Opacity"))
        for index in table.groups("study_id").get(study, ()):
            row = table.rows[index]
            return labels_of(row | {"Lung Opacity": row["Lung Opacity"] or row["Airspace Opacity"]}), "radiologists"
    if "labels" in facts:
        table = read_table(facts["labels"], columns=("study_id", *LABELS))
        for index in table.groups("study_id").get(study, ()):
            return labels_of(table.rows[index]), "labeler"
    return {}, ""


def _when(row: Mapping[str, str]) -> float | None:
    """A number that grows with StudyDate (21800506) and StudyTime (213014.531, without leading zeros)."""
    date, time = row.get("StudyDate", "").strip(), row.get("StudyTime", "").strip()
    if len(date) != 8 or not date.isdecimal():
        return None
    return int(date) + (float(time) / 1e6 if _TIME.fullmatch(time) else 0.0)


def _age(row: Mapping[str, str], year: str) -> float | None:
    """MIMIC-IV gives the age in one (shifted) year; the study's year is shifted alike."""
    numbers = (row["anchor_age"], row["anchor_year"], year)
    if not all(number.isdecimal() for number in numbers):
        return None
    age = int(numbers[0]) + int(numbers[2]) - int(numbers[1])
    return float(age) if 0 <= age <= _MAX_AGE else None


def _text(content: bytes) -> str:
    if len(content) > _MAX_REPORT_BYTES:
        raise DataError("the report is larger than any report is")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise DataError("the report is not UTF-8 text") from None


def _from_file(path: Path) -> bytes:
    try:
        return path.read_bytes() if path.is_file() else b""
    except OSError as error:
        raise DataError(f"the report cannot be read: {error.strerror}") from None


def _from_sections(path: Path, *, study: str) -> str:
    """A report put together from `study,impression,findings,last_paragraph,comparison`."""
    table = read_table(path, columns=("study", "impression", "findings"), optional=("comparison", "last_paragraph"))
    for index in table.groups("study").get(study, ()):
        row = table.rows[index]
        parts = {name: row[name].strip() for name in ("comparison", "findings", "impression")}
        if not parts["findings"] and not parts["impression"]:
            return row["last_paragraph"].strip()
        return "\n".join(f"{name.upper()}: {part}" for name, part in parts.items() if part)
    return ""


def _from_zip(path: Path, name: str) -> bytes:
    try:
        archive = _opened(path, path.stat().st_mtime_ns)
        if archive.NameToInfo.get(name) is None:
            return b""
        with archive.open(name) as member:
            return member.read(_MAX_REPORT_BYTES + 1)
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError):
        raise DataError(f"{path}: not a whole ZIP archive of reports; is it cut off?") from None


@lru_cache(maxsize=2)
def _opened(path: Path, changed: int) -> zipfile.ZipFile:
    """Kept open per process: its table of contents has 227,835 lines.  `changed` makes another file another entry."""
    return zipfile.ZipFile(path)
