"""From a stored image to what the model sees, with the exact affine map kept for the way back.

Nothing here mirrors an image: left and right are language.
"""

import os
from functools import lru_cache
from typing import Annotated, Any, Literal

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from pydantic import Field

from vlp.config import Config
from vlp.tensors import Placement

PositiveInt = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


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

    def apply(
        self, pixels: UInt8[np.ndarray, "rows columns"]
    ) -> tuple[
        UInt8[np.ndarray, "model_rows model_columns"],
        Placement,
        Bool[np.ndarray, "model_rows model_columns"] | None,
    ]:
        """The image at the model's size, where its pixels went, and True where there is padding (None: nowhere)."""
        rows, columns = pixels.shape
        target_rows, target_columns = self.rows_columns
        new_rows, new_columns = _scaled_size((rows, columns), (target_rows, target_columns), self.fit)
        scaled = _resize(pixels, new_rows, new_columns)
        # Whole pixels, so that the map is exact; negative where the image is cut instead of padded.
        top, left = (target_rows - new_rows) // 2, (target_columns - new_columns) // 2
        placement = Placement(
            original=(rows, columns),
            model=(target_rows, target_columns),
            matrix=((new_columns / columns, 0.0, float(left)), (0.0, new_rows / rows, float(top))),
        )
        if self.fit == "crop":
            cut = scaled[-top : -top + target_rows, -left : -left + target_columns]
            return np.ascontiguousarray(cut), placement, None
        if (new_rows, new_columns) == (target_rows, target_columns):
            return scaled, placement, None
        seen = np.zeros((target_rows, target_columns), dtype=np.uint8)
        seen[top : top + new_rows, left : left + new_columns] = scaled
        return seen, placement, find_padding(placement)


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
    rows, columns = placement.model
    corners = np.array([[0.0, 0.0], [placement.original[1], placement.original[0]]])
    (x0, y0), (x1, y1) = placement.to_model(corners)
    x0, y0, x1, y1 = max(x0, 0.0), max(y0, 0.0), min(x1, columns), min(y1, rows)
    (a, b, c), (d, e, f) = (np.eye(3) if moved is None else np.linalg.inv(moved))[:2]
    centres_x, centres_y = np.arange(columns) + 0.5, (np.arange(rows) + 0.5)[:, None]
    x, y = a * centres_x + (b * centres_y + c), d * centres_x + (e * centres_y + f)
    padding: np.ndarray = (x < x0) | (x > x1) | (y < y0) | (y > y1)
    return padding if padding.any() else None


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


def _resize(pixels: np.ndarray, rows: int, columns: int) -> np.ndarray:
    if pixels.shape == (rows, columns):
        return pixels
    shrinks = rows <= pixels.shape[0] and columns <= pixels.shape[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    result: np.ndarray = cv2.resize(pixels, (columns, rows), interpolation=interpolation)
    return result
