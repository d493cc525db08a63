"""COCO's JSON of annotated images: boxes, polygons, run lengths, categories; read once per process."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from vlp.errors import DataError
from vlp.ingest.archives.rows import finding_name
from vlp.ingest.geometry import clipped_box, coco_counts, fitted, mask_from_counts, polygon_mask, scaled_box
from vlp.ingest.image_index import image_name
from vlp.ingest.tables import read_json
from vlp.records import Box, ImageFile, Mask

Shapes = Literal["masks", "boxes"]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


class _Category(_Strict):
    id: int
    name: str


class _Image(_Strict):
    id: int | str
    file_name: str
    width: int
    height: int


class _RunLengths(_Strict):
    size: tuple[int, int]
    """(rows, columns)."""
    counts: str | tuple[int, ...]


class _Mark(_Strict):
    """One annotation."""

    category_id: int
    bbox: tuple[float, float, float, float] | None = None
    """x, y, width, height."""
    segmentation: _RunLengths | tuple[tuple[float, ...], ...] | None = None
    iscrowd: Literal[0, 1] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CocoImage:
    """One image of the file and what was drawn in it, as it stands there: each image is judged on its own."""

    where: str
    file_name: str
    rows: int
    columns: int
    marks: tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CocoFile:
    """The content of one file."""

    path: Path
    images: Mapping[str, CocoImage]
    """Name without folders and ending -> image."""
    categories: Mapping[int, str]
    strays: int
    """Annotations of images that the file does not name."""

    def used(self) -> Counter[str]:
        """How often each category was drawn."""
        numbers = (mark.get("category_id") for image in self.images.values() for mark in image.marks)
        known = (number for number in numbers if isinstance(number, int) and number in self.categories)
        return Counter(self.categories[number] for number in known)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """One annotation, in pixels of the image as it was read."""

    finding: str
    crowd: bool
    """Whether it covers many things at once (`iscrowd`)."""
    geometry: Box | Mask


def read_coco(path: Path) -> CocoFile:
    """The annotated images of the file at `path` (".gz" means compressed).

    Raises:
        DataError: if it cannot be read, is not COCO's JSON, or has two images or categories of one name or number.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    return _read(path, (status.st_mtime_ns, status.st_size))


@lru_cache(maxsize=4)
def _read(path: Path, state: tuple[int, int]) -> CocoFile:
    """`state` is the file's time of change and size: a changed file is read again."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: not an object with images, annotations and categories")
    categories = _list(path, content, "categories", _Category)
    images = _list(path, content, "images", _Image)
    marks: dict[int | str, list[Any]] = {image.id: [] for image in images}
    names = [image_name(image.file_name) for image in images]
    if len(marks) < len(images) or len(set(names)) < len(names):
        raise DataError(f"{path}: images: two have the same id or the same file name")
    if len({category.id for category in categories}) < len(categories):
        raise DataError(f"{path}: categories: two have the same id")
    strays = 0
    for mark in _objects(path, content, "annotations"):
        place = marks.get(mark["image_id"]) if isinstance(mark.get("image_id"), int | str) else None
        strays += place is None
        if place is not None:
            place.append(mark)
    return CocoFile(
        path=path,
        images={
            name: CocoImage(
                where=f"{path}: images: number {number}",
                file_name=image.file_name,
                rows=image.height,
                columns=image.width,
                marks=tuple(marks[image.id]),
            )
            for number, (name, image) in enumerate(zip(names, images, strict=True), start=1)
        },
        categories={category.id: category.name for category in categories},
        strays=strays,
    )


def _objects(path: Path, content: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    values = content.get(key)
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise DataError(f"{path}: {key}: not a list of objects; is this COCO's JSON?")
    return values


def _list(path: Path, content: Mapping[str, Any], key: str, model: type[Any]) -> list[Any]:
    try:
        return [model.model_validate_json(json.dumps(value)) for value in _objects(path, content, key)]
    except ValidationError as error:
        raise DataError(f"{path}: {key}: {_reason(error)}") from None


def drawn_in(
    coco: CocoFile, image: CocoImage, file: ImageFile, *, categories: Mapping[str, str | None], shapes: Shapes
) -> Iterator[Drawn]:
    """What was drawn in `image`, in pixels of `file`, the same image as it was read, perhaps in another size.

    Args:
        coco: The file the image is of.
        image: The image.
        file: The image as it was read.
        categories: Category -> finding, or None for one that is not wanted; see `finding_of`.
        shapes: What becomes of a thing that has an outline and a box; what has one of them keeps it.

    Raises:
        DataError: for an annotation that is not one, or lies outside the image; it names the image's place.
    """
    try:
        if image.rows < 1 or image.columns < 1:
            raise DataError("width or height is not a size")
        for values in image.marks:
            mark = _Mark.model_validate_json(json.dumps(values))
            category = coco.categories.get(mark.category_id)
            if category is None:
                raise DataError("an annotation is of a category that the file does not name")
            finding = finding_of(category, categories)
            if finding is not None:
                yield Drawn(finding=finding, crowd=bool(mark.iscrowd), geometry=_geometry(mark, image, file, shapes))
    except ValidationError as error:
        raise DataError(f"{image.where}: an annotation: {_reason(error)}") from None
    except DataError as error:
        raise DataError(f"{image.where}: {error}") from None


def _geometry(mark: _Mark, image: CocoImage, file: ImageFile, shapes: Shapes) -> Box | Mask:
    if mark.segmentation and (shapes == "masks" or mark.bbox is None):
        return _mask(mark.segmentation, image, file)
    if mark.bbox is None:
        raise DataError("an annotation has neither a box nor an outline")
    x, y, width, height = mark.bbox
    edges = scaled_box((x, y, x + width, y + height), across=file.columns / image.columns, down=file.rows / image.rows)
    return clipped_box(edges, rows=file.rows, columns=file.columns)


def _mask(segmentation: _RunLengths | tuple[tuple[float, ...], ...], image: CocoImage, file: ImageFile) -> Mask:
    if isinstance(segmentation, _RunLengths):
        if segmentation.size != (image.rows, image.columns):
            raise DataError("run lengths are of another size than their image")
        counts = segmentation.counts
        counts = coco_counts(counts) if isinstance(counts, str) else counts
        mask = fitted(mask_from_counts(counts, rows=image.rows, columns=image.columns), file)
        if mask.box() is None:
            raise DataError("run lengths without a pixel")
        return mask
    across, down = file.columns / image.columns, file.rows / image.rows
    polygons = []
    for flat in segmentation:
        if len(flat) % 2:
            raise DataError("a polygon has an odd number of numbers")
        polygons.append([(x * across, y * down) for x, y in zip(flat[::2], flat[1::2], strict=True)])
    return polygon_mask(polygons, rows=file.rows, columns=file.columns)


def _reason(error: ValidationError) -> str:
    fault = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}"


def check_categories(coco: CocoFile, categories: Mapping[str, str | None]) -> None:
    """Passes a mapping of categories to findings that the file can answer to.

    Raises:
        DataError: if the mapping names a category that the file does not have; it lists those it has.
    """
    unknown = sorted(set(categories) - set(coco.categories.values()))
    if unknown:
        known = ", ".join(repr(name) for name in coco.categories.values())
        raise DataError(f"{coco.path}: there is no category {unknown[0]!r} as in `categories`; it has {known}")


def finding_of(category: str, categories: Mapping[str, str | None]) -> str | None:
    """What a category is called here: as the mapping says (None: not wanted), else by the vocabulary or as it is."""
    said = categories.get(category, category)
    return None if said is None else finding_name(said)
