"""PadChest-GR: 4,555 frontal images of PadChest, their findings as sentences in English and Spanish, with boxes.

Read are `grounded_reports_20240819.json` (sentences, labels, boxes as fractions of the image) and `master_table.csv`
(patients, official splits).  The images of earlier studies that come with the release are not read.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from vlp.errors import DataError
from vlp.ingest.archives.padchest import age_between, findings_of
from vlp.ingest.archives.rows import Row, RowBox, finding_name, load_studies, log_outside, places_of, sex_of, units_of
from vlp.ingest.image_index import image_name
from vlp.ingest.source import Source, StudyFault
from vlp.ingest.tables import Table, fingerprint, inside, read_json, read_table
from vlp.records import Certainty, LoadedStudy, Person, Report, Split, View

LICENSE = "PadChest-GR Research Use Agreement (BIMCV): research only, no redistribution"
UNNAMED = "unnamed finding"
"""What a box is called whose sentence has no label."""

_SPLITS: Mapping[str, Split] = {"train": "train", "validation": "val", "val": "val", "test": "test"}
_VIEWS: Mapping[str, View] = {"PA": "PA", "AP": "AP", "AP_HORIZONTAL": "AP"}
_OPTIONAL = ("PatientSex_DICOM", "PatientBirth", "StudyDate_DICOM", "Projection")


class _Finding(BaseModel):
    """One sentence; those of normal findings lack most of it."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)
    sentence_en: str = ""
    sentence_es: str = ""
    abnormal: bool = False
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    extra_boxes: tuple[tuple[float, float, float, float], ...] = ()
    labels: tuple[str, ...] = ()


class _Entry(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)
    StudyID: str
    ImageID: str
    findings: tuple[_Finding, ...] = ()


class PadChestGrSource(Source):
    """A folder with PadChest-GR's grounded reports, its master table and its images."""

    kind: Literal["padchest_gr"] = "padchest_gr"
    path: Path
    """Folder of the reports and the table."""
    reports: str = "grounded_reports_20240819.json"
    master: str = "master_table.csv"
    images: Path | None = None
    """Folder that holds the images, `PadChest_GR`; null: `path`."""
    language: Literal["en", "es"] = "en"
    """Of the sentences that become the report; training sentences are read from English ones only."""
    extra_boxes: bool = False
    """Whether the boxes that only one of two annotators drew are taken too."""
    unstated_view: Literal["PA", "AP", "other"] = "PA"
    """What an image counts as where the table does not say its projection; all are frontal."""

    def units(self) -> Sequence[str]:
        """One unit per patient."""
        entries, master = self._entries(), self._master()
        rows = master.groups("ImageID")
        groups: dict[str, list[int]] = {}
        outside: Counter[str] = Counter()
        for place, entry in enumerate(entries):
            image = entry.get("ImageID") if isinstance(entry, dict) else None
            known = rows.get(image) if isinstance(image, str) else None
            patient = master.rows[known[0]]["PatientID"].strip() if known else ""
            groups.setdefault(patient or f"\0{place}", []).append(place)  # its fault is told when it is loaded
            outside.update(label for label in _labels(entry) if not findings_of(label))
        if not groups:
            raise DataError(f"{self.path / self.reports}: it holds no report")
        log_outside(outside)
        return units_of(groups)

    def load(self, unit: str) -> Iterator[LoadedStudy | StudyFault]:
        """The studies of one patient."""
        entries = self._entries()
        studies: list[list[Row] | StudyFault] = []
        for place in places_of(unit, len(entries), where=self.path / self.reports):
            where = f"{self.path / self.reports}: report {place + 1}"
            try:
                studies.append([self._row(_entry(entries[place]), where)])
            except DataError as error:
                studies.append(StudyFault(code="bad_row", message=f"{where}: {error}"))
        yield from load_studies(studies, source=self.kind, license=LICENSE)

    def fingerprint(self) -> str:
        """SHA-256 of the reports and the table."""
        return fingerprint([self.path / self.reports, self.path / self.master])

    def _entries(self) -> list[Any]:
        path = self.path / self.reports
        try:
            status = path.stat()
        except OSError as error:
            raise DataError(f"{path}: the grounded reports cannot be read: {error.strerror}") from None
        return _read_entries(path, (status.st_mtime_ns, status.st_size))

    def _master(self) -> Table:
        return read_table(self.path / self.master, columns=("ImageID", "PatientID", "split"), optional=_OPTIONAL)

    def _row(self, entry: _Entry, where: str) -> Row:
        master = self._master()
        known = master.groups("ImageID").get(entry.ImageID)
        if known is None:
            raise DataError(f"{self.master} does not know its image")
        facts = master.rows[known[0]]
        split = _SPLITS.get(facts["split"].strip().lower())
        if not facts["PatientID"].strip() or split is None:
            raise DataError(f"{self.master}: line {master.line(known[0])}: no patient, or a split that is none")
        return Row(
            where=where,
            image=image_name(entry.ImageID),
            path=inside(self.images or self.path, entry.ImageID),
            study=entry.StudyID,
            person=Person(
                id=facts["PatientID"].strip(),
                age=age_between(facts["PatientBirth"], facts["StudyDate_DICOM"]),
                sex=sex_of(facts["PatientSex_DICOM"]),
            ),
            view=_VIEWS.get(facts["Projection"].strip().upper(), self.unstated_view),
            report=self._report(entry),
            labels=_present(entry),
            boxes=tuple(self._boxes(entry)),
            split=split,
        )

    def _report(self, entry: _Entry) -> Report | None:
        spoken = (each.sentence_en if self.language == "en" else each.sentence_es for each in entry.findings)
        text = "\n".join(sentence.strip() for sentence in spoken if sentence.strip())
        return Report(text=text, language=self.language) if text else None

    def _boxes(self, entry: _Entry) -> Iterator[RowBox]:
        for each in entry.findings:
            names = [name for label in each.labels for name in findings_of(label) or (finding_name(label),)]
            for edges in (*each.boxes, *(each.extra_boxes if self.extra_boxes else ())):
                for name in dict.fromkeys(names or [UNNAMED]):
                    yield RowBox(finding=name, edges=edges, frame=(1.0, 1.0))


def _present(entry: _Entry) -> dict[str, Certainty]:
    """The findings of the abnormal sentences; what a normal sentence denies has no label."""
    labels = (label for each in entry.findings if each.abnormal for label in each.labels)
    return {finding: Certainty.PRESENT for label in labels for finding in findings_of(label)}


@lru_cache(maxsize=4)
def _read_entries(path: Path, state: tuple[int, int]) -> list[Any]:
    """`state` is the file's time of change and size: a changed file is read again."""
    entries = read_json(path)
    if not isinstance(entries, list):
        raise DataError(f"{path}: not a list of reports")
    return entries


def _entry(values: Any) -> _Entry:
    try:
        # Normal sentences hold null, or nothing, where abnormal ones hold lists.
        return _Entry.model_validate_json(json.dumps(_without_null(values)))
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in fault["loc"])
        raise DataError(f"{place}: {fault['msg']}") from None


def _without_null(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _without_null(value) for key, value in values.items() if value is not None}
    return [_without_null(value) for value in values] if isinstance(values, list) else values


def _labels(entry: Any) -> Iterator[str]:
    """The labels of an entry that may be of any form."""
    findings = entry.get("findings") if isinstance(entry, dict) else None
    for each in findings if isinstance(findings, list) else ():
        labels = each.get("labels") if isinstance(each, dict) else None
        yield from (label for label in (labels if isinstance(labels, list) else ()) if isinstance(label, str))
