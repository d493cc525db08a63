"""MS-CXR (PhysioNet): boxes of eight findings on images of MIMIC-CXR, made to test phrase grounding.

Read: `MS_CXR_Local_Alignment_v1.1.0.csv` (or v1.0.0, or the same as COCO-style JSON).  Kept: every box under its
category.  The set draws on all splits of MIMIC-CXR, so its persons are marked and, unless told otherwise, moved to the
test split with all their studies: a model must not be tested on persons it was trained on.  The set's own `split`
column is not used, for it divides the boxes, not the persons.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from vlp.errors import DataError
from vlp.ingest.annotations.annotation import Annotation
from vlp.ingest.archives.rows import finding_name
from vlp.ingest.geometry import SHAPE_TOLERANCE, clipped_box, scaled_box
from vlp.ingest.tables import find_table, fingerprint, read_json, read_table
from vlp.records import Box, ImageFile, Person, Region, Split, Study

_NAMES = tuple(
    f"MS_CXR_Local_Alignment_v{version}.{ending}" for ending in ("csv", "json") for version in ("1.1.0", "1.0.0")
)
_PERSON = re.compile(r"(?:^|/)p(\d{8})/")
GROUP = "ms_cxr"
_NUMBERS = ("x", "y", "w", "h", "image_width", "image_height")


@dataclass(frozen=True, slots=True, kw_only=True)
class _SetBox:
    """A box as the table has it; it is judged when its study is there, so that a bad one harms no other study."""

    where: str
    finding: str
    numbers: tuple[str, ...]
    """x, y, width, height of the box, columns and rows of its image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Content:
    boxes: Mapping[str, tuple[_SetBox, ...]]
    """Image -> its boxes."""
    persons: frozenset[str]


class MsCxrAnnotation(Annotation):
    """MS-CXR beside MIMIC-CXR; see the module's documentation."""

    kind: Literal["ms_cxr"] = "ms_cxr"
    path: Path
    """The table (CSV or JSON), or the folder that holds it."""
    persons_to: Split | None = "test"
    """The split all studies of the set's persons go to; null leaves them where MIMIC-CXR has them."""

    def apply(self, study: Study) -> Study:
        """The study with the boxes of its images; its person is marked if the set knows him.

        Raises:
            DataError: for a missing or damaged table, and for boxes that cannot be those of the study's image.
        """
        content = self._content()
        regions = tuple(region for image in study.images for region in _regions(content, image))
        if study.person.id not in content.persons and not regions:
            return study
        return replace(
            study,
            regions=(*study.regions, *(region for region in regions if region not in study.regions)),
            person=_marked(study.person),
            split=self.persons_to or study.split,
        )

    def fingerprint(self) -> str:
        """SHA-256 of the table."""
        return fingerprint([self._file()])

    def _file(self) -> Path:
        path = find_table(self.path, *_NAMES) if self.path.is_dir() else self.path
        if path is None:
            raise DataError(f"{self.path}: none of {', '.join(_NAMES)} is here; is this the folder of MS-CXR?")
        return path

    def _content(self) -> _Content:
        path = self._file()
        try:
            status = path.stat()
        except OSError as error:
            raise DataError(f"{path}: the table cannot be read: {error.strerror}") from None
        return _read(path, (status.st_mtime_ns, status.st_size))


@lru_cache(maxsize=4)
def _read(path: Path, state: tuple[int, int]) -> _Content:
    """`state` is not used: a file that has changed has another one, so it is read again."""
    boxes: dict[str, list[_SetBox]] = {}
    persons = set()
    for where, row in _json_rows(path) if ".json" in path.suffixes else _table_rows(path):
        person = _PERSON.search(str(row["path"]))
        if person is None:
            raise DataError(f"{where}: the path does not say whose image it is (files/p10/p10000032/...)")
        persons.add(person[1])
        box = _SetBox(
            where=where,
            finding=finding_name(str(row["category_name"])),
            numbers=tuple(str(row[name]) for name in _NUMBERS),
        )
        boxes.setdefault(str(row["dicom_id"]), []).append(box)
    return _Content(
        boxes=MappingProxyType({image: tuple(found) for image, found in boxes.items()}), persons=frozenset(persons)
    )


def _table_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    table = read_table(path, columns=("category_name", "path", "dicom_id", *_NUMBERS))
    for index, row in enumerate(table.rows):
        yield table.where(index), row


def _json_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The COCO-style form as rows of the table."""
    content = read_json(path)
    try:
        categories = {category["id"]: category["name"] for category in content["categories"]}
        images = {image["id"]: image for image in content["images"]}
        for number, annotation in enumerate(content["annotations"], start=1):
            image = images[annotation["image_id"]]
            yield (
                f"{path}: annotation {number}",
                {
                    "category_name": categories[annotation["category_id"]],
                    "path": image["path"],
                    "dicom_id": str(image["file_name"]).rpartition("/")[2].removesuffix(".jpg"),
                    "image_width": image["width"],
                    "image_height": image["height"],
                }
                | dict(zip("xywh", annotation["bbox"], strict=True)),
            )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DataError(f"{path}: not the COCO-style form of MS-CXR") from None


def _regions(content: _Content, image: ImageFile) -> Iterator[Region]:
    for box in content.boxes.get(image.id, ()):
        try:
            yield Region(finding=box.finding, image=image.id, geometry=_edges(box, image))
        except DataError as error:
            raise DataError(f"{box.where}: {error}") from None


def _edges(box: _SetBox, image: ImageFile) -> Box:
    """The box in pixels of the image as it was read, which may be a smaller copy of the one it was drawn on."""
    try:
        x, y, width, height, columns, rows = map(float, box.numbers)
    except ValueError:
        raise DataError("a box or the size of its image is not made of numbers") from None
    if not (columns > 0 and rows > 0):
        raise DataError("the size of the image is not a size")
    across, down = image.columns / columns, image.rows / rows
    if abs(across / down - 1) > SHAPE_TOLERANCE:
        raise DataError("the box was drawn on an image of another shape; was this one cropped?")
    edges = scaled_box((x, y, x + width, y + height), across=across, down=down)
    return clipped_box(edges, rows=image.rows, columns=image.columns)


def _marked(person: Person) -> Person:
    return replace(person, groups={**person.groups, GROUP: "yes"})
