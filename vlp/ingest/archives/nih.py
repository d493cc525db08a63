"""NIH ChestX-ray14: 112,120 frontal images, labels mined from reports, and boxes for 880 of the images.

Reads `Data_Entry_2017_v2020.csv` (or the older `Data_Entry_2017.csv`), `BBox_List_2017.csv` and the official lists
`train_val_list.txt` and `test_list.txt` beside it, and images by name from any folders below (`images_001/images`
... `images_012/images`).  Every image is a study, as in the archive; its follow-up number puts it in time.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

from vlp import log
from vlp.errors import DataError
from vlp.ingest.archives.rows import (
    Row,
    RowBox,
    finding_name,
    load_studies,
    log_outside,
    rows_of,
    sex_of,
    studies_in,
    units_of,
    when,
    years,
)
from vlp.ingest.image_index import image_name, index_images
from vlp.ingest.source import Source, StudyFault
from vlp.ingest.splits import Fraction, assign
from vlp.ingest.tables import Table, find_table, fingerprint, read_table
from vlp.records import Certainty, LoadedStudy, Person, Split, View
from vlp.reports.findings import LABEL_SETS, NO_FINDING, canonical

LICENSE = "NIH Clinical Center: no restriction on use; asks for a link, a citation and an acknowledgement"
TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
BOXES = "BBox_List_2017.csv"
LISTS: Mapping[str, Split] = {"train_val_list.txt": "train", "test_list.txt": "test"}
BOX_FRAME = (1024.0, 1024.0)
"""(rows, columns) of the released images, in whose pixels the boxes are given."""
_COLUMNS = (
    "Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age", "Patient Gender", "View Position",
)  # fmt: skip
_ORIGINAL = ("OriginalImage[Width", "Height]", "OriginalImagePixelSpacing[x", "y]")
"""The header splits "[Width,Height]" in two, so these are the names that a reader of CSV sees."""
_BOX_COLUMNS = ("Image Index", "Finding Label", "Bbox [x", "y", "w", "h]")
_VIEWS: Mapping[str, View] = {"PA": "PA", "AP": "AP"}
Lists = Mapping[str, Split]
_logger = log.get_logger(__name__)


class NihSource(Source):
    """NIH ChestX-ray14; see the module's documentation."""

    kind: Literal["nih"] = "nih"
    path: Path
    """The folder with the tables."""
    images: Path | None = None
    """The folder with the images; null where they are below `path`."""
    absent_images: Literal["fault", "leave_out"] = "fault"
    """Whether a row without an image file is a fault, or is left out and counted (for a part of the archive)."""
    val_fraction: Fraction = 0.1
    """Share of the patients of the official training list that becomes the validation split."""
    salt: str = "vlp"
    """Another salt gives another, equally random validation split."""

    def units(self) -> Sequence[str]:
        """One unit per patient: the numbers of his rows.

        Raises:
            DataError: without the table, without the images, or if a patient is in both official lists.
        """
        index_images.cache_clear()
        table = self._table()
        names = [image_name(name) for name in table.columns["Image Index"]]
        if self._index().keys().isdisjoint(names):
            raise DataError(f"{table.path}: none of its {len(names)} images is there; name their folder with `images`")
        self._refuse_leaks(table)
        self._say(table, names)
        return units_of(table.groups("Patient ID"))

    def load(self, unit: str) -> Iterator[LoadedStudy | StudyFault]:
        """The images of one patient, by follow-up number, each a study of its own."""
        table, boxes, lists, images = self._table(), self._boxes(), self._lists(), self._index()
        kept: dict[str, Mapping[str, str]] = {}
        indices: list[int] = []
        for index in rows_of(unit, table):
            name = image_name(table.columns["Image Index"][index])
            if self.absent_images == "leave_out" and name not in images:
                yield StudyFault(code="excluded_absent", message=f"{table.where(index)}: the image is not there")
            else:
                indices.append(index)
                kept[name] = table.rows[index]

        def read(cells: Mapping[str, str], where: str) -> Row:
            if len(table.groups("Image Index")[cells["Image Index"]]) > 1:
                raise DataError("the same image has several rows")
            return self._row(cells, where, boxes, lists)

        studies = studies_in(table, indices, study=lambda cells: image_name(cells["Image Index"]), read=read)
        for item in load_studies(studies, source="nih-chestxray14", license=LICENSE):
            yield item if isinstance(item, StudyFault) else _with_spacing(item, kept[item.study.id])

    def fingerprint(self) -> str:
        """SHA-256 over the tables and the lists."""
        tables = (find_table(self.path, *TABLES), find_table(self.path, BOXES))
        return fingerprint([*tables, *(self.path / name for name in LISTS)])

    def _table(self) -> Table:
        path = find_table(self.path, *TABLES)
        if path is None:
            raise DataError(f"{self.path}: holds neither {' nor '.join(TABLES)}; is this ChestX-ray14?")
        return read_table(path, columns=_COLUMNS, optional=_ORIGINAL)

    def _boxes(self) -> Table | None:
        path = find_table(self.path, BOXES)
        return None if path is None else read_table(path, columns=_BOX_COLUMNS)

    def _lists(self) -> Lists | None:
        """Image -> split of the official lists, or None where there are none.

        Raises:
            DataError: if one is there and not the other.
        """
        paths = [self.path / name for name in LISTS]
        there = [path.is_file() for path in paths]
        if not any(there):
            return None
        if not all(there):
            missing = paths[there.index(False)]
            raise DataError(
                f"{missing}: missing; the official split needs both lists (or neither, for a split of ours)"
            )
        return _read_lists(tuple((path, path.stat().st_mtime_ns) for path in paths))

    def _index(self) -> Mapping[str, Path]:
        return index_images(self.images or self.path)

    def _row(self, cells: Mapping[str, str], where: str, boxes: Table | None, lists: Lists | None) -> Row:
        image, patient = image_name(cells["Image Index"]), cells["Patient ID"].strip()
        if not patient:
            raise DataError("the cell of the patient is blank")
        return Row(
            where=where,
            image=image,
            path=self._index().get(image, self.path / "absent"),
            study=image,
            person=Person(id=patient, age=years(cells["Patient Age"]), sex=sex_of(cells["Patient Gender"])),
            view=_VIEWS.get(cells["View Position"].strip(), "other"),
            labels=_labels(cells["Finding Labels"]),
            boxes=_boxes_of(boxes, cells["Image Index"]),
            split=None if lists is None else self._split(lists.get(image), patient),
            order=when(cells["Follow-up #"]),
        )

    def _split(self, listed: Split | None, person: str) -> Split:
        if listed is None:
            raise DataError("the official lists do not name this image")
        if listed == "test":
            return listed
        return assign(person, salt=self.salt, fractions={"train": 1 - self.val_fraction, "val": self.val_fraction})

    def _refuse_leaks(self, table: Table) -> None:
        lists = self._lists()
        if lists is None:
            _logger.info("%s: no official lists of images; patients are split by hash", self.path)
            return
        splits: dict[str, set[Split]] = {}
        for name, patient in zip(table.columns["Image Index"], table.columns["Patient ID"], strict=True):
            if (split := lists.get(image_name(name))) is not None:
                splits.setdefault(patient, set()).add(split)
        shared = sum(len(each) > 1 for each in splits.values())
        if shared:
            raise DataError(f"{self.path}: {shared} patients have images in both {' and '.join(LISTS)}")

    def _say(self, table: Table, names: Sequence[str]) -> None:
        """Counts what is not taken, once, where somebody will see it."""
        boxes, known = self._boxes(), set(names)
        boxed = [] if boxes is None else boxes.columns["Image Index"]
        ages = [age for age in table.columns["Patient Age"] if age.strip()]
        counts = {
            "images that no row names": len(self._index().keys() - known),
            "boxes of images that no row names": sum(image_name(name) not in known for name in boxed),
            "impossible ages, taken for unknown": sum(years(age) is None for age in ages),
        }
        for what, count in counts.items():
            if count:
                _logger.info("%s: %d %s", self.path, count, what)
        cells = (name.strip() for cell in table.columns["Finding Labels"] for name in cell.split("|"))
        log_outside(Counter(name for name in cells if name and canonical(name) is None))


@lru_cache(maxsize=2)
def _read_lists(paths: tuple[tuple[Path, int], ...]) -> Lists:
    """Image -> the list that names it; the numbers beside the paths are their times of change."""
    splits: dict[str, Split] = {}
    for (path, _), split in zip(paths, LISTS.values(), strict=True):
        try:
            names = path.read_text(encoding="utf-8-sig").split()
        except (OSError, UnicodeDecodeError):
            raise DataError(f"{path}: cannot be read as a list of images") from None
        for name in map(image_name, names):
            if splits.setdefault(name, split) != split:
                raise DataError(f"{path}: an image is in both {' and '.join(LISTS)}")
    return splits


def _labels(cell: str) -> dict[str, Certainty]:
    """All labels of the archive: what a row does not name is absent, for the miner of the reports saw no mention."""
    listed = [name.strip() for name in cell.split("|") if name.strip()]
    present = {finding for name in listed if (finding := canonical(name)) is not None}
    if not listed:
        raise DataError("no label at all; a healthy image has 'No Finding'")
    if NO_FINDING in present and len(listed) > 1:
        raise DataError("'No Finding' and a finding at once")
    known = [*LABEL_SETS["nih14"].values(), NO_FINDING, *sorted(present)]
    return {name: Certainty.PRESENT if name in present else Certainty.ABSENT for name in known}


def _boxes_of(table: Table | None, image: str) -> tuple[RowBox, ...]:
    if table is None:
        return ()
    return tuple(_box(table.rows[index]) for index in table.groups("Image Index").get(image, ()))


def _box(cells: Mapping[str, str]) -> RowBox:
    try:
        x, y, width, height = (float(cells[name]) for name in _BOX_COLUMNS[2:])
    except ValueError:
        raise DataError(f"{BOXES}: a box of this image is not four numbers") from None
    return RowBox(finding=finding_name(cells["Finding Label"]), edges=(x, y, x + width, y + height), frame=BOX_FRAME)


def _with_spacing(loaded: LoadedStudy, cells: Mapping[str, str]) -> LoadedStudy:
    """The table gives size and spacing of the image before it was squeezed to 1024 x 1024, sides apart."""
    try:
        width, height, across, down = (float(cells[name]) for name in _ORIGINAL)
    except ValueError:
        return loaded
    if not all(0 < value < math.inf for value in (width, height, across, down)):
        return loaded
    image = loaded.study.images[0]
    spacing = down * height / image.rows, across * width / image.columns
    return replace(loaded, study=replace(loaded.study, images=(replace(image, spacing_mm=spacing),)))
