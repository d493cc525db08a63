"""CheXpert Plus: CheXpert's images with their reports, in sections too, and who the persons are.

Read: `df_chexpert_plus_240401.csv` (one line per image; cells hold whole reports), `chexbert_labels/*_fixed.json` (JSON
lines keyed by `path_to_image`), and the images, as PNG or JPEG (`path_to_image`) or as DICOM (`path_to_dcm`).
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from vlp.errors import DataError
from vlp.ingest.archives.chexpert import LABELS, LICENSE, Place, age_of, labels_of, place_of, view_of
from vlp.ingest.archives.rows import Row, load_studies, rows_of, sex_of, units_of, when
from vlp.ingest.source import Source, StudyFault
from vlp.ingest.tables import Table, find_table, fingerprint, inside, read_table
from vlp.records import Certainty, LoadedStudy, Person, Report

SOURCE = "chexpert-plus"
TABLE = "df_chexpert_plus_240401.csv"

_SECTIONS: Mapping[str, str] = {
    "section_narrative": "NARRATIVE",
    "section_clinical_history": "CLINICAL HISTORY",
    "section_history": "HISTORY",
    "section_comparison": "COMPARISON",
    "section_technique": "TECHNIQUE",
    "section_procedure_comments": "PROCEDURE COMMENTS",
    "section_findings": "FINDINGS",
    "section_impression": "IMPRESSION",
    "section_summary": "SUMMARY",
}
"""Columns of sections in the order of a report; accession numbers and what stands after the end are left out."""
_GROUPS: Mapping[str, str] = {"race": "race", "ethnicity": "ethnicity", "insurance_type": "insurance"}
_FOLDERS = ("", "PNG", "PNG/PNG", "DICOM")
"""Where the images are once the release's archives are unpacked."""
_UNKNOWN = frozenset({"", "unknown", "nan", "patient refused", "refused", "declines to state"})


class CheXpertPlusSource(Source):
    """CheXpert Plus in a folder; see the module's documentation."""

    kind: Literal["chexpert_plus"] = "chexpert_plus"
    path: Path
    """The folder with `df_chexpert_plus_240401.csv`."""
    images: Path | None = None
    """The folder that holds `train/` and `valid/`; null tries the archive itself, then PNG, PNG/PNG and DICOM in it."""
    image_form: Literal["picture", "dicom"] = "picture"
    """Whether PNG or JPEG files are read, or DICOM files."""
    text: Literal["report", "sections"] = "report"
    """The report as it was written, or put together from its `section_*` columns under plain headings."""
    labels: Literal["report", "findings", "impression"] | None = "report"
    """Of which text CheXbert's labels are taken; null leaves labelling to our own reader of reports."""
    unstated_frontal: Literal["PA", "AP", "other"] = "AP"
    """What a frontal image counts as that is called neither AP nor PA."""

    def units(self) -> Sequence[str]:
        """One unit per patient: the numbers of his rows."""
        table = self._table()
        self._labels_table()
        if not len(table.lines):
            raise DataError(f"{table.path}: the table names no image")
        return units_of(table.groups("deid_patient_id"))

    def load(self, unit: str) -> Iterator[LoadedStudy | StudyFault]:
        """The studies of one patient, oldest first."""
        table = self._table()
        studies: dict[str, list[Row]] = {}
        faults: list[StudyFault] = []
        for index in rows_of(unit, table):
            try:
                row = self._row(table, index)
                studies.setdefault(row.study, []).append(row)
            except DataError as error:
                faults.append(StudyFault(code="bad_row", message=f"{table.where(index)}: {error}"))
        yield from load_studies([*faults, *studies.values()], source=SOURCE, license=LICENSE)

    def fingerprint(self) -> str:
        """SHA-256 of the table and of the labels."""
        return fingerprint([find_table(self.path, TABLE), self._labels_path()])

    def _table(self) -> Table:
        about = ("frontal_lateral", "ap_pa", "deid_patient_id", "patient_report_date_order", "age", "sex")
        image = "path_to_image" if self.image_form == "picture" else "path_to_dcm"
        texts = ("report",) if self.text == "report" else ("section_findings", "section_impression")
        others = tuple(_SECTIONS) if self.text == "sections" else ()
        path = find_table(self.path, TABLE) or self.path / TABLE
        return read_table(path, columns=("path_to_image", image, *about, *texts), optional=(*others, *_GROUPS))

    def _labels_path(self) -> Path | None:
        name = f"{self.labels}_fixed.json"
        folder = self.path / "chexbert_labels"
        return None if self.labels is None else find_table(folder, name) or folder / name

    def _labels_table(self) -> Table | None:
        path = self._labels_path()
        if path is None:
            return None
        if not path.is_file():
            raise DataError(f"{path}: the labels are missing; fetch them or set labels: null")
        return read_table(path, columns=("path_to_image", *LABELS), form="jsonl")

    def _row(self, table: Table, index: int) -> Row:
        row = table.rows[index]
        place = place_of(row["path_to_image"])
        if row["deid_patient_id"].strip() != place.person:
            raise DataError("deid_patient_id is not the patient of path_to_image")
        return Row(
            where=table.where(index),
            image=place.image,
            path=self._file(row, place),
            study=place.study,
            person=_person(row),
            view=view_of(row["frontal_lateral"], row["ap_pa"], unstated_frontal=self.unstated_frontal),
            report=self._report(row),
            labels=self._labels(row["path_to_image"]),
            split=place.split,
            order=when(row["patient_report_date_order"]),
        )

    def _file(self, row: Mapping[str, str], place: Place) -> Path:
        """Where the image is: the release's names end in .jpg, its files in .png."""
        if self.image_form == "dicom":
            names = [place_of(row["path_to_dcm"]).name]
        else:
            names = [place.name, str(Path(place.name).with_suffix(".png"))]
        folders = [self.path / name for name in _FOLDERS] if self.images is None else [self.images]
        candidates = [inside(folder, name) for folder in folders for name in names]
        return next((path for path in candidates if path.is_file()), candidates[0])

    def _labels(self, image: str) -> dict[str, Certainty]:
        table = self._labels_table()
        rows = table.groups("path_to_image").get(image, ()) if table is not None else ()
        said = [labels_of(table.rows[index]) for index in rows] if table is not None else []
        if any(other != said[0] for other in said):
            raise DataError("the image has several lines of different labels")
        return said[0] if said else {}

    def _report(self, row: Mapping[str, str]) -> Report | None:
        text = row["report"] if self.text == "report" else _sections(row)
        return Report(text=text) if text.strip() else None


def _sections(row: Mapping[str, str]) -> str:
    parts = [(heading, row[column].strip()) for column, heading in _SECTIONS.items()]
    return "\n".join(f"{heading}: {text}" for heading, text in parts if text)


def _person(row: Mapping[str, str]) -> Person:
    said = {group: row[column].strip() for column, group in _GROUPS.items()}
    return Person(
        id=row["deid_patient_id"].strip(),
        age=age_of(row["age"]),
        sex=sex_of(row["sex"]),
        groups={group: value for group, value in said.items() if value.lower() not in _UNKNOWN},
    )
