"""The facts that flow from an archive to a shard: studies, images, reports, sentences, regions, persons.

No torch here.  Coordinates are in pixels of the image an object belongs to, x to the right, y down,
with (0, 0) the *corner* of the top left pixel, so a box (0, 0, columns, rows) covers the whole image.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
from jaxtyping import Bool, UInt8

View = Literal["PA", "AP", "lateral", "other"]
Split = Literal["train", "val", "test"]
Origin = Literal["report", "labels"]
Box = tuple[float, float, float, float]
"""(x0, y0, x1, y1), x1 and y1 exclusive edges."""

FRONTAL: frozenset[str] = frozenset({"PA", "AP"})


class Certainty(StrEnum):
    """What a report says of a finding.  *Unmentioned* is the absence of a key, never a value."""

    PRESENT = "present"
    ABSENT = "absent"
    UNCERTAIN = "uncertain"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFile:
    """One radiograph as stored: where it is, how it was taken, and its size in pixels."""

    id: str
    path: Path | None
    """File the pixels come from; None where a source makes the pixels itself."""
    view: View
    rows: int
    columns: int
    spacing_mm: tuple[float, float] | None = None
    """(row, column) distance of pixel centres at the detector, if known."""
    sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The report as written.  Its text is never edited; everything derived points into it by spans."""

    text: str
    language: str = "en"


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A named span of a report, e.g. findings or impression, without its heading."""

    name: str
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentence:
    """One statement about one finding (or about none), with the span of the report it was read from."""

    start: int
    end: int
    section: str
    finding: str | None
    """Canonical name from the vocabulary, e.g. "pleural effusion"; None for a statement about none of them."""
    certainty: Certainty
    text: str
    """The text training uses: "There is (no | may be) F of L.", or the words as written where there is no F."""
    location: str | None = None
    """Normalised place, side first, e.g. "left", "right lower", "bilateral apex"."""
    severity: str | None = None
    """Normalised degree: "small", "moderate", "large"."""
    origin: Origin = "report"
    """"labels" marks a sentence that no radiologist wrote: it was made from the labels of the source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mask:
    """A binary picture as run lengths, column by column, starting with a run of zeros (COCO's order)."""

    rows: int
    columns: int
    counts: tuple[int, ...]

    @classmethod
    def encode(cls, pixels: Bool[np.ndarray, "rows columns"]) -> "Mask":
        """The run-length form of `pixels`."""
        rows, columns = pixels.shape
        flat = np.asarray(pixels, dtype=bool).ravel(order="F")
        changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
        edges = np.concatenate(([0], changes, [flat.size]))
        counts = np.diff(edges)
        if flat.size and flat[0]:
            counts = np.concatenate(([0], counts))
        return cls(rows=rows, columns=columns, counts=tuple(int(count) for count in counts))

    def decode(self) -> Bool[np.ndarray, "rows columns"]:
        """The picture the run lengths stand for."""
        values = np.arange(len(self.counts)) % 2 == 1
        flat = np.repeat(values, self.counts)
        return flat.reshape((self.rows, self.columns), order="F")

    def box(self) -> Box | None:
        """The smallest box around the mask, or None if it is empty."""
        pixels = self.decode()
        rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
        if rows.size == 0:
            return None
        return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """Where a finding is in one image: a box, a mask or a point (x, y)."""

    finding: str
    image: str
    """The `ImageFile.id` it lies in."""
    geometry: Box | Mask | tuple[float, float]

    @property
    def kind(self) -> Literal["box", "mask", "point"]:
        """Which of the three forms the geometry has."""
        if isinstance(self.geometry, Mask):
            return "mask"
        return "box" if len(self.geometry) == 4 else "point"


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Whose study it is, under a pseudonym."""

    id: str
    age: float | None = None
    """Years at the time of the study."""
    sex: Literal["F", "M"] | None = None
    groups: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Other groups results can be reported by, e.g. site or scanner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """One examination: its images, what was written about them, and what is known about them."""

    id: str
    person: Person
    images: tuple[ImageFile, ...]
    report: Report | None = None
    sentences: tuple[Sentence, ...] = ()
    labels: Mapping[str, Certainty] = field(default_factory=lambda: MappingProxyType({}))
    regions: tuple[Region, ...] = ()
    source: str
    license: str = ""
    split: Split | None = None
    earlier: tuple[str, ...] = ()
    """Ids of the person's earlier studies, oldest first."""
    synthetic: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedStudy:
    """A study together with the pixels of its images, in the order of `study.images`."""

    study: Study
    pixels: tuple[UInt8[np.ndarray, "rows columns"], ...]
