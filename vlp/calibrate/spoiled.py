"""Pictures a gate must learn to refuse: films spoiled on purpose, and drawings of things that are no chest.

Nothing here needs another data set.  The drawings are meant to be many and general, not lifelike: a gate that was
fitted on them is measured on kinds of pictures that are not among them (`benchmarks/gate.py`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import cv2
import numpy as np
from jaxtyping import UInt8

from vlp.inference.gate import Reason

Pixels: TypeAlias = UInt8[np.ndarray, "rows columns"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoiling:
    """One way to spoil a film, and what a gate should say of the result."""

    reason: Reason
    change: Callable[[Pixels, np.random.Generator], Pixels]


def exposed(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """A film as good as `pixels`: a little otherwise exposed, turned by a few degrees, shifted, enlarged or cropped."""
    rows, columns = pixels.shape
    matrix = cv2.getRotationMatrix2D((columns / 2, rows / 2), rng.uniform(-5, 5), rng.uniform(0.96, 1.1))
    matrix[:, 2] += rng.uniform(-0.03, 0.03, size=2) * (columns, rows)
    moved = cv2.warpAffine(pixels, matrix, (columns, rows), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    gamma, gain, offset = np.exp(rng.uniform(-0.3, 0.3)), rng.uniform(0.85, 1.1), rng.uniform(-0.05, 0.05)
    table = (np.linspace(0, 1, 256) ** gamma * gain + offset) * 255
    return np.asarray(np.clip(table, 0, 255).astype(np.uint8)[moved])


def whitened(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """A film that is as good, with one lung or both white: a large effusion must never be refused for missing lungs."""
    sides = ((-1,), (1,), (-1, 1))[rng.integers(3)]
    shape = pixels.shape
    if rng.random() < 0.5:
        cover = _rising(shape, sides, rng)
    else:
        cover = np.max([_lung(shape, side, rng) for side in sides], axis=0)
    white = np.maximum(pixels, np.percentile(pixels, rng.uniform(75, 95)))
    return np.asarray((pixels * (1 - cover) + white * cover).astype(np.uint8))


def _rising(shape: tuple[int, int], sides: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """How much is covered by something that fills the chest from its base, with a soft upper edge."""
    across = np.linspace(-1, 1, shape[1])
    shade = np.ones(shape[1]) if len(sides) == 2 else 1 / (1 + np.exp(-sides[0] * across / 0.05))
    level, softness = rng.uniform(0.0, 0.7), rng.uniform(0.02, 0.1)
    down = 1 / (1 + np.exp(-(np.linspace(0, 1, shape[0]) - level) / softness))
    margin = np.clip((1 - np.abs(across)) / 0.15, 0, 1)
    return rng.uniform(0.6, 0.95) * down[:, None] * shade * margin


def _lung(shape: tuple[int, int], side: int, rng: np.random.Generator) -> np.ndarray:
    """How much is covered by a white lung: an oval with a flat base about where one is; its edge may be sharp."""
    x = (0.5 + side * rng.uniform(0.17, 0.27)) * shape[1]
    y = rng.uniform(0.4, 0.55) * shape[0]
    axes = (max(1, int(rng.uniform(0.11, 0.21) * shape[1])), max(1, int(rng.uniform(0.25, 0.45) * shape[0])))
    cover = np.zeros(shape, dtype=np.float32)
    cv2.ellipse(cover, (int(x), int(y)), axes, side * rng.uniform(0, 12), 0, 360, 1.0, -1)
    cover[int(y + rng.uniform(0.4, 1.0) * axes[1]) :] = 0.0
    softened = cv2.GaussianBlur(cover, (0, 0), max(shape) * rng.choice((0.002, 0.01, 0.03)) + 0.1)
    return np.asarray(np.minimum(1.0, rng.uniform(0.8, 1.3) * softened))


def inverted(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Bone dark and air bright."""
    return np.asarray(255 - pixels)


def turned(quarters: int) -> Callable[[Pixels, np.random.Generator], Pixels]:
    """What turns a film by quarters counter-clockwise."""
    return lambda pixels, rng: np.ascontiguousarray(np.rot90(pixels, quarters))


def mirrored(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Left and right exchanged."""
    return np.ascontiguousarray(pixels[:, ::-1])


def cut(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """A part of the film: 35 to 60 percent of one side, or 35 to 65 of both."""
    kept = [1.0, 1.0]
    sides = ((0,), (1,), (0, 1))[rng.integers(3)]
    for side in sides:
        kept[side] = rng.uniform(0.35, 0.6 if len(sides) == 1 else 0.65)
    sizes = [max(8, round(share * length)) for share, length in zip(kept, pixels.shape, strict=True)]
    top, left = (int(rng.integers(length - size + 1)) for length, size in zip(pixels.shape, sizes, strict=True))
    return np.ascontiguousarray(pixels[top : top + sizes[0], left : left + sizes[1]])


def scrambled(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """The film's spectrum with the phases of noise: its texture without its shapes."""
    phases = np.angle(np.fft.rfft2(rng.standard_normal(pixels.shape)))
    values = np.fft.irfft2(np.abs(np.fft.rfft2(pixels.astype(np.float64))) * np.exp(1j * phases), s=pixels.shape)
    return _stretched(values)


def shuffled(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """The film cut into squares that were put back in another order: its greys without its anatomy."""
    number = int(rng.integers(2, 6))
    rows, columns = (length // number for length in pixels.shape)
    if not (rows and columns):
        return pixels
    tiles = pixels[: rows * number, : columns * number].reshape(number, rows, number, columns).swapaxes(1, 2)
    mixed = tiles.reshape(-1, rows, columns)[rng.permutation(number**2)]
    return np.ascontiguousarray(
        mixed.reshape(number, number, rows, columns).swapaxes(1, 2).reshape(rows * number, columns * number)
    )


SPOILINGS: Mapping[str, Spoiling] = MappingProxyType(
    {
        "inverted": Spoiling(reason="inverted_polarity", change=inverted),
        "turned by 90 degrees": Spoiling(reason="rotated", change=turned(1)),
        "turned by 180 degrees": Spoiling(reason="rotated", change=turned(2)),
        "turned by 270 degrees": Spoiling(reason="rotated", change=turned(3)),
        "cut off": Spoiling(reason="cut_off", change=cut),
        "mirrored": Spoiling(reason="mirrored", change=mirrored),
        "scrambled": Spoiling(reason="not_chest_radiograph", change=scrambled),
        "shuffled": Spoiling(reason="not_chest_radiograph", change=shuffled),
    }
)
"""By the name of the kind."""

Draw: TypeAlias = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]
"""(generator, (rows, columns)) -> greys of any range; `drawn` stretches them."""


def drawn(kind: str, rng: np.random.Generator) -> Pixels:
    """A picture of one of `DRAWINGS`, of a random size and range of greys."""
    side = int(rng.integers(160, 320))
    rows, columns = side, max(96, round(side * rng.uniform(0.75, 1.3)))
    picture = _stretched(DRAWINGS[kind](rng, (rows, columns)))
    if rng.random() < 0.3:
        picture = 255 - picture
    low, high = rng.uniform(0, 0.25), rng.uniform(0.7, 1.0)
    return np.asarray((picture * (high - low) + 255 * low).astype(np.uint8))


def _noise(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    coarse = int(rng.integers(1, 5))
    grain = rng.standard_normal((-(-shape[0] // coarse), -(-shape[1] // coarse)))
    return cv2.resize(grain, shape[::-1], interpolation=cv2.INTER_NEAREST)


def _clouds(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Noise whose spectrum falls as a power of frequency, as that of natural scenes does."""
    down, across = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])
    frequency = np.hypot(down * rng.uniform(0.4, 2.5), across)
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal(shape)) * frequency ** -rng.uniform(0.7, 2.2)
    return np.fft.irfft2(spectrum, s=shape)


def _gradient(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    down, across = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    angle = rng.uniform(0, 2 * np.pi)
    if rng.random() < 0.5:
        return np.cos(angle) * down + np.sin(angle) * across
    return np.hypot((down - rng.uniform(-0.7, 0.7)) * rng.uniform(0.6, 1.6), across - rng.uniform(-0.7, 0.7))


def _stripes(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    down, across = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    angle, pitch = rng.uniform(0, np.pi), rng.uniform(3, 60)
    wave = np.sin(pitch * (np.cos(angle) * down + np.sin(angle) * across) + rng.uniform(0, 6))
    if rng.random() < 0.5:  # crossed: a chequered pattern
        wave = wave * np.sin(pitch * (np.sin(angle) * down - np.cos(angle) * across))
    return np.sign(wave) if rng.random() < 0.5 else wave


def _shapes(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    picture = np.full(shape, rng.uniform(0, 255), dtype=np.float32)
    for _ in range(int(rng.integers(2, 25))):
        centre = (int(rng.integers(shape[1])), int(rng.integers(shape[0])))
        axes = tuple(int(length) for length in rng.integers(4, max(shape) // 2, size=2))
        grey, angle = rng.uniform(0, 255), rng.uniform(0, 180)
        if rng.random() < 0.5:
            cv2.ellipse(picture, centre, axes, angle, 0, 360, grey, -1)
        else:
            corners = cv2.boxPoints((centre, axes, angle)).astype(np.int32)
            cv2.fillPoly(picture, [corners], grey)
    return picture


def _writing(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    picture = np.full(shape, 255, dtype=np.uint8)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz     ABCDEFGHIJ0123456789.,"))
    scale = rng.uniform(0.25, 1.2)
    step = int(14 + 26 * scale)
    for row in range(step, shape[0], step):
        if rng.random() < 0.15:
            continue
        line = "".join(rng.choice(letters, size=int(rng.integers(4, 80))))
        cv2.putText(picture, line, (int(rng.integers(2, 30)), row), int(rng.integers(0, 4)), scale, 0, 1)
    return picture


def _body(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Soft bright objects with brighter parts on a dark ground, as other body parts look from far away."""
    picture = np.zeros(shape, dtype=np.float32)
    for _ in range(int(rng.integers(1, 4))):
        centre = np.array([rng.uniform(0.25, 0.75) * shape[1], rng.uniform(0.25, 0.75) * shape[0]])
        axes = np.array([rng.uniform(0.06, 0.45) * shape[1], rng.uniform(0.15, 0.6) * shape[0]])
        angle, grey = rng.uniform(0, 180), rng.uniform(60, 140)
        for shrink in (1.0, *rng.uniform(0.15, 0.8, size=int(rng.integers(0, 3)))):
            part = np.zeros(shape, dtype=np.float32)
            place = centre + rng.uniform(-0.3, 0.3, size=2) * axes * (shrink < 1)
            size = tuple(int(max(1, length)) for length in axes * shrink)
            cv2.ellipse(part, (int(place[0]), int(place[1])), size, angle, 0, 360, 1.0, -1)
            picture += part * grey * (1.0 if shrink == 1.0 else rng.uniform(-0.6, 0.9))
    softened = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.5, 4.0))
    return np.clip(softened, 0, None) + rng.uniform(0, 8) * rng.standard_normal(shape)


def _limbs(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Bars with bright edges in softer ones, at any angle, on a dark ground: long bones, wherever they may be."""
    picture = np.zeros(shape, dtype=np.float32)
    for _ in range(int(rng.integers(1, 7))):
        start, reach = rng.uniform(0, 1, size=2) * shape[::-1], rng.uniform(0.3, 1.2) * max(shape)
        angle, width = rng.uniform(0, 2 * np.pi), rng.uniform(0.02, 0.2) * min(shape)
        end = start + reach * np.array([np.cos(angle), np.sin(angle)])
        first, last = ((int(x), int(y)) for x, y in (start, end))
        for share, grey in ((rng.uniform(1.5, 3.0), rng.uniform(20, 70)), (1.0, rng.uniform(60, 120)), (0.6, -25.0)):
            part = np.zeros(shape, dtype=np.float32)
            cv2.line(part, first, last, 1.0, max(1, int(share * width)))
            picture = np.maximum(picture, part * grey) if share > 1 else picture + part * grey
    softened = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.5, 3.0))
    return np.clip(softened, 0, None) + rng.uniform(0, 6) * rng.standard_normal(shape)


def _scene(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Things before a ground, lit from somewhere, each with a texture of its own, as on a photograph."""
    picture = _unit(_clouds(rng, shape)) + rng.uniform(0, 2) * _unit(_gradient(rng, shape))
    for _ in range(int(rng.integers(1, 8))):
        where = _unit(_shapes(rng, shape)) > rng.uniform(0.4, 0.9)
        texture = _unit((_clouds, _stripes, _noise)[rng.integers(3)](rng, shape))
        picture = np.where(where, rng.uniform(-1, 2) + rng.uniform(0.1, 1) * texture, picture)
    return cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 1.5))


DRAWINGS: Mapping[str, Draw] = MappingProxyType(
    {
        "noise": _noise,
        "clouds": _clouds,
        "gradient": _gradient,
        "stripes": _stripes,
        "shapes": _shapes,
        "writing": _writing,
        "body": _body,
        "limbs": _limbs,
        "scene": _scene,
    }
)
"""By the name of the kind; all of them are no chest."""


def _unit(values: np.ndarray) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    scaled: np.ndarray = (values - low) / max(high - low, 1e-9)
    return scaled


def _stretched(values: np.ndarray) -> Pixels:
    return np.asarray((255 * _unit(values)).astype(np.uint8))
