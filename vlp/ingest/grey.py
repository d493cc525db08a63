"""Colour pictures that are radiographs all the same: every channel says nearly the same."""

from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from vlp.ingest.image_error import ImageError

MAX_MEAN_SPREAD = 16.0
"""Mean spread of the channels above which a picture is a colour picture; a tinted copy stays below."""
MAX_SPREAD = 64
MAX_COLOURED = 0.01
"""Largest share of pixels whose channels may differ by more than `MAX_SPREAD`."""
_SAMPLES_PER_SIDE = 256
_NEUTRAL = 128
_LUMINANCE = np.asarray((0.299, 0.587, 0.114))


def grey_of_rgb(pixels: UInt8[np.ndarray, "rows columns 3"], path: Path) -> UInt8[np.ndarray, "rows columns"]:
    """The luminance (ITU-R BT.601) of red, green and blue; exactly their value where the three are equal.

    Raises:
        ImageError: "colour_image".
    """
    coarse = _coarse(pixels)
    _refuse_colour(coarse.max(axis=2) - coarse.min(axis=2), path)
    return np.rint(pixels @ _LUMINANCE).astype(np.uint8)


def grey_of_ybr(pixels: UInt8[np.ndarray, "rows columns 3"], path: Path) -> UInt8[np.ndarray, "rows columns"]:
    """The luminance channel of a picture in YCbCr.

    Raises:
        ImageError: "colour_image".
    """
    # A chroma of c off neutral spreads red, green and blue by up to about twice that.
    _refuse_colour(np.abs(_coarse(pixels)[..., 1:] - _NEUTRAL).max(axis=2) * 2, path)
    return np.ascontiguousarray(pixels[..., 0])


def _coarse(pixels: np.ndarray) -> Int[np.ndarray, "rows columns 3"]:
    down, across = (max(1, side // _SAMPLES_PER_SIDE) for side in pixels.shape[:2])
    return pixels[::down, ::across].astype(np.int16)


def _refuse_colour(spread: Int[np.ndarray, "rows columns"], path: Path) -> None:
    if spread.mean() > MAX_MEAN_SPREAD or (spread > MAX_SPREAD).mean() > MAX_COLOURED:
        raise ImageError("colour_image", f"{path}: a colour picture, not a radiograph")
