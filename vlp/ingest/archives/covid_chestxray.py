"""The covid-chestxray collection (Cohen et al.): images of published cases with their notes, each under its licence.

Reads `metadata.csv` and the images it names (`images/<filename>`).  Every image is a study of its case; the day
("offset") puts them in time.  What the case was found to have is a group of the person, and a label only where it is a
finding of the vocabulary ("Pneumonia/Viral/COVID-19" states pneumonia).  The notes are those of the case, history and
other images included, so they are weaker than a report of the image.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from vlp.errors import DataError
from vlp.ingest.archives.rows import Row, load_studies, log_outside, rows_of, sex_of, studies_in, units_of, when, years
from vlp.ingest.source import Source, StudyFault
from vlp.ingest.tables import Table, find_table, fingerprint, inside, read_table
from vlp.records import Certainty, LoadedStudy, Person, Report, View
from vlp.reports.findings import canonical

LICENSE = "CC BY-NC-SA 4.0"
"""Of the table, and of images that do not state their own."""
TABLE = "metadata.csv"
_COLUMNS = (
    "patientid", "offset", "sex", "age", "finding", "view", "modality", "folder", "filename", "license",
    "clinical_notes",
)  # fmt: skip
_VIEWS: Mapping[str, View] = {
    "PA": "PA", "AP": "AP", "AP SUPINE": "AP", "AP ERECT": "AP", "L": "lateral", "LATERAL": "lateral",
}  # fmt: skip
_UNKNOWN = {"", "todo", "unknown"}


class CovidChestXraySource(Source):
    """The collection's folder; see the module's documentation."""

    kind: Literal["covid_chestxray"] = "covid_chestxray"
    path: Path
    """The folder with `metadata.csv`."""
    images: Path | None = None
    """The folder with the images; null takes the folder each row names, below `path`."""
    modalities: tuple[str, ...] = ("X-ray",)
    """Images of other modalities (CT) are left out."""
    licenses_excluded: tuple[str, ...] = ()
    """Images are left out whose licence contains one of these words, e.g. [NC, ND]."""
    notes: Literal["report", "leave_out"] = "report"
    """Whether the notes of the case count as the report of its images."""

    def units(self) -> Sequence[str]:
        """One unit per person: the numbers of his rows.

        Raises:
            DataError: without the table.
        """
        table = self._table()
        names = Counter(name for cell in table.columns["finding"] for name in diagnoses(cell))
        log_outside({name: count for name, count in names.items() if canonical(name) is None})
        return units_of(table.groups("patientid"))

    def load(self, unit: str) -> Iterator[LoadedStudy | StudyFault]:
        """The images of one person in the order of their days."""
        table = self._table()
        kept: list[int] = []
        for index in rows_of(unit, table):
            left_out = self._left_out(table.rows[index])
            if left_out is None:
                kept.append(index)
            else:
                yield StudyFault(
                    code=f"excluded_{left_out}", message=f"{table.where(index)}: left out by its {left_out}"
                )
        licenses = {_id(table.rows[index]): table.rows[index]["license"].strip() or LICENSE for index in kept}
        for item in load_studies(
            studies_in(table, kept, study=_id, read=self._row), source="covid-chestxray", license=""
        ):
            if isinstance(item, LoadedStudy):
                item = replace(item, study=replace(item.study, license=licenses[item.study.id]))
            yield item

    def fingerprint(self) -> str:
        """SHA-256 of the table."""
        return fingerprint([find_table(self.path, TABLE)])

    def _table(self) -> Table:
        return read_table(find_table(self.path, TABLE) or self.path / TABLE, columns=_COLUMNS)

    def _left_out(self, cells: Mapping[str, str]) -> str | None:
        if cells["modality"].strip() not in self.modalities:
            return "modality"
        words = set(re.split(r"[^A-Z0-9]+", (cells["license"].strip() or LICENSE).upper()))
        return "license" if any(word.upper() in words for word in self.licenses_excluded) else None

    def _row(self, cells: Mapping[str, str], where: str) -> Row:
        patient, name = cells["patientid"].strip(), cells["filename"].strip()
        if not patient:
            raise DataError("the cell of the patient is blank")
        if len(self._table().groups("filename")[cells["filename"]]) > 1:
            raise DataError("the same image has several rows")
        path = (
            inside(self.images, name) if self.images else inside(self.path, f"{cells['folder'].strip() or '.'}/{name}")
        )
        said = diagnoses(cells["finding"])
        notes = cells["clinical_notes"].strip()
        return Row(
            where=where,
            image=_id(cells),
            path=path,
            study=_id(cells),
            person=Person(
                id=patient,
                age=years(cells["age"]),
                sex=sex_of(cells["sex"]),
                groups={"diagnosis": ", ".join(said)} if said else {},
            ),
            view=_VIEWS.get(cells["view"].strip().upper(), "other"),
            report=Report(text=notes) if notes and self.notes == "report" else None,
            labels={finding: Certainty.PRESENT for each in said if (finding := canonical(each)) is not None},
            order=when(cells["offset"]),
        )


def diagnoses(cell: str) -> tuple[str, ...]:
    """What a case was found to have: "COVID-19, ARDS" and "Pneumonia/Viral/COVID-19" name several things."""
    names = (name.strip() for name in re.split(r"[,/]", cell))
    return tuple(dict.fromkeys(name for name in names if name.lower() not in _UNKNOWN))


def _id(cells: Mapping[str, str]) -> str:
    """The file's name with its ending: "1.jpg" and "1.png" are two images."""
    return cells["filename"].strip()
