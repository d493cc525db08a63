"""Where an answer lies, in words a report uses: side, zone, and how much of it is inside the lungs.

Everything is weighed by the map's mass above its threshold, max(map - threshold, 0) per pixel: a pixel that barely
counts hardly matters.  Sides are the patient's own: the patient's left is on the right of a frontal image.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import cv2
import numpy as np
from jaxtyping import Bool, Float

from vlp.inference.lungs import FieldSource, LungField
from vlp.metrics import segmentation
from vlp.records import Box

Side = Literal["left", "right", "both", "midline"]
Zone = Literal["upper", "middle", "lower"]
Polygon: TypeAlias = tuple[tuple[float, float], ...]
"""Corners (x, y) in order, the last one joined to the first."""

ZONES: tuple[Zone, ...] = ("upper", "middle", "lower")
ONE_SIDED = 0.75
"""A side that holds at least this share of the mass has it alone."""
MIDLINE = 0.35
"""What neither side has alone is of the midline if its mass lies closer to it, on average, than this share of half the
thorax: a heart of half the thorax' width is at 0.25, haze all over both lungs at 0.5, fluid at both bases at 0.6."""
_THORAX = 0.85
"""Share of the image's width that the lungs span, where nobody knows."""
IN_ONE_ZONE = 0.5
"""A zone is named if it holds at least this share of the mass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Where on an image a map reaches its threshold; in pixels of the image as stored."""

    box: Box | None
    """Around the connected part that holds the peak; None where nothing reaches the threshold."""
    peak: tuple[float, float] | None
    """(x, y) of the highest value, also where it stays below the threshold; None for a constant map."""
    side: Side | None
    """The patient's own; None where nothing reaches the threshold, and on a lateral view."""
    zone: Zone | None
    """Third of the lungs' height (of the image's, without a lung field); None where nothing reaches the threshold or
    no third holds half of it."""
    lung_share: float | None
    """Share of the mass that lies inside the lung field; None without a lung field, and where there is no mass."""
    area_share: float
    """Share of the pixels the model looked at that reach the threshold."""
    lungs: FieldSource | None
    """Where the lung field comes from; None: there is none, and sides and zones are those of the image."""

    @property
    def words(self) -> str:
        """Side and zone as they stand in a report, "left lower" or "bilateral"; empty where neither is known."""
        side = "bilateral" if self.side == "both" else self.side
        return " ".join(word for word in (side, self.zone) if word is not None)

    def to_json(self) -> dict[str, Any]:
        """The same as plain values, with what sides and zones are measured by."""
        content = asdict(self)
        content["box"] = list(self.box) if self.box is not None else None
        content["peak"] = {"x": self.peak[0], "y": self.peak[1]} if self.peak is not None else None
        content["measured_by"] = "image, for want of a lung field" if self.lungs is None else "lung field"
        return content


def where(
    values: Float[np.ndarray, "rows columns"],
    *,
    lungs: LungField | None,
    threshold: float,
    view: Literal["frontal", "lateral"] = "frontal",
) -> Where:
    """Box, peak, side, zone, and shares of a map in original pixels (NaN: the model did not look).

    Args:
        values: the map.
        lungs: the lung field of the same image; None: sides and zones are halves and thirds of the image.
        threshold: the value from which a pixel counts.
        view: a lateral view has no sides.
    """
    assert lungs is None or lungs.mask.shape == values.shape, "the lung field is of another image"
    seen = np.nan_to_num(values, nan=-np.inf)
    mask = seen >= threshold
    mass = _mass(seen, mask, threshold)
    field = lungs.mask if lungs is not None else None
    return Where(
        box=peak_box(mask, seen == seen.max()),
        peak=segmentation.peak(values),
        side=_side(mass, field) if mass is not None and view == "frontal" else None,
        zone=_zone(mass, field) if mass is not None else None,
        lung_share=float(mass[field].sum()) if mass is not None and field is not None else None,
        area_share=float(mask.sum() / max(1, np.count_nonzero(np.isfinite(values)))),
        lungs=lungs.source if lungs is not None else None,
    )


def peak_box(mask: Bool[np.ndarray, "rows columns"], maxima: Bool[np.ndarray, "rows columns"]) -> Box | None:
    """The box around the connected part of `mask` that holds a maximum, the largest such; None if there is none."""
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    touched = np.unique(labels[maxima & mask])
    if touched.size == 0:
        return None
    part = max(touched.tolist(), key=lambda label: int(statistics[label, cv2.CC_STAT_AREA]))
    left, top, width, height = (float(value) for value in statistics[part, :4])
    return left, top, left + width, top + height


def outlines(mask: Bool[np.ndarray, "rows columns"]) -> tuple[Polygon, ...]:
    """The outlines of a mask, along the edges of its pixels: filled by the even-odd rule they are the mask exactly.

    Outer outlines run clockwise as seen on the image, those of holes the other way; pixels that only touch at a corner
    have outlines of their own.
    """
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    following: dict[tuple[int, int], list[tuple[int, int]]] = {}
    # Every edge between a pixel of the mask and one outside, from corner to corner with the mask on its right.
    for beyond, start, end in (
        (padded[:-2, 1:-1], (0, 0), (1, 0)),
        (padded[1:-1, 2:], (1, 0), (1, 1)),
        (padded[2:, 1:-1], (1, 1), (0, 1)),
        (padded[1:-1, :-2], (0, 1), (0, 0)),
    ):
        rows, columns = np.nonzero(inside & ~beyond)
        for x, y in zip(columns.tolist(), rows.tolist(), strict=True):
            following.setdefault((x + start[0], y + start[1]), []).append((x + end[0], y + end[1]))
    polygons = []
    while following:
        polygons.append(_corners(_walk(following)))
    return tuple(polygons)


def _mass(seen: np.ndarray, mask: np.ndarray, threshold: float) -> np.ndarray | None:
    """Shares of the mass above the threshold, summing to 1; None where nothing reaches it."""
    if not mask.any():
        return None
    excess = np.where(mask, seen - threshold, 0.0)
    if excess.sum() <= 0.0:
        excess = mask.astype(np.float64)  # a plateau at the very threshold
    shares: np.ndarray = excess / excess.sum()
    return shares


def _side(mass: np.ndarray, field: np.ndarray | None) -> Side:
    left, right = _extent(field, axis=0) if field is not None else (0.0, float(mass.shape[1]))
    middle, half = (left + right) / 2, (right - left) / 2
    if field is None:
        half *= _THORAX
    columns = mass.sum(axis=0)
    away = (np.arange(columns.size) + 0.5 - middle) / half
    # A column that the midline runs through belongs to both sides in parts.
    on_the_right_of_the_image = np.clip(away * half + 0.5, 0.0, 1.0)
    # Rounded, so that a picture and its mirror image are not told apart by the order of their sums.
    patients_left = round(float((columns * on_the_right_of_the_image).sum()), 9)
    if patients_left >= ONE_SIDED:
        return "left"
    if patients_left <= 1.0 - ONE_SIDED:
        return "right"
    return "midline" if round(float((columns * np.abs(away)).sum()), 9) < MIDLINE else "both"


def _zone(mass: np.ndarray, field: np.ndarray | None) -> Zone | None:
    """The third with most of the mass; each half of the thorax has its own thirds, those of its lung."""
    if field is None:
        shares = _thirds(mass, 0.0, float(mass.shape[0]))
    else:
        left, right = _extent(field, axis=0)
        cut = round((left + right) / 2)
        shares = np.zeros(3)
        for half in (slice(None, cut), slice(cut, None)):
            lung = field[:, half] if field[:, half].any() else field
            shares += _thirds(mass[:, half], *_extent(lung, axis=1))
    shares = shares.round(9)
    largest = int(np.argmax(shares))
    return ZONES[largest] if shares[largest] >= IN_ONE_ZONE else None


def _thirds(mass: np.ndarray, top: float, bottom: float) -> np.ndarray:
    """Mass in the upper, middle and lower third; what lies above or below counts to the third next to it."""
    rows = mass.sum(axis=1)
    index = np.floor((np.arange(rows.size) + 0.5 - top) / (bottom - top) * 3).clip(0, 2).astype(int)
    return np.bincount(index, weights=rows, minlength=3)


def _extent(field: np.ndarray, *, axis: int) -> tuple[float, float]:
    """First and last edge of the field: along x for axis 0 (columns that hold any), along y for axis 1."""
    hit = np.flatnonzero(field.any(axis=axis))
    return float(hit[0]), float(hit[-1] + 1)


def _walk(following: dict[tuple[int, int], list[tuple[int, int]]]) -> list[tuple[int, int]]:
    """One closed outline, whose edges are taken out of `following`."""
    start = next(iter(following))
    path, here, direction = [start], start, (0, 0)
    while True:
        ahead = following[here]
        # Where two pixels touch at a corner a turn to the right stays with the same pixel.
        right = (here[0] - direction[1], here[1] + direction[0])
        step = right if right in ahead else ahead[0]
        ahead.remove(step)
        if not ahead:
            del following[here]
        if step == start:
            return path
        direction = (step[0] - here[0], step[1] - here[1])
        path.append(step)
        here = step


def _corners(path: list[tuple[int, int]]) -> Polygon:
    """The points of a closed path of steps at which it turns."""
    around = zip((path[-1], *path[:-1]), path, (*path[1:], path[0]), strict=True)
    return tuple(
        (float(x), float(y))
        for (before_x, before_y), (x, y), (after_x, after_y) in around
        if (after_x - x, after_y - y) != (x - before_x, y - before_y)
    )
