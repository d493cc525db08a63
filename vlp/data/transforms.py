"""From a stored image to what the model sees, with the exact affine map kept for the way back.

Nothing here mirrors an image: left and right are language.
"""

import os
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from pydantic import Field

from vlp.config import Config
from vlp.data.encoded import FACTORS
from vlp.tensors import Placement

PositiveInt = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class SeenImage(NamedTuple):
    """An image as the model sees it."""

    pixels: UInt8[np.ndarray, "rows columns"]
    """At the model's size."""
    placement: Placement
    """Where the pixels of the original went."""
    padding: Bool[np.ndarray, "rows columns"] | None
    """True where there is padding; None: nowhere."""


class Preprocess(Config):
    """How images are brought to one size, and the numbers the model normalises them with on its device."""

    size: PositiveInt | tuple[PositiveInt, PositiveInt] = 224
    """Side of a square, or [rows, columns]."""
    fit: Literal["letterbox", "stretch", "crop"] = "letterbox"
    """Whole image with black bars; whole image, proportions lost; or filled, the longer side cut at both ends."""
    channels: Literal[1, 3] = 1
    """Three repeats the one channel, for towers pretrained on colour pictures."""
    mean: float = 0.5
    """Subtracted from pixels in [0, 1]."""
    std: Annotated[float, Field(gt=0.0)] = 0.25
    """What the difference is divided by."""

    @property
    def rows_columns(self) -> tuple[int, int]:
        """(rows, columns) the model sees."""
        return self.size if isinstance(self.size, tuple) else (self.size, self.size)

    def size_of(self, shape: tuple[int, int]) -> tuple[int, int]:
        """(rows, columns) that a whole image of `shape` is resized to, before bars are added or its ends are cut."""
        return _scaled_size(shape, self.rows_columns, self.fit)

    def apply(
        self,
        pixels: UInt8[np.ndarray, "rows columns"],
        *,
        stored: tuple[int, int] | None = None,
        out: UInt8[np.ndarray, "model_rows model_columns"] | None = None,
    ) -> SeenImage:
        """The image at the model's size.

        Args:
            pixels: The image.
            stored: (rows, columns) of the image as stored, where it was decoded smaller (`encoded.decode`).
            out: Where to put the result, which then is this array.
        """
        stored = stored or (pixels.shape[0], pixels.shape[1])
        fitting = _fitting(stored, (pixels.shape[0], pixels.shape[1]), self.rows_columns, self.fit)
        rows, columns = self.rows_columns
        (new_rows, new_columns), (top, left) = fitting.size, fitting.corner
        if fitting.size == (rows, columns):
            return SeenImage(
                _resize(pixels, new_rows, new_columns, fitting.interpolation, out), fitting.placement, None
            )
        seen = np.empty((rows, columns), dtype=np.uint8) if out is None else out
        if self.fit == "crop":
            resized = _resize(pixels, new_rows, new_columns, fitting.interpolation)
            seen[:] = resized[-top : -top + rows, -left : -left + columns]
            return SeenImage(seen, fitting.placement, None)
        seen[:] = 0
        inside = seen[top : top + new_rows, left : left + new_columns]
        _resize(pixels, new_rows, new_columns, fitting.interpolation, inside)
        return SeenImage(seen, fitting.placement, find_padding(fitting.placement))


class Augment(Config):
    """Small changes of pose and exposure while training; each limit 0 switches that change off."""

    probability: Share = 0.8
    """Of each change, independently."""
    rotate_deg: Annotated[float, Field(ge=0.0, le=45.0)] = 5.0
    """Turned by up to this much either way."""
    translate: Share = 0.03
    """Shifted by up to this share of each side."""
    scale: Annotated[float, Field(ge=0.0, le=0.5)] = 0.08
    """Enlarged or shrunk by up to this share."""
    brightness: Share = 0.12
    """Up to this share of full white added or taken away."""
    contrast: Share = 0.15
    """Up to this share of contrast gained or lost."""
    noise: Share = 0.02
    """Largest standard deviation of added noise, as a share of full white."""

    def apply(
        self, pixels: UInt8[np.ndarray, "rows columns"], preprocess: Preprocess, rng: np.random.Generator
    ) -> tuple[UInt8[np.ndarray, "model_rows model_columns"], Placement]:
        """The image preprocessed and changed as `rng` decides, and where its pixels went."""
        seen, placement, _ = preprocess.apply(pixels)
        changed, affine = self.change(seen, rng)
        steps = affine @ np.asarray((*placement.matrix, (0.0, 0.0, 1.0)))
        matrix = tuple(tuple(float(value) for value in row) for row in steps[:2])
        return changed, Placement(original=placement.original, model=placement.model, matrix=matrix)  # type: ignore[arg-type]

    def prepare(self) -> None:
        """Imports the library that makes the changes; before workers are forked, since not all bear it afterwards."""
        _compose(self)

    def change(
        self, seen: UInt8[np.ndarray, "rows columns"], rng: np.random.Generator
    ) -> tuple[UInt8[np.ndarray, "rows columns"], Float[np.ndarray, "3 3"]]:
        """An image at the model's size changed as `rng` decides, and the 3 x 3 affine map of its points (x, y, 1)."""
        compose = _compose(self)
        if compose is None:
            return seen, np.eye(3)
        compose.set_random_seed(int(rng.integers(2**31)))
        rows, columns = seen.shape
        # Three points travel along as keypoints; where they end up is the map.  The library counts from pixel
        # centres, we from the corner of the first pixel: half a pixel apart.
        corners = np.array([[0, 0], [columns, 0], [0, rows]], dtype=np.float64)
        result = compose(image=seen, keypoints=(corners - 0.5).astype(np.float32))
        moved = np.asarray(result["keypoints"], dtype=np.float64) + 0.5
        homogeneous = np.concatenate((corners, np.ones((3, 1))), axis=1)
        affine = np.eye(3)
        affine[:2] = np.linalg.solve(homogeneous, moved).T
        return result["image"], affine


def find_padding(
    placement: Placement, moved: Float[np.ndarray, "3 3"] | None = None
) -> Bool[np.ndarray, "rows columns"] | None:
    """True at the model's pixels whose centre shows nothing of the image; None where every pixel shows some of it.

    Args:
        placement: Where preprocessing put the image.
        moved: The affine map by which an augmentation (`Augment.change`) then moved what was in the model's frame;
            what preprocessing had cut away does not come back into view.
    """
    return _at_rest(placement) if moved is None else _padding(placement, moved)


@lru_cache(maxsize=256)
def _at_rest(placement: Placement) -> np.ndarray | None:
    padding = _padding(placement, None)
    if padding is not None:
        padding.setflags(write=False)  # images of one size share it
    return padding


def _padding(placement: Placement, moved: np.ndarray | None) -> np.ndarray | None:
    rows, columns = placement.model
    corners = np.array([[0.0, 0.0], [placement.original[1], placement.original[0]]])
    (x0, y0), (x1, y1) = placement.to_model(corners)
    x0, y0, x1, y1 = max(x0, 0.0), max(y0, 0.0), min(x1, columns), min(y1, rows)
    x, y = np.arange(columns) + 0.5, (np.arange(rows) + 0.5)[:, None]
    if moved is not None:
        (a, b, c), (d, e, f) = np.linalg.inv(moved)[:2]
        x, y = a * x + (b * y + c), d * x + (e * y + f)
    beside, above = (x < x0) | (x > x1), (y < y0) | (y > y1)
    if not (beside.any() or above.any()):
        return None
    padding: np.ndarray = beside | above
    return padding


@lru_cache(maxsize=8)
def _compose(augment: Augment) -> Any:
    """The library's form of the settings; None where every change is switched off."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else it asks the network for a newer version
    import albumentations

    probability = augment.probability
    changes: list[Any] = []
    if augment.rotate_deg or augment.translate or augment.scale:
        changes.append(
            albumentations.Affine(
                scale=(1 - augment.scale, 1 + augment.scale),
                translate_percent=(-augment.translate, augment.translate),
                rotate=(-augment.rotate_deg, augment.rotate_deg),
                keep_ratio=True,
                p=probability,
            )
        )
    if augment.brightness or augment.contrast:
        changes.append(
            albumentations.RandomBrightnessContrast(
                brightness_limit=augment.brightness, contrast_limit=augment.contrast, p=probability
            )
        )
    if augment.noise:
        changes.append(albumentations.GaussNoise(std_range=(0.0, augment.noise), p=probability))
    if not changes:
        return None
    return albumentations.Compose(
        changes, keypoint_params=albumentations.KeypointParams(format="xy", remove_invisible=False)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fitting:
    """How images of one size are brought to the model's."""

    size: tuple[int, int]
    """(rows, columns) the whole image is resized to."""
    corner: tuple[int, int]
    """(rows, columns) before it in the model's frame; negative where it is cut."""
    interpolation: int
    placement: Placement


@lru_cache(maxsize=4096)
def _fitting(stored: tuple[int, int], decoded: tuple[int, int], target: tuple[int, int], fit: str) -> _Fitting:
    new_rows, new_columns = _scaled_size(stored, target, fit)
    # Whole pixels, so that the map is exact.
    top, left = (target[0] - new_rows) // 2, (target[1] - new_columns) // 2
    rows, columns = _covered(stored, decoded)
    shrinks = new_rows <= decoded[0] and new_columns <= decoded[1]
    # What was decoded smaller is averaged already; down to half of its size there is nothing left to average.
    averaged = decoded != stored and decoded[0] < 2 * new_rows and decoded[1] < 2 * new_columns
    return _Fitting(
        size=(new_rows, new_columns),
        corner=(top, left),
        interpolation=cv2.INTER_AREA if shrinks and not averaged else cv2.INTER_LINEAR,
        placement=Placement(
            original=stored,
            model=target,
            matrix=((new_columns / columns, 0.0, float(left)), (0.0, new_rows / rows, float(top))),
        ),
    )


@lru_cache(maxsize=4096)
def _scaled_size(size: tuple[int, int], target: tuple[int, int], fit: str) -> tuple[int, int]:
    if fit == "stretch":
        return target
    ratios = (target[0] / size[0], target[1] / size[1])
    if fit == "letterbox":
        scale = min(ratios)
        rows, columns = (min(max(1, round(side * scale)), limit) for side, limit in zip(size, target, strict=True))
    else:
        scale = max(ratios)
        rows, columns = (max(round(side * scale), limit) for side, limit in zip(size, target, strict=True))
    return rows, columns


def _covered(stored: tuple[int, int], decoded: tuple[int, int]) -> tuple[int, int]:
    """(rows, columns) of the stored image that the decoded pixels cover.

    A little over its edge where it was decoded smaller by a factor that does not divide its sides, for their last
    pixels are as large as the others.
    """
    if stored == decoded:
        return stored
    factor = next(factor for factor in FACTORS if tuple(-(-side // factor) for side in stored) == decoded)
    return decoded[0] * factor, decoded[1] * factor


def _resize(
    pixels: np.ndarray, rows: int, columns: int, interpolation: int, out: np.ndarray | None = None
) -> np.ndarray:
    if pixels.shape == (rows, columns):
        if out is None:
            return pixels
        out[:] = pixels
        return out
    result: np.ndarray = cv2.resize(pixels, (columns, rows), dst=out, interpolation=interpolation)
    return result
