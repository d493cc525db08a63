"""How well copies of a radiograph are found among others, and damage inside a JPEG is noticed.

    python -m benchmarks.duplicates [--data ../shared/data] [--images 300] [--page] [--json]

Frontal radiographs of `manifest.jsonl`.  A copy is found if `vlp shards duplicates` would call both one image: signs
close and middle frequencies alike.  False alarms: all pairs of different radiographs.  Damage: bytes changed at a
random place of a JPEG's image data, noticed if strict decoding refuses them.  `--page` rewrites the tables of
docs/explanation/shards.md.  Intervals are Wilson's, 95 %.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vlp import log
from vlp.cli.console import print_json, print_table
from vlp.data.duplicates import COARSE, FINE, SAME, alike, close_pairs, detail
from vlp.data.encoded import BadImageError, decode
from vlp.data.fingerprints import fingerprint, ranks, trimmed
from vlp.metrics.proportion import wilson

PAGE = Path(__file__).parents[1] / "docs" / "explanation" / "shards.md"
Pixels = NDArray[np.uint8]
Row = tuple[str, int, int]
"""What, found, of how many."""


def _jpeg(quality: int) -> Callable[[Pixels], Pixels]:
    def change(pixels: Pixels) -> Pixels:
        _, content = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
        return np.asarray(cv2.imdecode(content, cv2.IMREAD_GRAYSCALE), dtype=np.uint8)

    return change


def _sized(share: float) -> Callable[[Pixels], Pixels]:
    return lambda pixels: np.asarray(cv2.resize(pixels, None, fx=share, fy=share, interpolation=cv2.INTER_AREA))


def _levels(table: Callable[[np.ndarray], np.ndarray]) -> Callable[[Pixels], Pixels]:
    lookup = np.clip(table(np.arange(256.0)), 0, 255).astype(np.uint8)
    return lambda pixels: lookup[pixels]


def _turned(degrees: float) -> Callable[[Pixels], Pixels]:
    def change(pixels: Pixels) -> Pixels:
        rows, columns = pixels.shape
        matrix = cv2.getRotationMatrix2D((columns / 2, rows / 2), degrees, 1.0)
        return np.asarray(cv2.warpAffine(pixels, matrix, (columns, rows)))

    return change


def _cropped(share: float) -> Callable[[Pixels], Pixels]:
    def change(pixels: Pixels) -> Pixels:
        rows, columns = (round(side * share) for side in pixels.shape)
        return pixels[rows : pixels.shape[0] - rows, columns : pixels.shape[1] - columns]

    return change


def _padded(pixels: Pixels) -> Pixels:
    rows, columns = pixels.shape
    side = max(rows, columns) + 64
    square = np.zeros((side, side), dtype=np.uint8)
    top, left = (side - rows) // 2, (side - columns) // 2
    square[top : top + rows, left : left + columns] = pixels
    return square


COPIES: dict[str, Callable[[Pixels], Pixels]] = {
    "JPEG quality 50": _jpeg(50),
    "JPEG quality 20": _jpeg(20),
    "half the size": _sized(0.5),
    "a quarter of the size": _sized(0.25),
    "20 levels brighter": _levels(lambda grey: grey + 20),
    "more contrast": _levels(lambda grey: (grey - 128) * 1.2 + 128),
    "gamma 0.8": _levels(lambda grey: 255 * (grey / 255) ** 0.8),
    "histogram equalised": lambda pixels: np.asarray(cv2.equalizeHist(pixels)),
    "blurred by 2 pixels": lambda pixels: np.asarray(cv2.GaussianBlur(pixels, (0, 0), 2.0)),
    "padded to a square": _padded,
    "contrast made locally even (CLAHE)": lambda pixels: np.asarray(cv2.createCLAHE(2.0, (8, 8)).apply(pixels)),
    "turned by 1 degree": _turned(1.0),
    "turned by 2 degrees": _turned(2.0),
    "turned by 3 degrees": _turned(3.0),
    "cropped by 1 % on each side": _cropped(0.01),
    "cropped by 2 %": _cropped(0.02),
    "cropped by 5 %": _cropped(0.05),
    "inverted": lambda pixels: 255 - pixels,
    "mirrored": lambda pixels: np.ascontiguousarray(pixels[:, ::-1]),
}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--images", type=int, default=300, help="radiographs that are copied and damaged")
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    radiographs = [decode_file(file) for file in frontal_files(options.data)]
    some = radiographs[:: max(1, len(radiographs) // options.images)][: options.images]
    tables = {
        "copies": [*_copies(some), _false_alarms(radiographs)],
        "damage": [_damage(some, size) for size in (1, 8, 100, 3000)],
    }
    if options.json:
        print_json(tables)
    else:
        for name, rows in tables.items():
            print_table(name, ("what", "found", "of", "share", "95 %"), [_shown(row) for row in rows])
    if options.page:
        write_page({name: markdown(rows) for name, rows in tables.items()})


def frontal_files(data: Path) -> list[Path]:
    """The frontal images of a `manifest.jsonl`."""
    lines = (data / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    rows = (json.loads(line) for line in lines if line.strip())
    return [data / row["file"] for row in rows if row.get("frontal")]


def decode_file(file: Path) -> Pixels:
    """The grey image in a file, at most 448 pixels wide or high."""
    pixels = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
    assert pixels is not None, file
    share = 448 / max(pixels.shape)
    return np.asarray(pixels if share >= 1 else _sized(share)(pixels), dtype=np.uint8)


def is_found(pixels: Pixels, copy: Pixels) -> bool:
    """Whether both would be called one image."""
    bits = np.bitwise_count(_words(pixels)[:, None] ^ _words(copy)[None])
    close = ((bits[..., 0] <= COARSE) & (bits.sum(axis=-1) <= FINE)).any()
    return bool(close) and alike(detail(pixels), detail(copy)) >= SAME


def _words(pixels: Pixels) -> np.ndarray:
    return np.array([fingerprint(ranks(variant)) for variant in trimmed(pixels)])


def _copies(radiographs: Sequence[Pixels]) -> list[Row]:
    kinds = log.progress(COPIES.items(), description="copying", total=len(COPIES), unit="kinds")
    return [(name, sum(is_found(pixels, change(pixels)) for pixels in radiographs), len(radiographs))
            for name, change in kinds]  # fmt: skip


def _false_alarms(radiographs: Sequence[Pixels]) -> Row:
    words = [_words(pixels) for pixels in radiographs]
    owners = np.repeat(np.arange(len(words)), [len(one) for one in words])
    close = close_pairs(np.concatenate(words), owners)
    wrong = sum(alike(detail(radiographs[one]), detail(radiographs[two])) >= SAME for one, two in close)
    return "pairs of different radiographs taken for one", wrong, len(radiographs) * (len(radiographs) - 1) // 2


def _damage(radiographs: Sequence[Pixels], size: int) -> Row:
    rng = np.random.default_rng(size)
    noticed = 0
    for pixels in radiographs:
        _, encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 83])
        content = bytearray(encoded.tobytes())
        data = content.index(b"\xff\xda") + 16  # behind the header of the scan
        start = int(rng.integers(data, len(content) - size - 2))
        change = (
            rng.integers(0, 256, size, dtype=np.uint8) if size > 1 else [content[start] ^ 1 << int(rng.integers(8))]
        )
        content[start : start + size] = bytes(change)
        try:
            decode(bytes(content), image_format="jpg", strict=True)
        except BadImageError:
            noticed += 1
    return "one bit changed" if size == 1 else f"{size:,} bytes changed", noticed, len(radiographs)


def _shown(row: Row) -> tuple[str, str, str, str, str]:
    what, found, total = row
    low, high = wilson(found, total)
    return what, f"{found:,}", f"{total:,}", f"{found / total:.3f}", f"{low:.3f} - {high:.3f}"


def markdown(rows: Sequence[Row]) -> str:
    """A table for the page."""
    lines = ["| what | found | of | share | 95 % |", "| --- | ---: | ---: | ---: | --- |"]
    return "\n".join([*lines, *(f"| {' | '.join(_shown(row))} |" for row in rows)])


def write_page(tables: dict[str, str]) -> None:
    """Puts each table between its markers."""
    text = PAGE.read_text(encoding="utf-8")
    for name, table in tables.items():
        head, _, rest = text.partition(f"<!-- {name}: written by `python -m benchmarks.duplicates --page` -->")
        _, _, tail = rest.partition(f"<!-- end of {name} -->")
        marker = f"<!-- {name}: written by `python -m benchmarks.duplicates --page` -->"
        text = f"{head}{marker}\n\n{table}\n\n<!-- end of {name} -->{tail}"
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
