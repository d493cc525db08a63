"""CheXlocalize (Stanford AIMI): ten findings outlined by radiologists on CheXpert's validation and test images.

Read is one of its files: `gt_annotations_*.json` (polygons in pixels of the original image) or
`gt_segmentations_*.json` (COCO run lengths; an empty mask is a finding that is not there).  The images may be smaller
copies, as in CheXpert-small.  Stanford University Dataset Research Use Agreement.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from vlp.errors import DataError
from vlp.ingest.annotations.annotation import Annotation
from vlp.ingest.archives.rows import finding_name
from vlp.ingest.geometry import coco_counts, fitted, mask_from_counts, polygon_mask
from vlp.ingest.tables import fingerprint, read_json
from vlp.records import ImageFile, Mask, Region, Study

_MAX_SIDE = 20_000


class CheXlocalizeAnnotation(Annotation):
    """One file of CheXlocalize beside CheXpert; see the module's documentation."""

    kind: Literal["chexlocalize"] = "chexlocalize"
    path: Path
    """`gt_annotations_val.json`, `gt_segmentations_test.json`, ...; name a second set for a second file."""

    def apply(self, study: Study) -> Study:
        """The study with a mask for every finding outlined in its images.

        Raises:
            DataError: for a missing or damaged file, and for outlines that cannot be those of the study's image.
        """
        content = self._content()
        regions = tuple(
            region
            for image in study.images
            if image.id in content
            for region in self._regions(content[image.id], image)
            if region not in study.regions
        )
        return replace(study, regions=(*study.regions, *regions)) if regions else study

    def fingerprint(self) -> str:
        """SHA-256 of the file."""
        return fingerprint([self.path])

    def _content(self) -> Mapping[str, Any]:
        try:
            status = self.path.stat()
        except OSError as error:
            raise DataError(f"{self.path}: the outlines cannot be read: {error.strerror}") from None
        return _read(self.path, (status.st_mtime_ns, status.st_size))

    def _regions(self, entry: Any, image: ImageFile) -> Iterator[Region]:
        try:
            for finding, mask in outlines(entry):
                yield Region(finding=finding, image=image.id, geometry=fitted(mask, image))
        except DataError as error:
            raise DataError(f"{self.path}: {error}") from None


@lru_cache(maxsize=4)
def _read(path: Path, state: tuple[int, int]) -> Mapping[str, Any]:
    """Image -> its entry; `state` is the file's time of change and size: a changed file is read again."""
    content = read_json(path)
    if not isinstance(content, dict) or not all(isinstance(entry, dict) for entry in content.values()):
        raise DataError(f"{path}: not a file of CheXlocalize: images with their findings are expected")
    return content


def outlines(entry: Mapping[str, Any]) -> Iterator[tuple[str, Mask]]:
    """The findings of one image with their masks over the original image, in either of the two forms.

    Raises:
        DataError: for anything that is no outline.
    """
    size = entry.get("img_size")
    for name, drawn in entry.items():
        if name == "img_size":
            continue
        mask = _from_run_lengths(drawn) if isinstance(drawn, dict) else _from_polygons(drawn, size)
        if mask.box() is not None:
            yield finding_name(name), mask


def _from_polygons(drawn: Any, size: Any) -> Mask:
    rows, columns = _size(size)
    if not isinstance(drawn, list):
        raise DataError("an outline is not a list of polygons")
    # A tap of the mouse leaves a point or a line beside the outlines; it encloses nothing.
    polygons = [polygon for polygon in drawn if not (isinstance(polygon, list) and len(polygon) < 3)]
    if not polygons:
        return Mask(rows=rows, columns=columns, counts=(rows * columns,))
    return polygon_mask(polygons, rows=rows, columns=columns)


def _from_run_lengths(drawn: Mapping[str, Any]) -> Mask:
    rows, columns = _size(drawn.get("size"))
    counts = drawn.get("counts")
    if isinstance(counts, str):
        counts = coco_counts(counts)
    if not isinstance(counts, Sequence):
        raise DataError("the run lengths of a mask are missing")
    return mask_from_counts(counts, rows=rows, columns=columns)


def _size(size: Any) -> tuple[int, int]:
    """(rows, columns), which is how the release writes it."""
    if not (isinstance(size, list) and len(size) == 2 and all(type(side) is int for side in size)):
        raise DataError("the size of an image is not two whole numbers")
    if not all(0 < side <= _MAX_SIDE for side in size):
        raise DataError("the size of an image cannot be")
    return size[0], size[1]
