"""Maps finer than the model's own grid: overlapping windows of the image, each enlarged to what the model takes.

A lesion of a few millimetres is less than a patch of the whole image; in a window it covers several.  What a window
lacks is the whole: whether a shadow is a rib or a nodule is told by where it lies.  So the windows' map and the whole
image's are combined, by the mean of their cosines unless asked otherwise.

    W = sum_w h_w M_w / sum_w h_w       M_w: the window's map in original pixels; h_w: a raised cosine over it
    M = (W + M_image) / 2               or max(W, M_image), or W alone

Weights fall to almost nothing at a window's edge, where it sees least of the surroundings, so there are no seams.
"""

from collections.abc import Sequence
from math import ceil
from typing import Literal, Protocol, TypeAlias

import numpy as np
from jaxtyping import Float, UInt8

from vlp.data.transforms import SeenImage
from vlp.errors import DataError
from vlp.inference.picture import Picture, pixels_of
from vlp.log import progress
from vlp.tensors import ImageFeatures, Placement

Resolution: TypeAlias = Literal["image", "windows", "both"]
"""The whole image's map, the windows', or both combined."""
Whole: TypeAlias = Literal["mean", "max", "none"]
"""How the whole image's map enters: mean of cosines, the higher of the two, or not at all."""

MAX_WINDOWS = 1024
"""More are refused: each costs as much as a whole image."""
_LEAST_SHARE = 0.75
"""A window of unstated size is at least this share of the largest.  Smaller ones lose a model that was trained on whole
images: pointing with windows of a half and less was worse than without any (docs/how-to/ground.md)."""
_LEAST_PX = 8
_CHUNK = 32
_SLOW = 64
_FLOOR = 1e-3
"""Weight at a window's very edge, so that the image's own edge has some."""


class Windowing(Protocol):
    """What windows need of a model; `vlp.Engine` is one."""

    def features(self, images: Sequence[Picture]) -> tuple[ImageFeatures, tuple[Placement, ...]]:
        """Features of the images and where their pixels went."""
        ...

    def maps_of(
        self, texts: Sequence[str], features: ImageFeatures
    ) -> Float[np.ndarray, "text image grid_rows grid_columns"]:
        """Cosine of each text with each patch of each image."""
        ...


def window_maps(
    engine: Windowing,
    image: Picture,
    texts: Sequence[str],
    *,
    window: float | None = None,
    overlap: float = 0.5,
    whole: Whole = "mean",
) -> Float[np.ndarray, "text rows columns"]:
    """Cosine of each text at every pixel of the image as stored, from overlapping windows; float32, nowhere NaN.

    Windows have the proportions of the model's input and lie wholly inside the image, so none of them has padding.

    Args:
        engine: the model.
        image: the image at its own resolution.
        texts: what to look for.
        window: height of a window: up to 1 a share of the largest window that fits into the image, above 1 in pixels
            (never more than fit).  None: the model's input size in pixels, but at least three quarters of the largest.
        overlap: share of a window that the next one shows too, at least, in [0, 0.9].
        whole: how the whole image's map enters.

    Raises:
        DataError: for an image or a text that cannot be used, a window or an overlap out of range, or more than
            `MAX_WINDOWS` windows.
    """
    if isinstance(image, SeenImage):
        raise DataError("windows need the image at its own resolution; give its file or its pixels")
    if not 0.0 <= overlap <= 0.9:
        raise DataError(f"the overlap of windows is a share in [0, 0.9], not {overlap}")
    pixels = pixels_of(image)
    features, placements = engine.features([pixels])
    grids = engine.maps_of(texts, features)[:, 0]
    corners, size = _layout(pixels.shape, placements[0].model, window, overlap)
    averaged = _averaged(engine, pixels, texts, corners, size)
    if whole == "none":
        return averaged
    own = np.stack([placements[0].map_to_original(grid) for grid in grids])
    combined = np.maximum(averaged, own) if whole == "max" else (averaged + own) / 2
    # What a crop to the model's proportions cut off is NaN in the whole image's map: the windows saw it.
    result: np.ndarray = np.where(np.isnan(own), averaged, combined).astype(np.float32)
    return result


def _layout(
    shape: tuple[int, ...], model: tuple[int, int], window: float | None, overlap: float
) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """(top, left) of each window, and the (rows, columns) all of them have."""
    fits = min(shape[0] / model[0], shape[1] / model[1])  # the largest window, in sizes of the model's input
    if window is None:
        scale = max(1.0, _LEAST_SHARE * fits)
    elif np.isfinite(window) and window > 0:
        scale = window * fits if window <= 1.0 else window / model[0]
    else:
        raise DataError(f"a window is a share of the image up to 1, or its height in pixels, not {window}")
    size = tuple(max(1, round(side * min(scale, fits))) for side in model)
    if min(size) < min(_LEAST_PX, *shape[:2]):
        raise DataError(f"windows of {size[0]} x {size[1]} pixels show nothing; make them larger")
    tops, lefts = (_starts(length, side, overlap) for length, side in zip(shape, size, strict=True))
    if len(tops) * len(lefts) > MAX_WINDOWS:
        raise DataError(
            f"{len(tops) * len(lefts)} windows of {size[0]} x {size[1]} pixels are more than {MAX_WINDOWS}; "
            "make them larger or let them overlap less"
        )
    return [(top, left) for top in tops for left in lefts], (size[0], size[1])


def _starts(length: int, side: int, overlap: float) -> list[int]:
    """Where windows of `side` begin on `length` pixels: evenly, from edge to edge, no pixel left out."""
    room = length - side
    if room <= 0:
        return [0]
    steps = ceil(room / max(1.0, side * (1.0 - overlap)))
    return [round(index * room / steps) for index in range(steps + 1)]


def _averaged(
    engine: Windowing,
    pixels: UInt8[np.ndarray, "rows columns"],
    texts: Sequence[str],
    corners: Sequence[tuple[int, int]],
    size: tuple[int, int],
) -> np.ndarray:
    total = np.zeros((len(texts), *pixels.shape), dtype=np.float32)
    weights = np.zeros(pixels.shape, dtype=np.float32)
    weight = np.outer(_raised_cosine(size[0]), _raised_cosine(size[1]))
    chunks = [corners[start : start + _CHUNK] for start in range(0, len(corners), _CHUNK)]
    told = progress(chunks, description="windows through the model", unit="batches") if len(corners) > _SLOW else chunks
    for chunk in told:
        cuts = [np.s_[top : top + size[0], left : left + size[1]] for top, left in chunk]
        features, placements = engine.features([np.ascontiguousarray(pixels[cut]) for cut in cuts])
        grids = engine.maps_of(texts, features)
        for index, (cut, placement) in enumerate(zip(cuts, placements, strict=True)):
            weights[cut] += weight
            for row in range(len(texts)):
                # A window whose proportions are off by a rounded pixel may lose its outermost one to a crop.
                total[row][cut] += weight * _filled(placement.map_to_original(grids[row, index]))
    averaged: np.ndarray = total / weights
    return averaged


def _raised_cosine(length: int) -> np.ndarray:
    values: np.ndarray = (np.sin(np.pi * (np.arange(length) + 0.5) / length) ** 2 + _FLOOR).astype(np.float32)
    return values


def _filled(values: np.ndarray) -> np.ndarray:
    """The map with NaN replaced by the nearest value there is."""
    unseen = np.isnan(values)
    if not unseen.any():
        return values
    from scipy.ndimage import distance_transform_edt

    rows, columns = distance_transform_edt(unseen, return_distances=False, return_indices=True)
    filled: np.ndarray = values[rows, columns]
    return filled
