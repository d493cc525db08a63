"""Where the lungs are on an image, so that an answer can say how much of it lies inside them.

A field comes from a segmentation head that knows the lungs, or else from the model's own maps of anatomy prompts, the
latter only where the checkpoint says that it was trained with sentences about anatomy, for a model that never read of
lungs answers such a prompt with some map all the same.  Where neither is to be had there is no field, and who asks is
told so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Literal, Protocol

import cv2
import numpy as np
from jaxtyping import Bool, Float

from vlp.errors import DataError
from vlp.inference.picture import Picture
from vlp.tensors import Placement

FieldSource = Literal["head", "prompts", "given"]

ANATOMY: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "lungs": ("There are lungs.", "the lungs", "lung fields"),
        "left lung": ("There is the left lung.", "the left lung"),
        "right lung": ("There is the right lung.", "the right lung"),
        "heart": ("There is the heart.", "the heart", "cardiac silhouette"),
        "mediastinum": ("There is the mediastinum.", "the mediastinum"),
        "trachea": ("There is the trachea.", "the trachea"),
        "aorta": ("There is the aorta.", "the aortic arch"),
        "diaphragm": ("There is the diaphragm.", "the hemidiaphragms"),
        "spine": ("There is the spine.", "the thoracic spine"),
        "clavicles": ("There are clavicles.", "the clavicles"),
    }
)
"""How each part of the body is asked for; the maps of one part's prompts are averaged."""
BACKGROUND: tuple[str, ...] = ("background", "the abdomen", "soft tissue outside the chest")
"""What the lungs compete against beside the heart and the mediastinum."""

_LUNGS = "lungs"
_SIDES = ("left lung", "right lung")
_RIVALS: tuple[tuple[str, ...], ...] = (ANATOMY["heart"], ANATOMY["mediastinum"], *((text,) for text in BACKGROUND))
_SHARES = (0.05, 0.75)
"""A field that covers less or more of the image is none."""
_SMALLEST_PART = 0.1
"""Parts of a field smaller than this share of its largest one are left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LungField:
    """The lungs on one image."""

    mask: Bool[np.ndarray, "rows columns"]
    """True inside the lungs, in pixels of the image as stored."""
    source: FieldSource
    """A segmentation head, the model's own anatomy prompts, or the caller."""

    def __post_init__(self) -> None:
        if self.mask.ndim != 2 or self.mask.dtype != np.bool_ or not self.mask.any():
            raise DataError("a lung field is an array of bool [rows columns] that is true somewhere")


class Segmenter(Protocol):
    """What is needed of a segmentation head; `vlp.heads` makes them."""

    @property
    def classes(self) -> tuple[str, ...]:
        """What it was trained for."""
        ...

    @property
    def any_text(self) -> bool:
        """Whether it also answers for sentences that are none of its classes."""
        ...

    def maps(
        self, image: Picture, *, texts: Sequence[str] | None = None
    ) -> tuple[Mapping[str, Float[np.ndarray, "rows columns"]], Mapping[str, float]]:
        """By class, or by text: its map in pixels of the image as stored, and the value from which a pixel counts."""
        ...


class Seeing(Protocol):
    """What a lung field needs of a model; `vlp.Engine` is one."""

    @property
    def card(self) -> Mapping[str, Any]:
        """What the checkpoint says of itself."""
        ...

    def maps(
        self, texts: Sequence[str], image: Picture
    ) -> tuple[Float[np.ndarray, "text grid_rows grid_columns"], Placement]:
        """Cosine of each text with each patch of one image, and the way back to its pixels."""
        ...


def lung_field(
    engine: Seeing, image: Picture, *, head: Segmenter | None = None, trained: bool | None = None
) -> LungField | None:
    """The lungs on `image`; None where nothing here can tell where they are.

    Args:
        engine: the model.
        image: the image.
        head: a segmentation head; asked first, and used if "lungs", or the left and the right lung, are among its
            classes.
        trained: whether the model was trained with sentences about the lungs, so that its own maps of `ANATOMY` mean
            something; None: as the checkpoint's card says (`anatomy: [lungs, ...]`).

    Raises:
        DataError: for an image that cannot be used.
    """
    names = _lung_classes(head) if head is not None else ()
    if head is not None and names:
        maps, thresholds = head.maps(image, texts=names)
        # A pixel the head did not see is NaN and fails every comparison.
        return _field(np.logical_or.reduce([maps[name] >= thresholds[name] for name in names]), "head")
    if trained if trained is not None else knows_lungs(engine.card):
        return _field(_of_prompts(engine, image), "prompts")
    return None


def knows_lungs(card: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's card says that its model was trained with sentences about the lungs."""
    named = card.get("anatomy")
    return isinstance(named, list | tuple) and _LUNGS in named


def anatomy_maps(engine: Seeing, image: Picture, names: Sequence[str]) -> Float[np.ndarray, "name rows columns"]:
    """Per part of the body the mean map of its prompts, in pixels of the image as stored; NaN where nobody looked.

    Raises:
        DataError: for a part that `ANATOMY` does not hold, or an image that cannot be used.
    """
    unknown = [name for name in names if name not in ANATOMY]
    if unknown:
        raise DataError(f"unknown anatomy {unknown[0][:60]!r}; known are {', '.join(ANATOMY)}")
    return _mean_maps(engine, image, [ANATOMY[name] for name in names])


def _lung_classes(head: Segmenter) -> tuple[str, ...]:
    """The classes of a head that make up the lungs; none if it does not know them."""
    return next((names for names in ((_LUNGS,), _SIDES) if all(name in head.classes for name in names)), ())


def _mean_maps(engine: Seeing, image: Picture, groups: Sequence[Sequence[str]]) -> np.ndarray:
    values, placement = engine.maps([text for group in groups for text in group], image)
    starts = np.cumsum([0, *(len(group) for group in groups)])
    return np.stack([placement.map_to_original(values[start:stop].mean(axis=0)) for start, stop in pairwise(starts)])


def _of_prompts(engine: Seeing, image: Picture) -> np.ndarray:
    maps = _mean_maps(engine, image, [ANATOMY[_LUNGS], *_RIVALS])
    # Where the model did not look every map is NaN, and a comparison with NaN is false.
    inside: np.ndarray = (maps[0] > maps[1:]).all(axis=0)
    return inside


def _field(mask: np.ndarray, source: FieldSource) -> LungField | None:
    """The mask without specks and holes; None if that is no pair of lungs."""
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count < 2:
        return None
    areas = statistics[1:, cv2.CC_STAT_AREA]
    kept = 1 + np.flatnonzero(areas >= _SMALLEST_PART * areas.max())
    filled = _without_holes(np.isin(labels, kept))
    low, high = _SHARES
    return LungField(mask=filled, source=source) if low <= filled.mean() <= high else None


def _without_holes(mask: np.ndarray) -> np.ndarray:
    from scipy.ndimage import binary_fill_holes

    filled: np.ndarray = binary_fill_holes(mask)
    return filled
