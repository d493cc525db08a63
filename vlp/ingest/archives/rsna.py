"""RSNA pneumonia detection challenge: 26,684 labelled NIH images with boxes around opacities that suggest pneumonia.

Reads `stage_2_train_labels.csv` (a row per box), `stage_2_detailed_class_info.csv` beside it, and the images by name
from any folder below (`stage_2_train_images/<patientId>.dcm`, or copies in PNG or JPEG).  A "patientId" is the name
of one image; the archive does not say which images are of one person.  Age, sex and view are in the DICOM headers.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from vlp import log
from vlp.errors import DataError
from vlp.ingest.archives.headers import header_person
from vlp.ingest.archives.rows import Row, RowBox, load_studies, rows_of, studies_in, units_of
from vlp.ingest.image_index import index_images
from vlp.ingest.source import Source, StudyFault
from vlp.ingest.tables import Table, find_table, fingerprint, read_table
from vlp.records import Certainty, LoadedStudy, Person
from vlp.reports.findings import NO_FINDING

LICENSE = "RSNA Pneumonia Detection Challenge rules (academic research and education); images NIH Clinical Center"
LABELS = "stage_2_train_labels.csv"
CLASSES = "stage_2_detailed_class_info.csv"
FRAME = (1024.0, 1024.0)
"""(rows, columns) of the released images, in whose pixels the boxes are given."""
_COLUMNS = ("patientId", "x", "y", "width", "height", "Target")
_TARGETS = {"0": False, "1": True, "0.0": False, "1.0": True}
_OPACITY, _NORMAL, _OTHER = "Lung Opacity", "Normal", "No Lung Opacity / Not Normal"
_logger = log.get_logger(__name__)


class RsnaSource(Source):
    """The labelled part of the challenge; see the module's documentation."""

    kind: Literal["rsna"] = "rsna"
    path: Path
    """The folder with the tables."""
    images: Path | None = None
    """The folder with the images; null where they are below `path`."""
    finding: Literal["pneumonia", "lung opacity"] = "pneumonia"
    """What the boxes are said to show: the challenge marks lung opacities that suggest pneumonia."""
    absent_images: Literal["fault", "leave_out"] = "fault"
    """Whether an image that is not there is a fault, or is left out and counted (for a part of the archive)."""

    def units(self) -> Sequence[str]:
        """One unit per image: the numbers of its rows.

        Raises:
            DataError: without the tables or the images.
        """
        index_images.cache_clear()
        table, images = self._labels(), self._index()
        names = {name.strip() for name in table.columns["patientId"]}
        self._classes()
        if images.keys().isdisjoint(names):
            raise DataError(f"{table.path}: none of its {len(names)} images is there; name their folder with `images`")
        if unlabelled := len(images.keys() - names):
            _logger.info("%s: %d images have no label and are not read (the test images)", self.path, unlabelled)
        return units_of(table.groups("patientId"))

    def load(self, unit: str) -> Iterator[LoadedStudy | StudyFault]:
        """The one image of a unit."""
        table, classes, images = self._labels(), self._classes(), self._index()
        indices = rows_of(unit, table)
        where, image = table.where(indices[0]), table.columns["patientId"][indices[0]].strip()
        path = images.get(image)
        if path is None and self.absent_images == "leave_out":
            yield StudyFault(code="excluded_absent", message=f"{where}: the image is not there")
            return
        try:
            labels = _labels_of(
                [table.rows[index] for index in indices], _class_of(classes, table.columns["patientId"][indices[0]])
            )
        except DataError as error:
            yield StudyFault(code="bad_row", message=f"{where}: {error}")
            return
        person = replace(header_person(path) or Person(id=image), id=image)

        def read(cells: Mapping[str, str], place: str) -> Row:
            return Row(
                where=place,
                image=image,
                path=path or self.path / "absent",
                study=image,
                person=person,
                labels=labels,
                boxes=_box(cells, self.finding),
            )

        studies = studies_in(table, indices, study=lambda cells: cells["patientId"], read=read)
        yield from load_studies(studies, source="rsna-pneumonia", license=LICENSE)

    def fingerprint(self) -> str:
        """SHA-256 over both tables."""
        return fingerprint([find_table(self.path, LABELS), find_table(self.path, CLASSES)])

    def _labels(self) -> Table:
        return read_table(find_table(self.path, LABELS) or self.path / LABELS, columns=_COLUMNS)

    def _classes(self) -> Table:
        return read_table(find_table(self.path, CLASSES) or self.path / CLASSES, columns=("patientId", "class"))

    def _index(self) -> Mapping[str, Path]:
        return index_images(self.images or self.path)


def _class_of(classes: Table, cell: str) -> str:
    """The class of an image, which stands there once for each of its boxes."""
    names = {classes.columns["class"][row].strip() for row in classes.groups("patientId").get(cell, ())}
    if len(names) != 1 or not names <= {_OPACITY, _NORMAL, _OTHER}:
        raise DataError(f"{CLASSES} has no class for this image, or several")
    return names.pop()


def _labels_of(rows: Sequence[Mapping[str, str]], name: str) -> dict[str, Certainty]:
    """Pneumonia as the challenge means it, and what the class adds.

    "No Lung Opacity / Not Normal" says that no opacity suggests pneumonia, not that there is none at all.
    """
    targets = {_TARGETS.get(row["Target"].strip()) for row in rows}
    if None in targets or len(targets) > 1:
        raise DataError("Target is neither 0 nor 1, or both")
    (target,) = targets
    if target != (name == _OPACITY):
        raise DataError(f"Target says otherwise than the class in {CLASSES}")
    present, absent = Certainty.PRESENT, Certainty.ABSENT
    if name == _OPACITY:
        return {"pneumonia": present, "lung opacity": present, NO_FINDING: absent}
    if name == _NORMAL:
        return {"pneumonia": absent, "lung opacity": absent, NO_FINDING: present}
    return {"pneumonia": absent, NO_FINDING: absent}


def _box(cells: Mapping[str, str], finding: str) -> tuple[RowBox, ...]:
    numbers = [cells[name].strip() for name in ("x", "y", "width", "height")]
    wanted = _TARGETS[cells["Target"].strip()]
    if any(numbers) != wanted or all(numbers) != wanted:
        raise DataError("a box where Target is 0, or none where it is 1")
    if not wanted:
        return ()
    try:
        x, y, width, height = map(float, numbers)
    except ValueError:
        raise DataError("a box is not four numbers") from None
    return (RowBox(finding=finding, edges=(x, y, x + width, y + height), frame=FRAME),)
