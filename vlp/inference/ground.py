"""Where on an image a sentence is answered: a map of true cosines in original pixels, a mask, boxes, a point."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Protocol

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int

from vlp.errors import DataError
from vlp.inference.evidence import Polygon, Where, outlines, where
from vlp.inference.lungs import LungField, Segmenter
from vlp.inference.picture import Picture
from vlp.inference.windows import Resolution, Whole, Windowing, window_maps
from vlp.prompts.understanding import Note, Understood, understand
from vlp.records import Box, Mask
from vlp.tensors import Placement

ThresholdSource = Literal["given", "calibration", "checkpoint", "otsu", "head"]
Quantity = Literal["cosine", "segmentation score"]

SMALLEST_SHARE = 2e-3
"""Connected parts of a mask that cover less of the image get no box, unless they hold the peak."""
_FLAT = 1e-6
"""A map that spans less than this is constant: below it is the noise of float32 interpolation."""
_BINS = 256
_OTHER_RESOLUTION = "the threshold was calibrated on maps of whole images; those of windows have other values"


class Locating(Windowing, Protocol):
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


class MapThresholds(Protocol):
    """What grounding needs of a calibration."""

    def map_threshold(self, name: str) -> float | None:
        """The cosine from which the map of a finding, or of another text, counts; None where it was not calibrated."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Grounding:
    """The answer to one sentence on one image; everything in pixels of the image as stored."""

    text: str
    map: Float[np.ndarray, "rows columns"]
    """`quantity` of the sentence at every pixel; NaN where the model did not look."""
    quantity: Quantity = "cosine"
    """Cosine similarity in [-1, 1], or what a segmentation head says, in [0, 1]; neither is a probability."""
    resolution: Resolution = "image"
    threshold: float
    threshold_source: ThresholdSource
    """Given by the caller, from a calibration file, calibrated and stored with the checkpoint, Otsu's on this very map,
    or stored with the head."""
    mask: Bool[np.ndarray, "rows columns"]
    """Where the map is at or above the threshold."""
    where: Where
    """Peak, the box around it, side, zone, shares."""
    boxes: tuple[Box, ...]
    """Around every connected part of the mask of some size (`SMALLEST_SHARE`), the one with the highest value first."""
    negated: bool = False
    """Whether the sentence says that something is not there."""
    notes: tuple[Note, ...] = ()
    """What is to be said of the sentence."""
    threshold_note: str | None = None
    """What is to be said of the threshold."""

    @property
    def box(self) -> Box | None:
        """Around the connected part of the mask that holds the peak; None where nothing reaches the threshold."""
        return self.where.box

    @property
    def peak(self) -> tuple[float, float] | None:
        """(x, y) of the highest value; where several pixels share it, their centroid; None for a constant map."""
        return self.where.peak

    @property
    def peak_similarity(self) -> float:
        """The highest value."""
        return float(np.nanmax(self.map))

    @property
    def contours(self) -> tuple[Polygon, ...]:
        """The mask's outlines (see `outlines`)."""
        return outlines(self.mask)

    def to_json(self) -> dict[str, Any]:
        """The answer as plain values; the mask as run lengths, column by column, starting with zeros."""
        encoded = Mask.encode(self.mask)
        return {
            "text": self.text,
            "negated": self.negated,
            "similarity": self.quantity,
            "resolution": self.resolution,
            "peak": {"x": self.peak[0], "y": self.peak[1]} if self.peak is not None else None,
            "peak_similarity": self.peak_similarity,
            "box": list(self.box) if self.box is not None else None,
            "boxes": [list(box) for box in self.boxes],
            "contours": [[list(point) for point in polygon] for polygon in self.contours],
            "where": self.where.to_json(),
            "threshold": self.threshold,
            "threshold_source": self.threshold_source,
            "threshold_note": self.threshold_note,
            "mask": {"rows": encoded.rows, "columns": encoded.columns, "counts": list(encoded.counts)},
            "map": {
                "minimum": float(np.nanmin(self.map)),
                "maximum": float(np.nanmax(self.map)),
                "mean": float(np.nanmean(self.map)),
            },
            "notes": [asdict(note) for note in self.notes],
            "note": "research use, not a medical device",
        }


def ground(
    engine: Locating,
    image: Picture,
    text: str,
    *,
    threshold: float | None = None,
    calibration: MapThresholds | None = None,
    lungs: LungField | None = None,
    resolution: Resolution = "image",
    window: float | None = None,
    whole: Whole = "mean",
) -> Grounding:
    """Where `text` is answered on `image`.

    Args:
        engine: the model.
        image: the image.
        text: what to look for.
        threshold: the cosine from which a pixel counts; None: the calibration's for the finding the text is about,
            else the checkpoint's, else Otsu's on this very map.
        calibration: thresholds by finding.
        lungs: the lung field of the image, for side, zone and the share inside the lungs.
        resolution: the whole image's map, that of windows of the image, or both combined (`windows.window_maps`).
        window: size of a window, as `window_maps` takes it.
        whole: how "both" combines, by the mean of the cosines or the higher one.

    Raises:
        DataError: for an image or a text that cannot be used, or a threshold outside [-1, 1].
    """
    return ground_texts(
        engine,
        image,
        (text,),
        threshold=threshold,
        calibration=calibration,
        lungs=lungs,
        resolution=resolution,
        window=window,
        whole=whole,
    )[0]


def ground_texts(
    engine: Locating,
    image: Picture,
    texts: tuple[str, ...],
    *,
    threshold: float | None = None,
    calibration: MapThresholds | None = None,
    lungs: LungField | None = None,
    resolution: Resolution = "image",
    window: float | None = None,
    whole: Whole = "mean",
) -> tuple[Grounding, ...]:
    """One answer per text; the image is encoded once.  Arguments and errors as in `ground`."""
    if threshold is not None and not -1.0 <= threshold <= 1.0:
        raise DataError(f"the threshold is a cosine in [-1, 1], not {threshold}")
    asked = [_understood(text) for text in texts]
    sentences = [item.text for item in asked]
    if resolution == "image":
        grids, placement = engine.maps(sentences, image)
        maps = [placement.map_to_original(grid) for grid in grids]
    else:
        combined = whole if resolution == "both" else "none"
        maps = list(window_maps(engine, image, sentences, window=window, whole=combined))
    answers = []
    for item, values in zip(asked, maps, strict=True):
        cut, source = choose_threshold(values, _name(item), engine=engine, given=threshold, calibration=calibration)
        answer = outline(item.text, values, threshold=cut, source=source, lungs=lungs)
        other = resolution != "image" and source in ("calibration", "checkpoint")
        answers.append(
            replace(
                answer,
                resolution=resolution,
                negated=item.negated,
                notes=item.notes,
                threshold_note=_OTHER_RESOLUTION if other else None,
            )
        )
    return tuple(answers)


def segment_texts(
    head: Segmenter,
    image: Picture,
    texts: tuple[str, ...],
    *,
    threshold: float | None = None,
    lungs: LungField | None = None,
) -> tuple[Grounding, ...]:
    """One answer per text from a segmentation head: the map of the class that the text names, or states.

    Args:
        head: the head.
        image: the image.
        texts: names of classes, or sentences; a head that is conditioned on text takes any.
        threshold: the head's own score from which a pixel counts; None: the one stored with it.
        lungs: the lung field of the image.

    Raises:
        DataError: for an image or a text that cannot be used, a text that names no class of the head's or denies it,
            or a threshold outside [0, 1].
    """
    if threshold is not None and not 0.0 <= threshold <= 1.0:
        raise DataError(f"the threshold of a segmentation head is in [0, 1], not {threshold}")
    asked = [_understood(text) for text in texts]
    names = [_class(item, head) for item in asked]
    maps, thresholds = head.maps(image, texts=tuple(dict.fromkeys(names)))
    source: ThresholdSource = "given" if threshold is not None else "head"
    answers = []
    for item, name in zip(asked, names, strict=True):
        cut = threshold if threshold is not None else thresholds[name]
        answer = outline(item.text, maps[name], threshold=cut, source=source, lungs=lungs)
        answers.append(replace(answer, quantity="segmentation score", notes=item.notes))
    return tuple(answers)


def choose_threshold(
    values: Float[np.ndarray, "rows columns"],
    name: str,
    *,
    engine: Locating,
    given: float | None = None,
    calibration: MapThresholds | None = None,
) -> tuple[float, ThresholdSource]:
    """The value from which a map counts, and where it comes from.

    The given one; else the calibration's for `name`, a finding or a text; else the checkpoint's; else Otsu's.
    """
    if given is not None:
        return given, "given"
    fitted = calibration.map_threshold(name) if calibration is not None else None
    if fitted is not None and np.isfinite(fitted):
        return fitted, "calibration"
    stored = engine.ground_threshold
    return (stored, "checkpoint") if stored is not None else (otsu(values), "otsu")


def outline(
    text: str,
    values: Float[np.ndarray, "rows columns"],
    *,
    threshold: float,
    source: ThresholdSource,
    lungs: LungField | None = None,
) -> Grounding:
    """Mask, boxes and place of a map in original pixels."""
    mask = np.nan_to_num(values, nan=-np.inf) >= threshold
    found = where(values, lungs=lungs, threshold=threshold)
    return Grounding(
        text=text,
        map=values,
        threshold=float(threshold),
        threshold_source=source,
        mask=mask,
        where=found,
        boxes=_boxes(values, mask, first=found.box),
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


def strongest_text(
    answers: tuple[Grounding, ...], *, below: Literal["none", "strongest"] = "none"
) -> Int[np.ndarray, "rows columns"]:
    """Per pixel the number of the text with the highest cosine, -1 for none of them.

    Args:
        answers: of texts on one image.
        below: whether a text takes part only where it reaches its threshold ("none" of them may), or everywhere the
            model looked ("strongest").
    """
    reach = [answer.mask if below == "none" else np.isfinite(answer.map) for answer in answers]
    stacked = np.stack([np.where(mask, answer.map, -np.inf) for mask, answer in zip(reach, answers, strict=True)])
    return np.where(np.isfinite(stacked).any(axis=0), stacked.argmax(axis=0), -1)


def _boxes(values: np.ndarray, mask: np.ndarray, *, first: Box | None) -> tuple[Box, ...]:
    if first is None:
        return ()
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    highest = np.full(count, -np.inf)
    np.maximum.at(highest, labels[mask], values[mask])
    large = [
        part for part in range(1, count) if statistics[part, cv2.CC_STAT_AREA] >= max(1.0, SMALLEST_SHARE * mask.size)
    ]
    boxes = []
    for part in sorted(large, key=lambda part: -highest[part]):
        left, top, width, height = (float(value) for value in statistics[part, :4])
        boxes.append((left, top, left + width, top + height))
    return tuple(dict.fromkeys((first, *boxes)))


def _understood(text: str) -> Understood:
    understood = understand(text)
    understood.refuse()
    return understood


def _name(asked: Understood) -> str:
    """What a threshold was calibrated for: the one finding that is said to be there, or else the very text."""
    return asked.findings[0] if len(asked.findings) == 1 and not asked.negated else asked.text


def _class(asked: Understood, head: Segmenter) -> str:
    """What to ask a head for."""
    if asked.negated:
        raise DataError("a segmentation head shows where something is; ask without the negation")
    plain = asked.text.lower().rstrip(".")
    named = [name for name in (plain, *asked.findings) if name in head.classes]
    if named:
        return named[0]
    if head.any_text:
        return asked.text
    raise DataError(
        f"the head has no class for one of the texts; it has {', '.join(head.classes)}; a head that is conditioned on "
        "text takes any sentence"
    )
