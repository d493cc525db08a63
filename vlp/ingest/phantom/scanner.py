"""From line integrals to the picture a radiologist sees: Beer-Lambert, scatter, noise, tone curve, borders, letters."""

from dataclasses import dataclass

import cv2
import numpy as np

from vlp.ingest.phantom.truth import Exposure, Projection


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """What one machine and its software do to a picture."""

    photons: float
    """Quanta per pixel (at 256 px) where nothing is in the beam."""
    scatter: float
    """Scattered over primary radiation, as a share of the local mean."""
    blur: float
    """Detector blur, pixels at 256."""
    sharpen: float
    """Unsharp masking of fine detail."""
    flatten: float
    """0 ... 1: how much of the coarse structure the dynamic range compression takes away."""
    gamma: float
    low: float
    """Share of the range given away below the lungs (larger: brighter lungs)."""
    shutter: float
    """Typical width of the collimation border, share of the picture; 0: none."""


STYLES: tuple[Style, ...] = (
    Style(photons=4e4, scatter=0.10, blur=0.55, sharpen=0.25, flatten=0.30, gamma=1.00, low=0.10, shutter=0.00),
    Style(photons=1.5e4, scatter=0.16, blur=0.75, sharpen=0.50, flatten=0.42, gamma=0.90, low=0.06, shutter=0.015),
    Style(photons=8e4, scatter=0.08, blur=0.45, sharpen=0.10, flatten=0.20, gamma=1.12, low=0.14, shutter=0.00),
    Style(photons=1e4, scatter=0.22, blur=0.90, sharpen=0.35, flatten=0.38, gamma=1.05, low=0.16, shutter=0.03),
    Style(photons=3e4, scatter=0.12, blur=0.65, sharpen=0.70, flatten=0.50, gamma=0.95, low=0.08, shutter=0.02),
)


def expose(integrals: np.ndarray, exposure: Exposure, *, view: Projection) -> np.ndarray:
    """uint8 picture [rows columns], bone bright, of line integrals [rows columns] (dimensionless).

    All chance comes from the exposure's seed and the view, so the same exposure of another body has the same noise.
    """
    style = STYLES[exposure.scanner % len(STYLES)]
    rng = np.random.Generator(np.random.PCG64([exposure.seed, len(view)]))
    size = integrals.shape[0]
    quantum = rng.standard_normal(size=integrals.shape, dtype=np.float32)
    primary = np.exp(-integrals)
    received = primary + style.scatter * coarse(primary, radius=size * 0.09)
    signal = -np.log(np.maximum(received, 1e-7))
    # Poisson noise of N quanta is, in the logarithm, close to Gaussian with variance 1 / N.
    fluence = style.photons * (256 / size) ** 2
    noise = quantum / np.sqrt(fluence * received + 1.0)
    signal = cv2.GaussianBlur(signal + noise, (0, 0), max(style.blur * size / 256, 0.3))
    picture = _tone(signal, style)
    _shutter(picture, style, rng)
    pixels = np.clip(np.rint(picture * 255), 0, 255).astype(np.uint8)
    _letters(pixels, exposure, rng, view=view)
    return pixels


def coarse(picture: np.ndarray, *, radius: float) -> np.ndarray:
    """`picture` with everything finer than `radius` pixels smoothed away; done on an eighth of the grid."""
    rows, columns = picture.shape
    small = cv2.resize(picture, (max(columns // 8, 4), max(rows // 8, 4)), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), max(radius / 8, 0.5), borderType=cv2.BORDER_REPLICATE)
    return cv2.resize(small, (columns, rows), interpolation=cv2.INTER_LINEAR)


def _tone(signal: np.ndarray, style: Style) -> np.ndarray:
    """Compression, sharpening, window from the histogram, and an S-shaped curve; in [0, 1]."""
    size = signal.shape[0]
    exposed = np.clip(signal / 0.4, 0, 1)
    signal = signal - style.flatten * (coarse(signal, radius=size * 0.10) - float(signal.mean()))
    if style.sharpen:
        signal = signal + style.sharpen * (signal - cv2.GaussianBlur(signal, (0, 0), 2.2 * size / 256))
    body = signal[size // 8 : -size // 8 : 2, size // 8 : -size // 8 : 2]
    lungs, dense = (float(value) for value in np.percentile(body[body > 0.5], (15, 92)))
    # The window follows the picture only in part: what whitens one lung must not darken the other.
    span = 0.65 * (3.05 - 1.65 * style.flatten) + 0.35 * 1.27 * (dense - lungs)
    dark = dense - 0.88 * span
    level = (signal - (dark - (0.06 + style.low) * span)) / (span * (1.20 + style.low))
    level = np.clip(level, 0, 1.25) ** style.gamma
    # A shoulder: what is brighter than the window runs into white gently.
    level = np.where(level < 0.8, level, 0.8 + 0.2 * np.tanh((level - 0.8) / 0.2))
    return (level * exposed).astype(np.float32)


def _shutter(picture: np.ndarray, style: Style, rng: np.random.Generator) -> None:
    """Blackens what the collimator kept from the beam, each border on its own."""
    size = picture.shape[0]
    widths = np.rint(rng.uniform(0, 2, size=4) * style.shutter * size).astype(int)
    for edge, width in enumerate(widths):
        if width > 0:
            strip = (slice(0, width), slice(size - width, size))[edge % 2]
            picture[(strip, slice(None)) if edge < 2 else (slice(None), strip)] = 0.02


def _letters(pixels: np.ndarray, exposure: Exposure, rng: np.random.Generator, *, view: Projection) -> None:
    """The side marker (the patient's left is on the right of a frontal picture) and the site's own mark."""
    size = pixels.shape[0]
    letter = "L" if view == "lateral" or rng.uniform() < 0.6 else "R"
    across = rng.uniform(0.88, 0.92) if letter == "L" else rng.uniform(0.05, 0.09)
    down = rng.uniform(0.07, 0.13)
    if exposure.marker:
        place = (round(across * size), round(down * size))
        stroke = max(round(size / 128), 1)
        cv2.putText(pixels, letter, place, cv2.FONT_HERSHEY_SIMPLEX, size / 420, 250, stroke, cv2.LINE_AA)
    if exposure.site_marker:
        side = max(round(size * 0.05), 4)
        edge = max(round(size * 0.02), 1)
        pixels[size - edge - side : size - edge, edge : edge + side] = 15
        cv2.circle(pixels, (edge + side // 2, size - edge - side // 2 - 1), max(side // 3, 1), 245, -1, cv2.LINE_AA)
