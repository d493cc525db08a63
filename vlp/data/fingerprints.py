"""Numbers that are equal or close for what is the same: of reports, and of radiographs however they were saved.

An image's fingerprint is a perceptual hash: of an image brought to 64 x 64 pixels, whose values are replaced by their
ranks, the signs of the lowest 16 x 16 coefficients of the cosine transform (255 and one unused bit) relative to their
median.  Ranks make it blind to brightness, contrast, gamma and equalisation; what stays is where the image is
brighter than elsewhere.  The customary 64 bits (8 x 8 coefficients) are the first of its four words: they are enough to
find candidates among holiday pictures, not among chest radiographs, which all look alike to them.
"""

import hashlib
import re

import cv2
import numpy as np
from jaxtyping import Float32, UInt8, UInt64

SIDE = 64
_COARSE, _FINE = 8, 16
WORDS = _FINE * _FINE // 64
_WORK_PX = 256
"""Longer side at which borders are looked for."""
_FLAT = 8
"""Grey levels that the middle 80 % of a border's row or column may span."""
_WORD = re.compile(r"[^\W_]+")


def report_digest(text: str) -> bytes:
    """Equal for reports that differ in case, blanks, line breaks and punctuation only."""
    return hashlib.blake2b(" ".join(_WORD.findall(text.casefold())).encode(), digest_size=8).digest()


def trimmed(pixels: UInt8[np.ndarray, "rows columns"]) -> list[UInt8[np.ndarray, "small_rows small_columns"]]:
    """The image, at most 256 pixels wide or high: whole, and, where it has a flat border, without it as well.

    A copy that was padded to a square equals the original in its second variant.
    """
    small = _limited(pixels)
    inner = _without_border(small)
    return [small] if inner is None else [small, inner]


def fingerprint(ranked: Float32[np.ndarray, "64 64"]) -> UInt64[np.ndarray, "4"]:
    """255 signs of low frequencies as four words; the first is the customary 8 x 8 perceptual hash (63 signs)."""
    low = cv2.dct(ranked)[:_FINE, :_FINE]
    coarse = low[:_COARSE, :_COARSE].ravel()
    rest = np.concatenate((low[:_COARSE, _COARSE:].ravel(), low[_COARSE:].ravel()))
    fine = np.concatenate((coarse, rest))
    bits = np.empty(_FINE * _FINE, dtype=bool)
    bits[:64] = coarse > np.median(coarse[1:])
    bits[64:] = rest > np.median(fine[1:])
    bits[0] = False  # the mean of ranks is the same for every image
    return np.packbits(bits).view(np.uint64)


def ranks(pixels: UInt8[np.ndarray, "rows columns"], *, side: int = SIDE) -> Float32[np.ndarray, "side side"]:
    """Each pixel of the image made `side` x `side` as the share of pixels that are darker."""
    small = cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
    order = np.empty(small.size, dtype=np.float32)
    order[np.argsort(small, kind="stable")] = np.arange(small.size, dtype=np.float32)
    ranked: np.ndarray = (order / small.size).reshape(side, side)
    return ranked


def _limited(pixels: np.ndarray) -> np.ndarray:
    scale = _WORK_PX / max(pixels.shape)
    if scale >= 1.0:
        return pixels
    rows, columns = (max(1, round(side * scale)) for side in pixels.shape)
    small: np.ndarray = cv2.resize(pixels, (columns, rows), interpolation=cv2.INTER_AREA)
    return small


def _without_border(pixels: np.ndarray) -> np.ndarray | None:
    """The image without rows and columns at its edges in which nothing is to be seen; None if there are none."""
    rows, columns = np.flatnonzero(_spread(pixels) > _FLAT), np.flatnonzero(_spread(pixels.T) > _FLAT)
    if 2 * rows.size < pixels.shape[0] or 2 * columns.size < pixels.shape[1]:
        return None
    inner = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return None if inner.shape == pixels.shape else inner


def _spread(pixels: np.ndarray) -> np.ndarray:
    """Grey levels between the 10th and the 90th percentile of each row."""
    ordered = np.sort(pixels[:, :: max(1, pixels.shape[1] // 64)], axis=1)  # some of them tell as much as all
    low, high = ordered.shape[1] // 10, ordered.shape[1] - 1 - ordered.shape[1] // 10
    return ordered[:, high].astype(np.int16) - ordered[:, low]
