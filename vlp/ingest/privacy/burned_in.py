"""Lines of text drawn in a radiograph, found without reading them.

Letters are narrow strokes, much brighter or darker than what is around them, of one height, side by side on one line;
anatomy, wires and clips are seldom all of that.  A line of at least five letters outside the middle of the image
counts.  Words that say how an image was taken (`harmless.WORDS`) do not count, nor do shorter marks (L, R, AP).
Nothing is read: a line that was found says "look at this", and some lines are missed; the rates are in
`docs/explanation/privacy.md`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from vlp.ingest.privacy.harmless import likeness
from vlp.records import Box

_SIDE_PX = 1024
"""Larger images are looked at in this size."""
_STROKES_PX = (9, 19)
"""Strokes narrower than this are found: of letters up to some 20 and 44 pixels tall."""
_MIN_HEIGHT, _MAX_HEIGHT = 6, 44
_MIN_CONTRAST = 45
"""Grey levels between a stroke and its surroundings."""
_MIN_LETTERS = 5
_MARGIN = 0.3
"""Share of the image, from each side, in which lines count."""
_SAME_WORD = 0.64
"""`likeness` from which a word is a harmless one."""
_BESIDE = 2
"""Letters that may stand beside harmless words ("AP PORTABLE")."""


@dataclass(frozen=True, slots=True)
class _Letter:
    """A stroke, or a few that touch: columns x0 to x1, rows y0 to y1."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def height(self) -> int:
        return self.y1 - self.y0

    @property
    def count(self) -> int:
        """How many letters it is wide enough for."""
        return max(1, round((self.x1 - self.x0) / (0.75 * self.height)))


_Line = Sequence[_Letter]


def find_text(pixels: UInt8[np.ndarray, "rows columns"]) -> tuple[Box, ...]:
    """Boxes around lines of text, in pixels of the image, top to bottom; harmless words are left out."""
    scale = min(1.0, _SIDE_PX / max(pixels.shape))
    small = pixels if scale == 1.0 else cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    lines = [line for strokes in _strokes(small) for line in _lines(_letters(strokes))]
    outer = [line for line in lines if _near_border(_box_around(line), small.shape[0], small.shape[1])]
    boxes = [
        _scaled(_box_around(same[0]), 1 / scale)
        for same in _grouped(outer)
        if not any(_is_harmless(small, line) for line in same)
    ]
    return tuple(sorted(boxes, key=lambda box: (box[1], box[0])))


def _strokes(pixels: UInt8[np.ndarray, "rows columns"]) -> Iterator[Bool[np.ndarray, "rows columns"]]:
    """Where the image is much brighter, or darker, than what is left when narrow things are removed."""
    for size in _STROKES_PX:
        element = cv2.getStructuringElement(cv2.MORPH_RECT, (size, size))
        for operation in (cv2.MORPH_TOPHAT, cv2.MORPH_BLACKHAT):
            yield cv2.morphologyEx(pixels, operation, element) > _MIN_CONTRAST


def _letters(strokes: Bool[np.ndarray, "rows columns"]) -> list[_Letter]:
    """Connected strokes of the size and density of a letter, or of a few that touch, from left to right."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(strokes.astype(np.uint8), connectivity=8)
    x, y, width, height, area = stats[1:].T
    dense = area / (width * height)
    keep = (height >= _MIN_HEIGHT) & (height <= _MAX_HEIGHT) & (width <= 8 * height) & (8 * width >= height)
    keep &= (dense > 0.2) & (dense < 0.95)
    edges = np.stack([x, y, x + width, y + height], axis=1)[keep]
    return [_Letter(*map(int, edge)) for edge in edges[np.argsort(edges[:, 0], kind="stable")]]


def _lines(letters: Sequence[_Letter]) -> Iterator[_Line]:
    """Letters of about one height whose feet stand on one line, with gaps no wider than between words."""
    used: set[int] = set()
    for first in range(len(letters)):
        if first in used:
            continue
        members = [first]
        for index in range(first + 1, len(letters)):
            last = letters[members[-1]]
            if letters[index].x0 - last.x1 > 1.6 * last.height:
                break
            if index not in used and _follows(last, letters[index]):
                members.append(index)
        line = [letters[index] for index in members]
        if len(line) >= 3 and sum(letter.count for letter in line) >= _MIN_LETTERS:
            used.update(members)
            yield line


def _follows(left: _Letter, right: _Letter) -> bool:
    tall = max(left.height, right.height)
    same_height = min(left.height, right.height) >= 0.7 * tall
    return same_height and abs(left.y1 - right.y1) <= max(1.5, 0.18 * tall) and right.x0 >= left.x1 - 1


def _box_around(line: _Line) -> Box:
    return (
        min(letter.x0 for letter in line),
        min(letter.y0 for letter in line),
        max(letter.x1 for letter in line),
        max(letter.y1 for letter in line),
    )


def _scaled(box: Box, factor: float) -> Box:
    x0, y0, x1, y1 = box
    return x0 * factor, y0 * factor, x1 * factor, y1 * factor


def _near_border(box: Box, rows: int, columns: int) -> bool:
    x0, y0, x1, y1 = box
    return min(x0, columns - x1) < _MARGIN * columns or min(y0, rows - y1) < _MARGIN * rows


def _grouped(lines: Iterable[_Line]) -> list[list[_Line]]:
    """Lines that overlap, for strokes of both sizes and signs see the same text; the longest of each group first."""
    groups: list[list[_Line]] = []
    for line in sorted(lines, key=lambda line: line[0].x0 - line[-1].x1):
        group = next((group for group in groups if _overlap(_box_around(group[0]), _box_around(line))), None)
        if group is None:
            groups.append([line])
        else:
            group.append(line)
    return groups


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _is_harmless(pixels: UInt8[np.ndarray, "rows columns"], line: _Line) -> bool:
    """Whether the line says nothing of the patient: known words, and at most two letters besides."""
    if likeness(pixels, _box_around(line)) >= _SAME_WORD:
        return True
    unknown = (word for word in _words(line) if likeness(pixels, _box_around(word)) < _SAME_WORD)
    return sum(letter.count for word in unknown for letter in word) <= _BESIDE


def _words(line: _Line) -> Iterator[_Line]:
    """The line cut at its wide gaps."""
    word = [line[0]]
    for letter in line[1:]:
        if letter.x0 - word[-1].x1 > 0.5 * letter.height:
            yield word
            word = []
        word.append(letter)
    yield word
