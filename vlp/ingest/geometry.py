"""Boxes, polygons and run lengths as archives write them, as the geometry of regions.

Coordinates are continuous: (0, 0) is the corner of the top left pixel, and a pixel is inside a polygon if its centre
is, so a polygon around whole pixels gives exactly those pixels (COCO's convention).
"""

import math
from collections.abc import Sequence

import cv2
import numpy as np

from vlp.errors import DataError
from vlp.records import Box, ImageFile, Mask

ROUNDING_PX = 1.0
"""A box may reach this far outside its image before it is taken for a fault rather than for rounding."""
SHAPE_TOLERANCE = 0.02
"""How far the sides of an image may be scaled differently: more is another image or a crop, not a smaller copy."""
_MAX_COORDINATE = 1e6


def clipped_box(edges: Sequence[float], *, rows: int, columns: int) -> Box:
    """The box (x0, y0, x1, y1), cut at the borders of its image where it reaches over them by rounding.

    Raises:
        DataError: for a box without area, with a number that is none, or more than a pixel outside the image.
    """
    if len(edges) != 4 or not all(math.isfinite(edge) for edge in edges):
        raise DataError("a box is not four numbers")
    x0, y0, x1, y1 = (float(edge) for edge in edges)
    if x0 >= x1 or y0 >= y1:
        raise DataError("a box has no area")
    if min(x0, y0) < -ROUNDING_PX or x1 > columns + ROUNDING_PX or y1 > rows + ROUNDING_PX:
        raise DataError("a box lies outside its image")
    box = max(0.0, x0), max(0.0, y0), min(float(columns), x1), min(float(rows), y1)
    if box[0] >= box[2] or box[1] >= box[3]:
        raise DataError("a box lies outside its image")
    return box


def scaled_box(box: Box, *, across: float, down: float) -> Box:
    """The box in an image resized by `across` and `down`."""
    return box[0] * across, box[1] * down, box[2] * across, box[3] * down


def resized_mask(mask: Mask, *, rows: int, columns: int) -> Mask:
    """The mask in an image of another size: averaged over pixels that become one, inside where half of them are."""
    smaller = rows < mask.rows or columns < mask.columns
    share = cv2.resize(
        mask.decode().astype(np.float32),
        (columns, rows),
        interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR,
    )
    return Mask.encode(share >= 0.5)


def fitted(mask: Mask, image: ImageFile) -> Mask:
    """The mask over `image`, which may be a smaller copy of the one it was drawn on.

    Raises:
        DataError: if the image has another shape: then it is another one, or was cropped or padded.
    """
    down, across = image.rows / mask.rows, image.columns / mask.columns
    if abs(across / down - 1) > SHAPE_TOLERANCE:
        raise DataError("a mask was drawn on an image of another shape; was this one cropped or padded?")
    if (mask.rows, mask.columns) == (image.rows, image.columns):
        return mask
    return resized_mask(mask, rows=image.rows, columns=image.columns)


def polygon_mask(polygons: Sequence[Sequence[Sequence[float]]], *, rows: int, columns: int) -> Mask:
    """The union of `polygons`, each a list of (x, y); what lies outside the image is cut off.

    A polygon that crosses itself is filled by the even-odd rule.

    Raises:
        DataError: for fewer than three corners, a number that is none, or polygons that cover no pixel's centre.
    """
    filled = np.zeros((rows, columns), dtype=bool)
    for polygon in polygons:
        _fill(_corners(polygon), filled)
    if not filled.any():
        raise DataError("a polygon covers no pixel of its image")
    return Mask.encode(filled)


def _corners(polygon: Sequence[Sequence[float]]) -> np.ndarray:
    try:
        corners = np.asarray(polygon, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError("a polygon is not a list of (x, y)") from None
    if corners.ndim != 2 or corners.shape[1] != 2 or not np.isfinite(corners).all():
        raise DataError("a polygon is not a list of (x, y)")
    if len(corners) < 3:
        raise DataError("a polygon has fewer than three corners")
    if np.abs(corners).max() > _MAX_COORDINATE:
        raise DataError("a polygon lies outside its image")
    return corners


def _fill(corners: np.ndarray, picture: np.ndarray) -> None:
    """Sets, row by row, the pixels whose centre has an odd number of crossings of the outline to its left."""
    columns, rows = (_pixels(corners[:, axis], picture.shape[1 - axis]) for axis in (0, 1))
    start, end = corners, np.roll(corners, -1, axis=0)
    # An edge is crossed by the centre lines (row + 0.5) in [low, high).
    first = np.clip(_first_centre(np.minimum(start[:, 1], end[:, 1])), rows.start, rows.stop)
    last = np.clip(_first_centre(np.maximum(start[:, 1], end[:, 1])), rows.start, rows.stop)
    lengths = last - first
    edge = np.repeat(np.arange(len(corners)), lengths)
    row = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths) + first[edge]
    across, down = (end - start)[edge].T
    # Multiplied before divided: for corners on whole pixels that is exact, also where an edge runs through a centre.
    column = _first_centre(start[edge, 0] + (row + 0.5 - start[edge, 1]) * across / down)
    # Beyond the last column a crossing changes nothing.
    crossings = np.zeros((rows.stop - rows.start, columns.stop - columns.start + 1), dtype=np.int32)
    np.add.at(crossings, (row - rows.start, np.clip(column, columns.start, columns.stop) - columns.start), 1)
    picture[rows, columns] |= np.cumsum(crossings, axis=1)[:, :-1] % 2 == 1


def _first_centre(coordinates: np.ndarray) -> np.ndarray:
    """The first pixel whose centre is not before the coordinate."""
    first: np.ndarray = np.ceil(coordinates - 0.5).astype(int)
    return first


def _pixels(coordinates: np.ndarray, size: int) -> slice:
    """The pixels of one side that the coordinates span, as far as they are in the image."""
    low, high = np.clip(_first_centre(np.array([coordinates.min(), coordinates.max()])), 0, size)
    return slice(int(low), int(high))


def mask_from_counts(counts: Sequence[int], *, rows: int, columns: int) -> Mask:
    """The mask that run lengths (column by column, zeros first) stand for.

    Raises:
        DataError: if they are no whole numbers, or do not fill the image exactly.
    """
    if not all(type(count) is int and count >= 0 for count in counts):
        raise DataError("run lengths are not whole numbers")
    if sum(counts) != rows * columns:
        raise DataError("run lengths do not fill their image")
    # Through the picture and back: archives write empty runs, the same mask should always look the same.
    return Mask.encode(Mask(rows=rows, columns=columns, counts=tuple(counts)).decode())


def coco_counts(text: str) -> tuple[int, ...]:
    """The run lengths in COCO's compressed form.

    Six bits to a character, from "0" on: five of a number, lowest first, and one that says whether more follow;
    the fifth bit of the last character is the sign.  From the fourth number on it is the difference to the number
    two before it.

    Raises:
        DataError: for characters outside the alphabet or a number that does not end.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise DataError("compressed run lengths hold a character that does not belong there")
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    if shift:
        raise DataError("compressed run lengths are cut off")
    return tuple(counts)
