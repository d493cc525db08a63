"""Words in radiographs that say how an image was taken and nothing of whom; known by their shape."""

import itertools
from collections.abc import Iterator
from functools import cache

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image, ImageDraw, ImageFont

from vlp.records import Box

WORDS = (
    "PORTABLE", "SUPINE", "ERECT", "UPRIGHT", "SEMI", "STANDING", "SITTING", "MOBILE", "LATERAL", "SEMI-ERECT",
    "SEMI ERECT", "SEMI-UPRIGHT", "AP PORTABLE", "AP ERECT", "AP SUPINE", "AP MOBILE", "PA ERECT", "AP UPRIGHT",
)  # fmt: skip
_FONT_PX = 40
_BOLD_PX = (0, 2)
"""Widths that are added to the strokes of the font."""
_COLUMNS, _ROWS = 64, 8
"""Size in which shapes are compared."""
_STRETCH = 0.35
"""Largest natural logarithm of how much wider or narrower than the template a word may be."""
_SHIFTS = tuple(itertools.product((-2, -1, 0, 1), (-1, 0, 1, 2), (-1, 0, 1), (-1, 0, 1)))
"""Pixels by which the left, right, upper and lower edge of a box may be wrong."""
_FAINT = 20.0
"""Grey levels below which nothing stands out of a box."""


def likeness(pixels: UInt8[np.ndarray, "rows columns"], box: Box) -> float:
    """How much what is in `box` looks like one of `WORDS`: a correlation, bright or dark, 0 where none is as long."""
    x0, y0, x1, y1 = whole = int(box[0]), int(box[1]), int(box[2]), int(box[3])
    return max(_likeness(pixels, edges) for edges in (whole, *_tight(pixels[y0:y1, x0:x1], x0, y0)))


def _tight(region: UInt8[np.ndarray, "rows columns"], x0: int, y0: int) -> Iterator[tuple[int, int, int, int]]:
    """Boxes around what is much brighter, and much darker, than the middle of a region whose corner is (x0, y0)."""
    values = region.astype(np.float32) - float(np.median(region))
    for signed in (values, -values):
        if signed.max() > _FAINT:
            strong = signed > 0.5 * signed.max()
            rows, columns = np.flatnonzero(strong.any(axis=1)), np.flatnonzero(strong.any(axis=0))
            yield x0 + int(columns[0]), y0 + int(rows[0]), x0 + int(columns[-1]) + 1, y0 + int(rows[-1]) + 1


def _likeness(pixels: UInt8[np.ndarray, "rows columns"], edges: tuple[int, int, int, int]) -> float:
    x0, y0, x1, y1 = edges
    shapes, templates = _templates()
    fitting = np.abs(np.log((x1 - x0) / (y1 - y0) / shapes)) < _STRETCH
    crops = [
        pixels[max(0, y0 + up) : y1 + down, max(0, x0 + left) : x1 + right]
        for left, right, up, down in _SHIFTS
        if y1 + down - y0 - up > 1 and x1 + right - x0 - left > 1
    ]
    if not fitting.any() or not crops:
        return 0.0
    return float(np.abs(np.stack([_normed(crop) for crop in crops]) @ templates[fitting].T).max())


@cache
def _templates() -> tuple[Float[np.ndarray, "template"], Float32[np.ndarray, "template pixel"]]:
    """Width over height of each drawn word, and its normed picture."""
    font = ImageFont.load_default(_FONT_PX)
    shapes, pictures = [], []
    for word, bold in itertools.product(WORDS, _BOLD_PX):
        left, top, right, bottom = font.getbbox(word)
        canvas = Image.new("L", (int(right - left) + 2 * bold, int(bottom - top) + 2 * bold))
        ImageDraw.Draw(canvas).text((bold - left, bold - top), word, fill=255, font=font, stroke_width=bold)
        shapes.append(canvas.width / canvas.height)
        pictures.append(_normed(cv2.GaussianBlur(np.asarray(canvas), (0, 0), 3)))
    return np.array(shapes), np.stack(pictures)


def _normed(picture: UInt8[np.ndarray, "rows columns"]) -> Float32[np.ndarray, "pixel"]:
    """The picture in the common size, with mean 0 and length 1."""
    small = cv2.resize(picture, (_COLUMNS, _ROWS), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
    centred = small - small.mean()
    normed: np.ndarray = centred / max(float(np.linalg.norm(centred)), 1e-6)
    return normed
