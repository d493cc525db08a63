"""SIIM-ACR pneumothorax segmentation: NIH images with an outline of every pneumothorax.

Reads `train-rle.csv` (or `stage_2_train.csv`, `siim-pneumothorax-train-rle.csv`), a row per outline, and the images by
name from any folder below (`dicom-images-train/<study>/<series>/<ImageId>.dcm`, or smaller copies in PNG or JPEG).  The
table names no patients; a DICOM header does.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from vlp import log
from vlp.errors import DataError
from vlp.ingest.archives.headers import header_person
from vlp.ingest.archives.rows import Row, load_studies, rows_of, units_of
from vlp.ingest.geometry import fitted, mask_from_counts
from vlp.ingest.image_index import index_images
from vlp.ingest.source import Source, StudyFault
from vlp.ingest.tables import Table, find_table, fingerprint, read_table
from vlp.records import Certainty, ImageFile, LoadedStudy, Mask, Person, Region

LICENSE = "SIIM-ACR Pneumothorax Segmentation challenge rules (non-commercial research); images NIH Clinical Center"
TABLES = ("train-rle.csv", "stage_2_train.csv", "siim-pneumothorax-train-rle.csv")
FINDING = "pneumothorax"
SIDE_PX = 1024
"""Rows and columns of every image of the challenge, over which the run lengths run."""
_NONE = "-1"
_logger = log.get_logger(__name__)


class SiimSource(Source):
    """The labelled part of the challenge; see the module's documentation."""

    kind: Literal["siim"] = "siim"
    path: Path
    """The folder with the table."""
    images: Path | None = None
    """The folder with the images; null where they are below `path`."""
    absent_images: Literal["fault", "leave_out"] = "fault"
    """Whether an image that is not there is a fault, or is left out and counted (for a part of the archive)."""

    def units(self) -> Sequence[str]:
        """One unit per image: the numbers of its rows.

        Raises:
            DataError: without the table or the images.
        """
        index_images.cache_clear()
        table, images = self._table(), self._index()
        names = {name.strip() for name in table.columns["ImageId"]}
        if images.keys().isdisjoint(names):
            raise DataError(f"{table.path}: none of its {len(names)} images is there; name their folder with `images`")
        if unlabelled := len(images.keys() - names):
            _logger.info("%s: %d images have no row and are not read (the test images)", self.path, unlabelled)
        return units_of(table.groups("ImageId"))

    def load(self, unit: str) -> Iterator[LoadedStudy | StudyFault]:
        """The one image of a unit."""
        table = self._table()
        indices = rows_of(unit, table)
        where, image = table.where(indices[0]), table.columns["ImageId"][indices[0]].strip()
        path = self._index().get(image)
        if path is None and self.absent_images == "leave_out":
            yield StudyFault(code="excluded_absent", message=f"{where}: the image is not there")
            return
        try:
            runs = runs_of([table.columns["EncodedPixels"][index] for index in indices])
        except DataError as error:
            yield StudyFault(code="bad_row", message=f"{where}: {error}")
            return
        person = header_person(path)
        row = Row(
            where=where,
            image=image,
            path=path or self.path / "absent",
            study=image,
            person=person if person is not None and person.id else Person(id=image),
            labels={FINDING: Certainty.PRESENT if runs else Certainty.ABSENT},
        )
        for item in load_studies([[row]], source="siim-pneumothorax", license=LICENSE):
            yield _outlined(item, runs, where) if isinstance(item, LoadedStudy) else item

    def fingerprint(self) -> str:
        """SHA-256 of the table."""
        return fingerprint([self._table_path()])

    def _table_path(self) -> Path:
        return find_table(self.path, *TABLES) or self.path / TABLES[0]

    def _table(self) -> Table:
        # The name of the second column begins with a blank in the first release.
        return read_table(self._table_path(), columns=("ImageId", "EncodedPixels"))

    def _index(self) -> Mapping[str, Path]:
        return index_images(self.images or self.path)


def runs_of(cells: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """The numbers of every outline of one image, repeated rows once; none for an image without a pneumothorax.

    Raises:
        DataError: for anything but numbers, or an image that has an outline and none.
    """
    words = dict.fromkeys(cell.strip() for cell in cells)
    if _NONE in words:
        if len(words) > 1:
            raise DataError("EncodedPixels is -1 and an outline for the same image")
        return ()
    runs: list[tuple[int, ...]] = []
    for word in words:
        numbers = word.split()
        if not numbers or len(numbers) % 2 or not all(number.isdecimal() for number in numbers):
            raise DataError("EncodedPixels is neither -1 nor pairs of numbers")
        runs.append(tuple(map(int, numbers)))
    return tuple(runs)


def decode(runs: Sequence[int], *, rows: int, columns: int) -> Mask:
    """The mask of pairs (pixels since the end of the last run, length), column by column.

    Raises:
        DataError: if the runs end outside the image, or are all empty.
    """
    rest = rows * columns - sum(runs)
    if rest < 0:
        raise DataError("an outline ends outside its image")
    mask = mask_from_counts((*runs, rest), rows=rows, columns=columns)
    if mask.box() is None:
        raise DataError("an outline has no pixel")
    return mask


def _outlined(loaded: LoadedStudy, runs: Sequence[Sequence[int]], where: str) -> LoadedStudy | StudyFault:
    image = loaded.study.images[0]
    try:
        regions = tuple(_region(each, image) for each in runs)
    except DataError as error:
        return StudyFault(code="bad_box", message=f"{where}: {error}")
    return replace(loaded, study=replace(loaded.study, regions=regions))


def _region(runs: Sequence[int], image: ImageFile) -> Region:
    mask = fitted(decode(runs, rows=SIDE_PX, columns=SIDE_PX), image)
    if mask.box() is None:
        raise DataError("an outline vanishes in so small a copy of its image")
    return Region(finding=FINDING, image=image.id, geometry=mask)
