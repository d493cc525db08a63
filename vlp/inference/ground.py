"""Where on an image a sentence is answered: a map of true cosines in original pixels, a mask, a box, a point."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import cv2
import numpy as np
from jaxtyping import Bool, Float

from vlp.errors import DataError
from vlp.inference.picture import Picture
from vlp.metrics import segmentation
from vlp.records import Box, Mask
from vlp.tensors import Placement

ThresholdSource = Literal["given", "checkpoint", "otsu"]

_FLAT = 1e-6
"""A map that spans less than this is constant: below it is the noise of float32 interpolation."""
_BINS = 256


class Locating(Protocol):
    """What grounding needs of a model; `vlp.Engine` is one."""

    @property
    def ground_threshold(self) -> float | None:
        """The calibrated cosine from which a map counts as a region, if there is one."""
        ...

    def maps(
        self, texts: Sequence[str], image: Picture
    ) -> tuple[Float[np.ndarray, "text grid_rows grid_columns"], Placement]:
        """Cosine of each text with each patch of one image, and the way back to its pixels."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Grounding:
    """The answer to one sentence on one image; everything in pixels of the image as stored."""

    text: str
    map: Float[np.ndarray, "rows columns"]
    """Cosine of the sentence with the image at every pixel; NaN where the model did not look."""
    threshold: float
    threshold_source: ThresholdSource
    """Given by the caller, calibrated and stored with the checkpoint, or Otsu's on this very map."""
    mask: Bool[np.ndarray, "rows columns"]
    """Where the map is at or above the threshold."""
    box: Box | None
    """Around the connected part of the mask that holds the peak; None where nothing reaches the threshold."""
    peak: tuple[float, float] | None
    """(x, y) of the highest value; where several pixels share it, their centroid; None for a constant map."""
    peak_similarity: float

    def to_json(self) -> dict[str, Any]:
        """The answer as plain values; the mask as run lengths, column by column, starting with zeros."""
        encoded = Mask.encode(self.mask)
        return {
            "text": self.text,
            "similarity": "cosine",
            "peak": {"x": self.peak[0], "y": self.peak[1]} if self.peak is not None else None,
            "peak_similarity": self.peak_similarity,
            "box": list(self.box) if self.box is not None else None,
            "threshold": self.threshold,
            "threshold_source": self.threshold_source,
            "mask": {"rows": encoded.rows, "columns": encoded.columns, "counts": list(encoded.counts)},
            "map": {
                "minimum": float(np.nanmin(self.map)),
                "maximum": float(np.nanmax(self.map)),
                "mean": float(np.nanmean(self.map)),
            },
            "note": "research use, not a medical device",
        }


def ground(engine: Locating, image: Picture, text: str, *, threshold: float | None = None) -> Grounding:
    """Where `text` is answered on `image`.

    Raises:
        DataError: for an image or a text that cannot be used, or a threshold outside [-1, 1].
    """
    return ground_texts(engine, image, (text,), threshold=threshold)[0]


def ground_texts(
    engine: Locating, image: Picture, texts: tuple[str, ...], *, threshold: float | None = None
) -> tuple[Grounding, ...]:
    """One answer per text; the image is encoded once.  Arguments and errors as in `ground`."""
    if threshold is not None and not -1.0 <= threshold <= 1.0:
        raise DataError(f"the threshold is a cosine in [-1, 1], not {threshold}")
    calibrated = engine.ground_threshold
    values, placement = engine.maps(texts, image)
    answers = []
    for text, grid in zip(texts, values, strict=True):
        carried = placement.map_to_original(grid)
        if threshold is not None:
            answers.append(outline(text, carried, threshold=threshold, source="given"))
        elif calibrated is not None:
            answers.append(outline(text, carried, threshold=calibrated, source="checkpoint"))
        else:
            answers.append(outline(text, carried, threshold=otsu(carried), source="otsu"))
    return tuple(answers)


def outline(
    text: str, values: Float[np.ndarray, "rows columns"], *, threshold: float, source: ThresholdSource
) -> Grounding:
    """Mask, box and peak of a map in original pixels."""
    highest = float(np.nanmax(values))
    seen = np.nan_to_num(values, nan=-np.inf)
    mask = seen >= threshold
    return Grounding(
        text=text,
        map=values,
        threshold=float(threshold),
        threshold_source=source,
        mask=mask,
        box=_peak_box(mask, seen == highest),
        peak=segmentation.peak(values),
        peak_similarity=highest,
    )


def otsu(values: Float[np.ndarray, "rows columns"]) -> float:
    """The threshold that splits the map's values best into two classes (Otsu 1979), over 256 bins.

    A constant map has no such threshold; the answer is then the next number above it, so the mask stays empty.
    """
    finite = values[np.isfinite(values)].astype(np.float64)
    low, high = float(finite.min()), float(finite.max())
    if high - low <= _FLAT:
        return float(np.nextafter(np.float32(high), np.float32(np.inf)))
    counts, edges = np.histogram(finite, bins=_BINS, range=(low, high))
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1].astype(np.float64)
    above = finite.size - below
    sums = np.cumsum(counts * centres)
    gap = sums[:-1] / np.maximum(below, 1.0) - (sums[-1] - sums[:-1]) / np.maximum(above, 1.0)
    return float(edges[1:-1][np.argmax(below * above * gap**2)])


def strongest_text(answers: tuple[Grounding, ...]) -> np.ndarray:
    """Per pixel the number of the text with the highest cosine, among those at or above their threshold, else -1.

    Returns:
        Integers [rows columns].
    """
    stacked = np.stack([np.where(answer.mask, answer.map, -np.inf) for answer in answers])
    return np.where(np.isfinite(stacked).any(axis=0), stacked.argmax(axis=0), -1)


def _peak_box(mask: np.ndarray, maxima: np.ndarray) -> Box | None:
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    touched = np.unique(labels[maxima & mask])
    if touched.size == 0:
        return None
    part = max(touched.tolist(), key=lambda label: int(statistics[label, cv2.CC_STAT_AREA]))
    left, top, width, height = (float(value) for value in statistics[part, :4])
    return left, top, left + width, top + height
