"""Pictures no X-ray tube made: DRR-RATE, projected from the CT volumes of CT-RATE, and any set a table describes.

Every study is marked synthetic, so that none slips into a test set unseen.  What is known of DRR-RATE:

    train/AP/train_1/train_1_a/train_1_a_1.png         person, scan, reconstruction; also valid/
    multi_abnormality_labels/train_predicted_labels.csv    `ImageName` or `VolumeName`, 18 labels 0 or 1
    radiology_text_reports/train_reports.csv           of CT-RATE: `VolumeName`, `Findings_EN`, `Impressions_EN`
    metadata/train_metadata.csv                        of CT-RATE: `VolumeName`, `PatientSex`, `PatientAge`

The reports and the metadata come with CT-RATE, whose files for the second part begin with `validation_`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from vlp import log
from vlp.config import Config
from vlp.errors import DataError
from vlp.ingest.archives.rows import Row, load_studies, rows_of, sex_of, studies_in, units_of, years
from vlp.ingest.archives.table import TableSource
from vlp.ingest.source import Source, StudyFault
from vlp.ingest.tables import Table, find_table, fingerprint, inside, read_table
from vlp.records import Certainty, LoadedStudy, Person, Report, Sentence, Split, View
from vlp.reports import read

Part = Literal["train", "valid"]
LICENSE = "CC BY-NC-SA 4.0 (DRR-RATE, from CT-RATE)"
LABELS: Mapping[str, str | None] = {
    "Medical material": "support device",
    "Arterial wall calcification": None,
    "Cardiomegaly": "cardiomegaly",
    "Pericardial effusion": "pericardial effusion",
    "Coronary artery wall calcification": None,
    "Hiatal hernia": "hernia",
    "Lymphadenopathy": "lymphadenopathy",
    "Emphysema": "emphysema",
    "Atelectasis": "atelectasis",
    "Lung nodule": "nodule",
    "Lung opacity": "lung opacity",
    "Pulmonary fibrotic sequela": "scarring",
    "Pleural effusion": "pleural effusion",
    "Mosaic attenuation pattern": None,
    "Peribronchial thickening": None,
    "Consolidation": "consolidation",
    "Bronchiectasis": None,
    "Interlobular septal thickening": None,
}
"""CT-RATE's label -> finding of our vocabulary; None for what it lacks."""

_VIEWS: Mapping[str, View] = {"AP": "AP"}
_SPLITS: Mapping[Part, Split] = {"train": "train", "valid": "val"}
_TABLES: Mapping[Part, tuple[str, ...]] = {"train": ("train",), "valid": ("valid", "validation")}
_NAME = re.compile(r"(?P<scan>(?P<person>[A-Za-z]+_\d+)_[A-Za-z]+)_\d+")
_SECTIONS = {"INDICATION": "ClinicalInformation_EN", "FINDINGS": "Findings_EN", "IMPRESSION": "Impressions_EN"}
_CERTAINTY = {"1": Certainty.PRESENT, "0": Certainty.ABSENT}
_logger = log.get_logger(__name__)


class DrrRate(Config):
    """DRR-RATE; see the module's documentation."""

    layout: Literal["drr_rate"] = "drr_rate"
    path: Path
    """Folder that holds `train/` or `valid/` and `multi_abnormality_labels/`."""
    ct_rate: Path | None = None
    """Folder that holds CT-RATE's `radiology_text_reports/` and `metadata/`; null: `path`."""
    parts: tuple[Part, ...] = ("train", "valid")
    views: Annotated[dict[str, View], Field(default_factory=lambda: dict(_VIEWS), min_length=1)]
    """Folder -> view; every image must be in all of them."""
    invisible: tuple[str, ...] | None = ("pericardial effusion", "lymphadenopathy")
    """The reports describe the CT.  Labels and sentences about these findings are left out, and sentences about none
    of the vocabulary; null leaves everything in."""


class Mapped(Config):
    """Any other set, e.g. SynthCheX-75K, by what its table's columns mean."""

    layout: Literal["table"] = "table"
    generator: str
    """What made the pictures; a group results can be reported by."""
    source: TableSource


class SyntheticSource(Source):
    """A set of synthetic chest radiographs."""

    synthetic: ClassVar[bool] = True

    kind: Literal["synthetic"] = "synthetic"
    archive: Annotated[DrrRate | Mapped, Field(discriminator="layout")]

    @property
    def name(self) -> str:
        """The folder or table as it was given."""
        return self.archive.source.name if isinstance(self.archive, Mapped) else str(self.archive.path)

    def units(self) -> Sequence[str]:
        """One unit per person whose CT was projected, or as the table groups them."""
        if isinstance(self.archive, Mapped):
            return self.archive.source.units()
        units: list[str] = []
        for part in dict.fromkeys(self.archive.parts):
            table = _labels(self.archive, part)
            groups: dict[str, list[int]] = {}
            for index, cell in enumerate(_names(table)):
                match = _NAME.fullmatch(_stem(cell))
                groups.setdefault(match["person"] if match else f"\0{index}", []).append(index)
            if _beside(self.archive, part, "radiology_text_reports", "reports") is None:
                _logger.warning("%s: no reports of part %s; its studies have labels only", self.archive.path, part)
            units.extend(f"{part}:{unit}" for unit in units_of(groups))
        if not units:
            raise DataError(f"{self.archive.path}: the tables of labels name no image")
        return units

    def load(self, unit: str) -> Iterator[LoadedStudy | StudyFault]:
        """The studies of one person, a scan each, with all its reconstructions."""
        if isinstance(self.archive, Mapped):
            for item in self.archive.source.load(unit):
                yield item if isinstance(item, StudyFault) else _marked(item, self.archive.generator)
            return
        part = next((each for each in self.archive.parts if unit.startswith(f"{each}:")), None)
        if part is None:
            raise DataError(f"{self.archive.path}: {unit!r:.40} is not a unit of this archive")
        reader = _PartReader(archive=self.archive, part=part)
        table = reader.labels
        studies = studies_in(
            table, rows_of(unit.partition(":")[2], table), study=reader.study, read=reader.row
        )  # fmt: skip
        # A scan has one row per reconstruction, and every row one image per view.
        spread = [each if isinstance(each, StudyFault) else reader.images(each) for each in studies]
        yield from load_studies(spread, source="drr_rate", license=LICENSE, synthetic=True)

    def fingerprint(self) -> str:
        """SHA-256 of the tables."""
        if isinstance(self.archive, Mapped):
            return self.archive.source.fingerprint()
        return fingerprint(path for part in self.archive.parts for path in _paths(self.archive, part))


class _PartReader:
    """One part of DRR-RATE with its tables."""

    def __init__(self, *, archive: DrrRate, part: Part) -> None:
        self._archive, self._part = archive, part
        self.labels = _labels(archive, part)
        self._reports = _optional(
            _beside(archive, part, "radiology_text_reports", "reports"),
            ("VolumeName", "Findings_EN", "Impressions_EN"),
            ("ClinicalInformation_EN",),
        )
        self._metadata = _optional(
            _beside(archive, part, "metadata", "metadata"),
            ("VolumeName",),
            ("PatientSex", "PatientAge", "Manufacturer"),
        )

    def study(self, row: Mapping[str, str]) -> str:
        """The scan a row belongs to."""
        match = _NAME.fullmatch(_stem(row["ImageName"] or row["VolumeName"]))
        return match["scan"] if match else ""

    def row(self, row: Mapping[str, str], where: str) -> Row:
        """One reconstruction; its path is that of the first view."""
        name = _stem(row["ImageName"] or row["VolumeName"])
        match = _NAME.fullmatch(name)
        if match is None:
            raise DataError("the name is not like train_1_a_1")
        facts = _first(self._metadata, name)
        report, sentences = self._report(name)
        groups = {"made from": "CT", "scanner": facts.get("Manufacturer", "").strip()}
        return Row(
            where=where,
            image=name,
            path=self._path(next(iter(self._archive.views)), match["person"], match["scan"], name),
            study=match["scan"],
            person=Person(
                id=match["person"],
                age=years(facts.get("PatientAge", "")),
                sex=sex_of(facts.get("PatientSex", "")),
                groups={group: value for group, value in groups.items() if value},
            ),
            report=report,
            sentences=sentences,
            labels=self._said(row),
            split=_SPLITS[self._part],
        )

    def images(self, rows: Sequence[Row]) -> list[Row]:
        """The rows once for each view; the first view's images keep their name."""
        first = next(iter(self._archive.views))
        return [
            replace(
                row,
                image=row.image if folder == first else f"{row.image}_{folder}",
                path=self._path(folder, row.person.id, row.study, row.image),
                view=view,
            )
            for row in rows
            for folder, view in self._archive.views.items()
        ]

    def _path(self, folder: str, person: str, scan: str, name: str) -> Path:
        return inside(self._archive.path, f"{self._part}/{folder}/{person}/{scan}/{name}.png")

    def _said(self, row: Mapping[str, str]) -> dict[str, Certainty]:
        labels = {}
        for column, finding in LABELS.items():
            cell = row[column].strip().removesuffix(".0")
            if cell and cell not in _CERTAINTY:
                raise DataError(f"column {column!r} holds neither 0 nor 1")
            if cell and finding and finding not in (self._archive.invisible or ()):
                labels[finding] = _CERTAINTY[cell]
        return labels

    def _report(self, name: str) -> tuple[Report | None, tuple[Sentence, ...]]:
        """The report with the sentences a projection can show; none where it shows nothing of it."""
        said = _first(self._reports, name)
        parts = [f"{title}: {text}" for title, column in _SECTIONS.items() if (text := said.get(column, "").strip())]
        if not parts:
            return None, ()
        report = Report(text="\n".join(parts))
        if self._archive.invisible is None:
            return report, ()
        unseen = {None, *self._archive.invisible}
        sentences = tuple(each for each in read(report.text) if each.finding not in unseen)
        return (report, sentences) if sentences else (None, ())


def _marked(loaded: LoadedStudy, generator: str) -> LoadedStudy:
    person = replace(loaded.study.person, groups={**loaded.study.person.groups, "made by": generator})
    return replace(loaded, study=replace(loaded.study, synthetic=True, person=person))


def _paths(archive: DrrRate, part: Part) -> tuple[Path | None, Path | None, Path | None]:
    """Labels, reports, metadata."""
    return (
        find_table(
            archive.path / "multi_abnormality_labels", *(f"{name}_predicted_labels.csv" for name in _TABLES[part])
        ),
        _beside(archive, part, "radiology_text_reports", "reports"),
        _beside(archive, part, "metadata", "metadata"),
    )


def _beside(archive: DrrRate, part: Part, folder: str, what: str) -> Path | None:
    return find_table((archive.ct_rate or archive.path) / folder, *(f"{name}_{what}.csv" for name in _TABLES[part]))


def _labels(archive: DrrRate, part: Part) -> Table:
    path = _paths(archive, part)[0]
    if path is None:
        raise DataError(
            f"{archive.path / 'multi_abnormality_labels' / f'{part}_predicted_labels.csv'}: the table is missing; "
            f"leave {part!r} out of `parts` where there is none"
        )
    table = read_table(path, columns=tuple(LABELS), optional=("ImageName", "VolumeName"))
    if not table.found & {"ImageName", "VolumeName"}:
        raise DataError(f"{path}: column 'ImageName' (or 'VolumeName') is missing; is this the right table?")
    return table


def _optional(path: Path | None, columns: tuple[str, ...], optional: tuple[str, ...]) -> Table | None:
    return None if path is None else read_table(path, columns=columns, optional=optional)


def _names(table: Table) -> Sequence[str]:
    return table.columns["ImageName" if "ImageName" in table.found else "VolumeName"]


def _stem(cell: str) -> str:
    return cell.strip().removesuffix(".png").removesuffix(".nii.gz")


def _first(table: Table | None, name: str) -> Mapping[str, str]:
    """The row of a volume in a table of CT-RATE; nothing where there is none."""
    if table is None:
        return {}
    rows = table.groups("VolumeName").get(f"{name}.nii.gz") or table.groups("VolumeName").get(name)
    return table.rows[rows[0]] if rows else {}
