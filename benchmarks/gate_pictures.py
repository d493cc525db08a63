"""Pictures that are no chest radiograph, of kinds that no gate is fitted on: drawn here, or real ones at hand."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels: TypeAlias = NDArray[np.uint8]
Generator: TypeAlias = np.random.Generator
LEG = Path("dicom") / "reject_cr_extremity_j2k.dcm"
PYDICOM_FILES = (
    "693_J2KI.dcm", "CT_small.dcm", "J2K_pixelrep_mismatch.dcm", "MR_small.dcm", "JPEG2000.dcm", "examples_jpeg2k.dcm",
    "examples_overlay.dcm", "examples_palette.dcm", "examples_ybr_color.dcm",
)  # fmt: skip


def _stretched(values: np.ndarray) -> Pixels:
    low, high = np.percentile(values.astype(np.float64), (0.5, 99.5))
    return np.asarray((255 * np.clip((values - low) / max(high - low, 1e-9), 0, 1)).astype(np.uint8))


def _size(rng: Generator) -> tuple[int, int]:
    side = int(rng.integers(200, 360))
    return side, max(120, round(side * rng.uniform(0.75, 1.3)))


def _part(picture: Pixels, rng: Generator, smallest: float) -> Pixels:
    """A random part of a picture, otherwise exposed, and at least 128 pixels wide and high."""
    share = rng.uniform(smallest, 1.0)
    rows, columns = (max(8, round(side * share)) for side in picture.shape)
    top, left = rng.integers(picture.shape[0] - rows + 1), rng.integers(picture.shape[1] - columns + 1)
    part = picture[top : top + rows, left : left + columns]
    table = (255 * np.linspace(0, 1, 256) ** np.exp(rng.uniform(-0.3, 0.3))).astype(np.uint8)
    larger = max(1.0, 128 / min(part.shape))
    return np.asarray(table[cv2.resize(part, None, fx=larger, fy=larger, interpolation=cv2.INTER_LINEAR)])


def _cells(rng: Generator) -> Pixels:
    rows, columns = _size(rng)
    number = int(rng.integers(20, 200))
    points, greys = rng.uniform(0, 1, (number, 2)) * (rows, columns), rng.integers(0, 256, number)
    down, across = np.mgrid[:rows:2, :columns:2]
    nearest = ((down[..., None] - points[:, 0]) ** 2 + (across[..., None] - points[:, 1]) ** 2).argmin(axis=-1)
    return np.asarray(cv2.resize(greys[nearest].astype(np.uint8), (columns, rows), interpolation=cv2.INTER_NEAREST))


def _wood(rng: Generator) -> Pixels:
    rows, columns = _size(rng)
    down, across = np.mgrid[:rows, :columns] / 100.0
    grain = cv2.GaussianBlur(rng.standard_normal((rows, columns)), (0, 0), 12) * 6
    rings = np.hypot(across - rng.uniform(-2, 4), (down - rng.uniform(-6, 6)) * rng.uniform(0.05, 0.4))
    return _stretched(np.sin(rng.uniform(6, 30) * rings + grain) + 0.2 * rng.standard_normal((rows, columns)))


WORDS = (
    "the",
    "patient",
    "was",
    "referred",
    "for",
    "history",
    "date",
    "number",
    "total",
    "invoice",
    "please",
    "signed",
)


def _form(rng: Generator) -> Pixels:
    """A scanned form: printed lines and tables, a little askew, unevenly lit."""
    rows, columns = (3 * side for side in _size(rng))
    page = np.full((rows, columns), int(rng.integers(225, 256)), dtype=np.uint8)
    scale, row = rng.uniform(0.5, 1.1), 50
    while row < rows - 50:
        if rng.random() < 0.12:
            height = int(rng.integers(40, 160))
            for column in np.linspace(40, columns - 40, 5).astype(int)[:-1]:
                cv2.rectangle(page, (int(column), row), (columns - 40, row + height), 30, 2)
            row += height + 40
        line = " ".join(rng.choice(WORDS, int(rng.integers(3, 14))))
        cv2.putText(page, line, (40, row), cv2.FONT_HERSHEY_COMPLEX, scale, int(rng.integers(0, 60)), 1, cv2.LINE_AA)
        row += int(42 * scale)
    lit = (page * np.linspace(rng.uniform(0.7, 1), 1, columns)).astype(np.uint8)
    askew = cv2.getRotationMatrix2D((columns / 2, rows / 2), rng.uniform(-3, 3), 1)
    scan = cv2.warpAffine(lit, askew, (columns, rows), borderValue=int(rng.integers(0, 120)))
    return np.asarray(cv2.resize(scan, None, fx=1 / 3, fy=1 / 3, interpolation=cv2.INTER_AREA))


def _chart(rng: Generator) -> Pixels:
    rows, columns = _size(rng)
    page = np.full((rows, columns), 255, dtype=np.uint8)
    cv2.polylines(page, [np.array([(25, 10), (25, rows - 20), (columns - 10, rows - 20)])], False, 0, 1)
    if rng.random() < 0.5:
        across = np.arange(30, columns - 10)
        for _ in range(int(rng.integers(1, 5))):
            curve = np.cumsum(rng.standard_normal(len(across)) * 3) + rows / 2
            points = np.stack((across, curve), axis=1).astype(np.int32)
            cv2.polylines(page, [points], False, int(rng.integers(0, 150)), int(rng.integers(1, 3)), cv2.LINE_AA)
        return page
    edges = np.linspace(30, columns - 15, int(rng.integers(4, 13))).astype(int)
    for left, right in pairwise(edges):
        top = int(rng.uniform(15, rows - 25))
        cv2.rectangle(page, (int(left), top), (int(right) - 4, rows - 21), int(rng.integers(40, 200)), -1)
    return page


def _handwriting(rng: Generator) -> Pixels:
    from sklearn.datasets import load_digits

    digits, number = load_digits().images, int(rng.integers(1, 6))
    rows = [np.hstack([digits[rng.integers(len(digits))] for _ in range(number)]) for _ in range(number)]
    ink = _stretched(cv2.resize(np.vstack(rows), _size(rng)[::-1], interpolation=cv2.INTER_LINEAR))
    return ink if rng.random() < 0.5 else np.asarray(255 - ink)


def _code(rng: Generator) -> Pixels:
    rows, columns = _size(rng)
    if rng.random() < 0.5:
        bars = np.repeat(rng.integers(0, 2, columns) * 255, rng.integers(1, 5, columns))[:columns]
        page = np.tile(bars, (rows, 1)).astype(np.uint8)
        page[: rows // 8], page[-rows // 6 :] = 255, 255
        return page
    number = int(rng.integers(15, 40))
    squares = (rng.integers(0, 2, (number, number)) * 255).astype(np.uint8)
    return np.asarray(cv2.resize(squares, (columns, rows), interpolation=cv2.INTER_NEAREST))


def _screen(rng: Generator) -> Pixels:
    rows, columns = _size(rng)
    page = np.full((rows, columns), int(rng.integers(0, 255)), dtype=np.uint8)
    for _ in range(int(rng.integers(1, 6))):
        left, top = int(rng.integers(columns - 60)), int(rng.integers(rows - 60))
        right, bottom = left + int(rng.integers(50, columns)), top + int(rng.integers(50, rows))
        cv2.rectangle(page, (left, top), (right, bottom), int(rng.integers(150, 255)), -1)
        cv2.rectangle(page, (left, top), (right, top + 12), int(rng.integers(0, 120)), -1)
        for row in range(top + 24, min(bottom, rows) - 6, 11):
            cv2.putText(page, "menu item file view"[: int(rng.integers(4, 19))], (left + 6, row), 0, 0.32, 20, 1)
    return page


def _fractal(rng: Generator) -> Pixels:
    rows, columns = _size(rng)
    constant = complex(rng.uniform(-0.9, 0.4), rng.uniform(-0.8, 0.8))
    point = np.linspace(-1.5, 1.5, columns) + 1j * np.linspace(-1.5, 1.5, rows)[:, None]
    steps = np.zeros((rows, columns))
    for _ in range(40):
        inside = np.abs(point) < 4
        point[inside] = point[inside] ** 2 + constant
        steps += inside
    return _stretched(steps)


class _Body:
    """Soft tissue and bones on a dark ground, to draw radiographs of other parts of the body."""

    def __init__(self, rows: int, columns: int, rng: Generator) -> None:
        self.bones, self.tissue = (np.zeros((rows, columns), dtype=np.float32) for _ in range(2))
        self._rng = rng

    def bone(self, start: Sequence[float], end: Sequence[float], width: float, grey: float = 110.0) -> None:
        """A long bone with a marrow and round ends."""
        ends = [(int(x), int(y)) for x, y in (start, end)]
        cv2.line(self.bones, *ends, grey, max(1, int(width)), cv2.LINE_AA)
        cv2.line(self.bones, *ends, 0.65 * grey, max(1, int(width / 2)), cv2.LINE_AA)
        for point in ends:
            cv2.circle(self.bones, point, int(0.75 * width), grey, -1, cv2.LINE_AA)

    def oval(
        self, layer: np.ndarray, centre: Sequence[float], axes: Sequence[float], grey: float, turn: int = 0
    ) -> None:
        """A filled oval of one grey."""
        (x, y), (across, down) = centre, axes
        cv2.ellipse(layer, (int(x), int(y)), (int(across), int(down)), turn, 0, 360, grey, -1)

    def film(self) -> Pixels:
        """The picture, blurred and with grain."""
        rng = self._rng
        film = cv2.GaussianBlur(self.bones + cv2.GaussianBlur(self.tissue, (0, 0), 4), (0, 0), rng.uniform(0.8, 2))
        grain = cv2.GaussianBlur(rng.standard_normal(film.shape), (0, 0), 1)
        return _stretched(np.clip(film + rng.uniform(1, 6) * grain, 0, 255))


def _hand(rng: Generator) -> Pixels:
    body, wrist = _Body(320, 260, rng), np.array([130.0, 255.0])
    for finger, angle in enumerate(np.radians([-125, -105, -90, -76, -45]) + rng.uniform(-0.05, 0.05)):
        reach = np.array([np.cos(angle), np.sin(angle)]) * (140 if finger == 4 else 200) * rng.uniform(0.9, 1.05)
        for start, end in ((0.2, 0.5), (0.54, 0.75), (0.78, 0.92), (0.94, 1.0)):
            body.bone(wrist + reach * start, wrist + reach * end, 8 - 3 * start)
            body.oval(body.tissue, wrist + reach * (start + end) / 2, (15, 34), 70, int(np.degrees(angle)) + 90)
    for _ in range(8):
        body.oval(body.bones, wrist + rng.uniform(-25, 25, 2) * (1, 0.5), (9, 9), 100)
    body.bone(wrist + np.array((-14, 10)), (114, 320), 16)
    body.bone(wrist + np.array((14, 10)), (146, 320), 13)
    body.oval(body.tissue, wrist + np.array((0, 20)), (55, 90), 70)
    return body.film()


def _skull(rng: Generator) -> Pixels:
    body, x, y = _Body(300, 250, rng), 125 + rng.uniform(-10, 10), 126.0
    across, down = 250 * rng.uniform(0.33, 0.4), 300 * rng.uniform(0.32, 0.38)
    body.oval(body.bones, (x, y), (across, down), 150)
    body.oval(body.bones, (x, y), (across - 9, down - 9), 95)
    body.oval(body.bones, (x, y + 0.85 * down), (0.6 * across, 0.5 * down), 130)
    for side in (-1, 1):
        body.oval(body.bones, (x + side * 0.42 * across, y + 0.35 * down), (0.25 * across, 0.25 * across), 55)
    body.oval(body.bones, (x, y + 0.7 * down), (0.13 * across, 0.2 * down), 50)
    body.oval(body.tissue, (x, y + 40), (across + 14, down + 60), 40)
    return body.film()


def _knee(rng: Generator) -> Pixels:
    columns = int(rng.integers(160, 260))
    body, x, width = _Body(320, columns, rng), columns / 2 + rng.uniform(-15, 15), columns * rng.uniform(0.16, 0.22)
    body.bone((x, -20), (x + rng.uniform(-8, 8), 134), width)
    body.bone((x, 186), (x + rng.uniform(-8, 8), 340), width)
    body.bone((x + 1.1 * width, 198), (x + width, 340), 0.35 * width)
    body.oval(body.bones, (x, 128), (0.6 * width, 0.6 * width), 130)
    cv2.rectangle(body.tissue, (int(0.12 * columns), 0), (int(0.88 * columns), 320), 60, -1)
    return body.film()


def _pelvis(rng: Generator) -> Pixels:
    body = _Body(260, 320, rng)
    body.tissue += 75
    for side in (-1, 1):
        body.oval(body.bones, (160 + side * 74, 86), (48, 65), 75, side * 25)
        body.oval(body.bones, (160 + side * 96, 156), (24, 24), 110)
        body.bone((160 + side * 96, 161), (160 + side * 122, 280), 26)
        body.oval(body.bones, (160 + side * 42, 192), (28, 20), 60)
    body.oval(body.bones, (160, 78), (30, 60), 80)
    for _ in range(5):
        place = (int(rng.integers(320)), int(rng.integers(130)))
        body.oval(body.tissue, place, (int(rng.integers(10, 30)),) * 2, 50)
    return body.film()


@cache
def _photographs() -> tuple[Pixels, ...]:
    import matplotlib
    import sklearn

    bundled = Path(sklearn.__file__).parent / "datasets" / "images"
    hopper = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    found = [_grey(path) for path in (bundled / "china.jpg", bundled / "flower.jpg", hopper)]
    return tuple(picture for picture in found if picture is not None)


@cache
def _terrain() -> tuple[Pixels, ...]:
    """A height map of matplotlib's, as heights and as slopes."""
    import matplotlib

    with np.load(Path(matplotlib.get_data_path()) / "sample_data" / "jacksboro_fault_dem.npz") as content:
        heights = content["elevation"].astype(np.float64)
    return tuple(_stretched(values) for values in (heights, *np.gradient(heights)))


@cache
def _dicom(files: tuple[Path, ...]) -> tuple[Pixels, ...]:
    import pydicom

    found = []
    for path in files:
        dataset = pydicom.dcmread(path, force=True)
        values = dataset.pixel_array.astype(np.float64)
        values = values[0] if values.ndim == 4 else values
        values = values.mean(axis=-1) if values.ndim == 3 else values
        found.append(_stretched(-values if dataset.PhotometricInterpretation == "MONOCHROME1" else values))
    return tuple(found)


def _grey(path: Path) -> Pixels | None:
    picture = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    return None if picture is None else np.asarray(picture, dtype=np.uint8)


def real_pictures(data: Path, folder: Path | None) -> dict[str, tuple[Pixels, ...]]:
    """Pictures that nobody drew, by kind; a kind without any is empty."""
    from pydicom.data import get_testdata_file

    files = [get_testdata_file(name, download=False) for name in PYDICOM_FILES]
    others = [] if folder is None else sorted(path for path in folder.iterdir() if path.is_file())
    leg = _dicom((data / LEG,)) if (data / LEG).is_file() else ()
    return {
        "photographs": _photographs(),
        "terrain": _terrain(),
        "CT, MR, ultrasound, scintigraphy": _dicom(tuple(Path(str(file)) for file in files if file)),
        "radiograph of a leg": tuple(
            cv2.resize(one, None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA) for one in leg
        ),
        "pictures of the folder": tuple(one for one in map(_grey, others) if one is not None),
    }


HELD_OUT: Mapping[str, Callable[[Generator], Pixels]] = {
    "drawn cells": _cells, "drawn wood": _wood, "scanned forms": _form, "charts": _chart, "digits": _handwriting,
    "codes and bars": _code, "screens": _screen, "fractals": _fractal, "drawn hands": _hand, "drawn skulls": _skull,
    "drawn knees": _knee, "drawn pelvises": _pelvis,
}  # fmt: skip


def parts(found: Sequence[Pixels], rng: Generator, number: int) -> list[Pixels]:
    """Random parts of the pictures in turn, `number` in all; none of none."""
    return [_part(found[index % len(found)], rng, 0.4) for index in range(number if found else 0)]
