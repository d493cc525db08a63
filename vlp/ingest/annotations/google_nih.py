"""Google's labels of ChestX-ray14 images, read by radiologists instead of mined from reports.

Two sets are read.  "Four findings" (Majkowska et al., Radiology 2019): `test_labels.csv` and `validation_labels.csv`,
4,374 images, fracture, pneumothorax, airspace opacity and nodule or mass, adjudicated by three radiologists.  "All
findings" (Nabulsi et al., Scientific Reports 2021): `test_labels.csv`, 810 images, the 14 findings of the archive and
normal or abnormal, by majority of three.  A radiologist's label replaces the one mined from the report.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from vlp.errors import DataError
from vlp.ingest.annotations.annotation import Annotation
from vlp.ingest.image_index import image_name
from vlp.ingest.tables import Table, fingerprint, read_table
from vlp.records import Certainty, Person, Study
from vlp.reports.findings import LABEL_SETS, NO_FINDING

GROUP = "read by radiologists"
_SAYS = {"YES": Certainty.PRESENT, "NO": Certainty.ABSENT, "HEDGE": Certainty.UNCERTAIN}
_IMAGE = ("Image Index", "Image ID")
"""What the two sets call the column of the image."""
_NODULE_OR_MASS = "Nodule or mass"
_FOUR: Mapping[str, str] = {
    "Fracture": "fracture",
    "Pneumothorax": "pneumothorax",
    "Airspace opacity": "lung opacity",
    _NODULE_OR_MASS: "lung lesion",
}
_ALL: Mapping[str, str] = {name.replace("_", " "): finding for name, finding in LABEL_SETS["nih14"].items()}
_ABNORMAL = "Abnormal"


class GoogleNihAnnotation(Annotation):
    """Tables of adjudicated labels beside ChestX-ray14; see the module's documentation."""

    kind: Literal["google_nih"] = "google_nih"
    paths: Annotated[tuple[Path, ...], Field(min_length=1)]
    """The tables, of either set; where two know an image, the later one has the last word."""
    unread: Literal["keep", "drop"] = "keep"
    """Whether labels mined from the report stay where the radiologists were not asked, e.g. edema in the four
    findings; "drop" leaves only what a radiologist said."""

    def apply(self, study: Study) -> Study:
        """The study with the radiologists' labels, its person marked as belonging to the group that has them.

        Raises:
            DataError: for a missing table, one of another kind, and a cell that is neither YES nor NO nor HEDGE.
        """
        labels: dict[str, Certainty] = {}
        for path in self.paths:
            table = _read(path)
            for image in study.images:
                labels |= _labels_of(table, image_name(image.id))
        if not labels:
            return study
        kept = study.labels if self.unread == "keep" else {}
        return replace(study, labels=_settled(kept, labels), person=_marked(study.person))

    def fingerprint(self) -> str:
        """SHA-256 over the tables."""
        return fingerprint(self.paths)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Labels:
    """A table of one of the two sets."""

    table: Table
    image: str
    """The column of the image."""
    findings: Mapping[str, str]
    """Column -> finding."""


def _read(path: Path) -> _Labels:
    table = read_table(path, columns=(), optional=tuple(dict.fromkeys((*_IMAGE, *_FOUR, *_ALL, _ABNORMAL))))
    image = next((name for name in _IMAGE if name in table.found), None)
    if image is None:
        raise DataError(f"{path}: column {_IMAGE[0]!r} is missing; is this one of Google's tables?")
    findings = _FOUR if _NODULE_OR_MASS in table.found else {**_ALL, _ABNORMAL: NO_FINDING}
    missing = [name for name in findings if name not in table.found]
    if missing:
        raise DataError(f"{path}: column {missing[0]!r} is missing; is this one of Google's tables?")
    return _Labels(table=table, image=image, findings=findings)


def _labels_of(labels: _Labels, image: str) -> dict[str, Certainty]:
    """What a table says of one image; a blank cell says nothing, for then nobody was asked.

    Raises:
        DataError: if it says it several times, as the tables of single readers do, or in other words.
    """
    table = labels.table
    groups = table.groups(labels.image)
    rows = [*groups.get(f"{image}.png", ()), *groups.get(image, ())]
    if not rows:
        return {}
    if len(rows) > 1:
        raise DataError(
            f"{table.where(rows[1])}: an image has several rows; name the adjudicated tables, not the readers'"
        )
    cells = table.rows[rows[0]]
    said: dict[str, Certainty] = {}
    for column, finding in labels.findings.items():
        cell = cells[column].strip().upper()
        if cell and cell not in _SAYS:
            raise DataError(f"{table.where(rows[0])}: {column!r} is neither YES nor NO nor HEDGE")
        if cell:
            said[finding] = _SAYS[cell]
    return _with_normal(said)


def _with_normal(said: dict[str, Certainty]) -> dict[str, Certainty]:
    """The labels with "no finding" put right: it is the contrary of "Abnormal", and any finding rules it out."""
    if NO_FINDING in said:
        contrary = {Certainty.PRESENT: Certainty.ABSENT, Certainty.ABSENT: Certainty.PRESENT}
        return said | {NO_FINDING: contrary.get(said[NO_FINDING], Certainty.UNCERTAIN)}
    return said | {NO_FINDING: Certainty.ABSENT} if Certainty.PRESENT in said.values() else said


def _settled(mined: Mapping[str, Certainty], said: Mapping[str, Certainty]) -> dict[str, Certainty]:
    """The radiologists' labels over those that were mined.

    "Nodule or mass" does not say which: YES leaves open what the miner did not see, NO rules out both.
    """
    labels = dict(mined)
    for finding in ("nodule", "mass"):
        if finding in said or "lung lesion" not in said:
            continue
        if said["lung lesion"] == Certainty.ABSENT:
            labels[finding] = Certainty.ABSENT
        elif labels.get(finding) == Certainty.ABSENT:
            del labels[finding]
    return {**labels, **said}


def _marked(person: Person) -> Person:
    return replace(person, groups={**person.groups, GROUP: "yes"})
