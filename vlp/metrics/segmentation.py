"""How well a map points at a region: overlap, the threshold that serves it, and the pointing game.

Maps and masks are in original pixels; NaN marks pixels the model never saw, which count neither way.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from vlp.errors import DataError
from vlp.records import Box, Mask, Region

COSINES: Float[np.ndarray, " threshold"] = np.arange(-100, 101) / 100.0
"""Thresholds that masks of similarity maps are measured at."""


class Overlaps(NamedTuple):
    """Pixel counts of one map against one region, enough to know Dice and IoU at every threshold."""

    predicted: Int[np.ndarray, " threshold"]
    """Valid pixels at or above each threshold."""
    shared: Int[np.ndarray, " threshold"]
    """Those of them inside the region."""
    truth: int
    """Valid pixels of the region."""


def dice(prediction: Bool[np.ndarray, "rows columns"], truth: Bool[np.ndarray, "rows columns"]) -> float:
    """2 TP / (2 TP + FP + FN); NaN if both masks are empty, 0 if one of them is."""
    return float(dice_from_counts(*_counts(prediction, truth))[0])


def iou(prediction: Bool[np.ndarray, "rows columns"], truth: Bool[np.ndarray, "rows columns"]) -> float:
    """TP / (TP + FP + FN); NaN if both masks are empty, 0 if one of them is."""
    return float(iou_from_counts(*_counts(prediction, truth))[0])


def dice_from_counts(predicted: np.ndarray, shared: np.ndarray, truth: int | np.ndarray) -> np.ndarray:
    """Dice from pixel counts, elementwise; NaN where both are empty."""
    total = np.asarray(predicted + truth, dtype=np.float64)
    result: np.ndarray = np.where(total > 0, 2.0 * shared / np.where(total > 0, total, 1.0), np.nan)
    return result


def iou_from_counts(predicted: np.ndarray, shared: np.ndarray, truth: int | np.ndarray) -> np.ndarray:
    """Intersection over union from pixel counts, elementwise; NaN where both are empty."""
    union = np.asarray(predicted + truth - shared, dtype=np.float64)
    result: np.ndarray = np.where(union > 0, shared / np.where(union > 0, union, 1.0), np.nan)
    return result


def overlaps(
    values: Float[np.ndarray, "rows columns"],
    truth: Bool[np.ndarray, "rows columns"],
    thresholds: Float[np.ndarray, " threshold"],
) -> Overlaps:
    """Counts for the masks `values >= threshold`, for ascending thresholds, in one pass over the pixels."""
    valid = ~np.isnan(values)
    # Bin b holds the pixels that reach thresholds[0..b-1]; the reversed cumulative sum counts who reaches each.
    reached = np.searchsorted(np.asarray(thresholds, dtype=np.float64), values[valid].astype(np.float64), side="right")
    size = len(thresholds) + 1
    inside = truth[valid]

    def count(bins: np.ndarray) -> np.ndarray:
        tail: np.ndarray = np.cumsum(np.bincount(bins, minlength=size)[::-1])[::-1][1:]
        return tail

    return Overlaps(predicted=count(reached), shared=count(reached[inside]), truth=int(np.count_nonzero(inside)))


def best_threshold(
    dice_curves: Float[np.ndarray, "row threshold"], thresholds: Float[np.ndarray, " threshold"]
) -> float:
    """The threshold with the highest mean Dice over rows of the validation split; ties go to the higher one.

    NaN if there is no row.
    """
    if len(dice_curves) == 0:
        return float("nan")
    mean = np.nan_to_num(np.asarray(dice_curves, dtype=np.float64), nan=0.0).mean(axis=0).round(9)
    return float(thresholds[len(mean) - 1 - int(np.argmax(mean[::-1]))])


def peak(values: Float[np.ndarray, "rows columns"]) -> tuple[float, float] | None:
    """Where a map points, (x, y): the centroid of all pixels that share the maximum.

    None for a map that points nowhere: constant, or without a valid pixel.
    """
    valid = values[~np.isnan(values)]
    if valid.size == 0 or valid.max() == valid.min():
        return None
    rows, columns = np.nonzero(values == valid.max())
    return float(columns.mean() + 0.5), float(rows.mean() + 0.5)


def pointing_hit(values: Float[np.ndarray, "rows columns"], truth: Bool[np.ndarray, "rows columns"]) -> bool:
    """Whether the map's peak lies in the region; a constant map is a miss.

    "Any maximal pixel inside" would give a constant map full marks, hence the centroid rule of `peak`.
    """
    point = peak(values)
    return point is not None and bool(truth[int(point[1]), int(point[0])])


def box_mask(box: Box, *, rows: int, columns: int) -> Bool[np.ndarray, "rows columns"]:
    """The pixels whose centre lies in a box with exclusive far edges, cut to the image."""
    x0, y0, x1, y1 = box
    xs, ys = np.arange(columns) + 0.5, np.arange(rows) + 0.5
    mask: Bool[np.ndarray, "rows columns"] = np.outer((ys >= y0) & (ys < y1), (xs >= x0) & (xs < x1))
    return mask


def region_mask(regions: Iterable[Region], *, rows: int, columns: int) -> Bool[np.ndarray, "rows columns"] | None:
    """The union of boxes and masks on an image; None where nothing has an extent (a point has none).

    Raises:
        DataError: if a mask has another size than the image.
    """
    union = np.zeros((rows, columns), dtype=bool)
    for region in regions:
        if isinstance(region.geometry, Mask):
            pixels = region.geometry.decode()
            if pixels.shape != union.shape:
                raise DataError(
                    f"a region's mask is {pixels.shape} pixels on an image of {union.shape}; ingest it again"
                )
            union |= pixels
        elif region.kind == "box":
            x0, y0, x1, y1 = region.geometry  # type: ignore[misc]  # a box has four
            union |= box_mask((x0, y0, x1, y1), rows=rows, columns=columns)
    return union if union.any() else None


def _counts(
    prediction: Bool[np.ndarray, "rows columns"], truth: Bool[np.ndarray, "rows columns"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    predicted, inside = np.asarray(prediction, dtype=bool), np.asarray(truth, dtype=bool)
    return np.array([predicted.sum()]), np.array([(predicted & inside).sum()]), np.array([inside.sum()])
