"""The same image or the same report more than once, in one folder of shards or across several.

Images are compared in three steps, each on what the one before lets through: 63 signs (all pairs, by counting the bits
of two words' difference), 255 signs, and the correlation of the two images themselves with everything but their middle
frequencies taken away.  Counting bits is so fast that no tree is needed: 400,000 images are 80 billion pairs and a
minute or so of one core, exactly and in the memory the words take.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Float32, Int, UInt64

from vlp import log
from vlp.data.encoded import BadImageError, decode, image_shape
from vlp.data.fingerprints import WORDS, fingerprint, ranks, report_digest, trimmed
from vlp.data.manifest import SPLITS
from vlp.data.reader import ShardReader, open_shards
from vlp.errors import DataError
from vlp.records import Split

COARSE = 8
"""Signs of 63 that may differ."""
FINE = 50
"""Signs of 255 that may differ."""
SAME = 0.7
"""Correlation from which two images are one."""
MIN_WORDS = 4
"""Shorter reports say nothing that two persons could not both be told."""
_ROWS, _COLUMNS = 8, 8192
"""A block of pairs that stays in a core's cache."""
_CHUNK = 64
_COMPARED_PX = 128
_EDGE_PX = 4

Kind = Literal["image", "report"]


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Place:
    """Where a thing is."""

    folder: str
    split: Split
    key: str
    image: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Places of one and the same thing."""

    kind: Kind
    places: tuple[Place, ...]

    @property
    def splits(self) -> frozenset[Split]:
        """Splits it is in, of all folders."""
        return frozenset(place.split for place in self.places)

    @property
    def leak(self) -> bool:
        """Whether one image is both trained on and tested on.  Reports repeat themselves; they leak nothing."""
        return self.kind == "image" and len(self.splits) > 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What is there more than once."""

    images: int
    """Images looked at."""
    reports: int
    """Reports looked at."""
    groups: tuple[Group, ...]

    @property
    def leaks(self) -> tuple[Group, ...]:
        """Images that are in more than one split."""
        return tuple(group for group in self.groups if group.leak)


def find_duplicates(
    folders: Sequence[Path | str],
    *,
    kinds: Sequence[Kind] = ("image", "report"),
    workers: int | None = None,
) -> Found:
    """Near-duplicate images and equal reports within and across folders of shards.

    An image counts as another's copy if it was compressed, resized, padded, or changed in brightness, contrast or
    gamma; not if it was turned by more than a degree or cropped by more than a hundredth.  Reports are equal if they
    differ in case, blanks and punctuation only; those of fewer than `MIN_WORDS` words are left out.

    Raises:
        DataError: if a folder cannot be opened or an image of it is damaged.
    """
    readers = [open_shards(folder) for folder in folders]
    if len({str(reader.folder.resolve()) for reader in readers}) < len(readers):
        raise DataError("a folder is named twice; every image would be its own duplicate")
    groups: list[Group] = []
    images = reports = 0
    if "image" in kinds:
        found, images = _image_groups(readers, workers or len(os.sched_getaffinity(0)))
        groups.extend(found)
    if "report" in kinds:
        found, reports = _report_groups(readers)
        groups.extend(found)
    return Found(images=images, reports=reports, groups=tuple(groups))


def close_pairs(words: UInt64[np.ndarray, "row 4"], owners: Int[np.ndarray, "row"]) -> Int[np.ndarray, "pair 2"]:
    """Pairs of owners that have a fingerprint within `COARSE` and `FINE` of each other; each pair once, sorted.

    Args:
        words: fingerprints.
        owners: whose each is; an owner may have several and is no pair with itself.
    """
    coarse = np.ascontiguousarray(words[:, 0])
    difference = np.empty((_ROWS, _COLUMNS), dtype=np.uint64)
    distance = np.empty((_ROWS, _COLUMNS), dtype=np.uint8)
    pairs = [np.empty((0, 2), dtype=np.int64)]
    for row in log.progress(range(0, len(coarse), _ROWS), description="comparing", unit="blocks"):
        rows = coarse[row : row + _ROWS, None]
        for column in range(row, len(coarse), _COLUMNS):
            columns = coarse[None, column : column + _COLUMNS]
            shape = slice(rows.shape[0]), slice(columns.shape[1])
            np.bitwise_xor(rows, columns, out=difference[shape])
            counted = np.bitwise_count(difference[shape], out=distance[shape])
            if int(counted.min()) <= COARSE:
                near = np.argwhere(counted <= COARSE) + np.array((row, column))
                pairs.append(_fine(near, words, owners))
    unique: np.ndarray = np.unique(np.concatenate(pairs), axis=0)
    return unique


def _fine(candidates: np.ndarray, words: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """Those of the candidate rows that are close in all their signs, as pairs of owners."""
    one, two = candidates[:, 0], candidates[:, 1]
    distance = np.bitwise_count(words[one] ^ words[two]).sum(axis=1, dtype=np.int64)
    pairs = np.sort(np.stack((owners[one], owners[two]), axis=1), axis=1)
    kept: np.ndarray = pairs[(distance <= FINE) & (pairs[:, 0] < pairs[:, 1])].astype(np.int64)
    return kept


def alike(one: Sequence[Float32[np.ndarray, "128 128"]], two: Sequence[Float32[np.ndarray, "128 128"]]) -> float:
    """Largest correlation of two images' variants, each with its middle frequencies only (see `detail`)."""
    return max(float((first * second).mean()) for first in one for second in two)


def detail(pixels: np.ndarray) -> tuple[Float32[np.ndarray, "120 120"], ...]:
    """What tells one chest from another, in each variant of the image: the edges of ribs, heart and devices.

    Coarse shapes, which all chests share, and noise, which no copy keeps, are taken away.  Zero mean, unit variance.
    """
    found = []
    for variant in trimmed(pixels):
        ranked = ranks(variant, side=_COMPARED_PX)
        band = cv2.GaussianBlur(ranked, (0, 0), 1.0) - cv2.GaussianBlur(ranked, (0, 0), 4.0)
        band = band[_EDGE_PX:-_EDGE_PX, _EDGE_PX:-_EDGE_PX]
        found.append((band - band.mean()) / max(float(band.std()), 1e-6))
    return tuple(found)


def _image_groups(readers: Sequence[ShardReader], workers: int) -> tuple[list[Group], int]:
    places = [
        (number, Place(folder=str(reader.folder), split=split, key=key, image=index))
        for number, reader in enumerate(readers)
        for split in SPLITS
        for key in reader.keys(split)
        for index in range(reader.num_images(key))
    ]
    chunks = [places[start : start + _CHUNK] for start in range(0, len(places), _CHUNK)]
    words: list[np.ndarray] = []
    owners: list[int] = []
    with ThreadPoolExecutor(workers) as pool:
        hashed = (
            image
            for chunk in pool.map(lambda chunk: [_words(readers, *place) for place in chunk], chunks)
            for image in chunk
        )
        images = log.progress(hashed, description="fingerprints", total=len(places), unit="images")
        for owner, image in enumerate(images):
            words.extend(image)
            owners.extend([owner] * len(image))
    pairs = close_pairs(np.array(words, dtype=np.uint64).reshape(-1, WORDS), np.array(owners))
    together = _Together()

    @lru_cache(maxsize=512)
    def seen(owner: int) -> tuple[np.ndarray, ...]:
        return detail(_pixels(readers, *places[owner]))

    for one, two in log.progress(pairs.tolist(), description="confirming", unit="pairs"):
        # A hundred copies of one image are 4,950 pairs; 99 of them connect all.
        if not together.joined(one, two) and alike(seen(one), seen(two)) >= SAME:
            together.join(one, two)
    return [_group("image", [places[owner][1] for owner in owned]) for owned in together.groups()], len(places)


def _words(readers: Sequence[ShardReader], number: int, place: Place) -> list[np.ndarray]:
    return [fingerprint(ranks(variant)) for variant in trimmed(_pixels(readers, number, place))]


def _pixels(readers: Sequence[ShardReader], number: int, place: Place) -> np.ndarray:
    """The image, a few hundred pixels wide: finer detail decides nothing here."""
    reader = readers[number]
    content = reader.encoded(place.key, place.image)
    try:
        longer = max(image_shape(content, image_format=reader.manifest.image_format))
        reduce = next(factor for factor in (8, 4, 2, 1) if factor == 1 or longer // factor >= 2 * _COMPARED_PX)
        return decode(content, image_format=reader.manifest.image_format, reduce=reduce)
    except BadImageError as error:
        raise DataError(
            f"{reader.folder}: image {place.image} of study {place.key}: {error}; run vlp shards check --repair"
        ) from None


def _report_groups(readers: Sequence[ShardReader]) -> tuple[list[Group], int]:
    found: dict[bytes, list[Place]] = {}
    keys = [(reader, split, key) for reader in readers for split in SPLITS for key in reader.keys(split)]
    reports = 0
    for reader, split, key in log.progress(keys, description="reports", unit="studies"):
        study = reader.study(key)
        if study.report is None or len(study.report.text.split()) < MIN_WORDS:
            continue
        reports += 1
        place = Place(folder=str(reader.folder), split=split, key=key)
        found.setdefault(report_digest(study.report.text), []).append(place)
    return [_group("report", places) for places in found.values() if len(places) > 1], reports


def _group(kind: Kind, places: Sequence[Place]) -> Group:
    return Group(kind=kind, places=tuple(sorted(places)))


class _Together:
    """Numbers that belong together, directly or through others."""

    def __init__(self) -> None:
        self._parent: dict[int, int] = {}

    def join(self, one: int, two: int) -> None:
        low, high = sorted((self._root(one), self._root(two)))
        self._parent[high] = low
        self._parent.setdefault(low, low)

    def joined(self, one: int, two: int) -> bool:
        return self._root(one) == self._root(two)

    def groups(self) -> list[list[int]]:
        """Those with company, each group and all of them in rising order."""
        groups: dict[int, list[int]] = {}
        for number in sorted(self._parent):
            groups.setdefault(self._root(number), []).append(number)
        return [groups[first] for first in sorted(groups)]

    def _root(self, number: int) -> int:
        while (parent := self._parent.get(number, number)) != number:
            self._parent[number] = self._parent[parent]
            number = parent
        return number
