"""Example pictures: a radiograph with its true region, and with the similarity map over it."""

import os
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

SIDE_PX = 448
"""Longer side of a picture in the report."""
THUMBNAIL_PX = 192
_TRUTH_COLOUR = (34, 211, 238)
_PEAK_COLOUR = (255, 255, 255)
_STRONGEST = 0.62
"""Opacity of the map at its highest value; at its lowest the radiograph shows unveiled."""


def radiograph(pixels: UInt8[np.ndarray, "rows columns"], *, side_px: int = SIDE_PX) -> UInt8[np.ndarray, "h w 3"]:
    """The image as RGB with the given longer side."""
    grey: np.ndarray = cv2.resize(pixels, _size(pixels.shape, side_px), interpolation=cv2.INTER_AREA)
    return np.repeat(grey[..., None], 3, axis=2)


def outlined(
    picture: UInt8[np.ndarray, "h w 3"], truth: Bool[np.ndarray, "rows columns"] | None
) -> UInt8[np.ndarray, "h w 3"]:
    """The picture with the region's outline; unchanged where there is no region."""
    drawn = picture.copy()
    if truth is None:
        return drawn
    scaled = cv2.resize(truth.astype(np.uint8), drawn.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(scaled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(drawn, contours, -1, (0, 0, 0), thickness=4, lineType=cv2.LINE_AA)
    cv2.drawContours(drawn, contours, -1, _TRUTH_COLOUR, thickness=2, lineType=cv2.LINE_AA)
    return drawn


def overlaid(
    picture: UInt8[np.ndarray, "h w 3"], values: Float[np.ndarray, "rows columns"], peak: tuple[float, float] | None
) -> UInt8[np.ndarray, "h w 3"]:
    """The picture under a map, transparent at the map's minimum, with a cross at (x, y) of its peak.

    Pixels the model never saw (NaN) stay unveiled.
    """
    height, width = picture.shape[:2]
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    share = (np.nan_to_num(values, nan=low) - low) / max(high - low, 1e-9)
    scaled = cv2.resize(share.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR).clip(0.0, 1.0)
    colours = cv2.applyColorMap((scaled * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    opacity = (_STRONGEST * scaled**1.5)[..., None]
    drawn = np.ascontiguousarray((picture * (1 - opacity) + colours * opacity).round().astype(np.uint8))
    if peak is not None:
        x, y = int(peak[0] * width / values.shape[1]), int(peak[1] * height / values.shape[0])
        for colour, thickness in (((0, 0, 0), 5), (_PEAK_COLOUR, 2)):
            cv2.drawMarker(drawn, (x, y), colour, cv2.MARKER_CROSS, markerSize=18, thickness=thickness)
    return drawn


def write_png(picture: UInt8[np.ndarray, "h w 3"], path: Path) -> None:
    """Writes the whole file or nothing."""
    done, content = cv2.imencode(".png", np.ascontiguousarray(picture[..., ::-1]))
    assert done
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_bytes(content.tobytes())
    os.replace(temporary, path)


def _size(shape: tuple[int, ...], side_px: int) -> tuple[int, int]:
    rows, columns = shape
    scale = side_px / max(rows, columns)
    return max(1, round(columns * scale)), max(1, round(rows * scale))
