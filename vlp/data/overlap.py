"""Whether a model was trained on what it is tested on: by what is known of public sets, and by the studies themselves.

`warnings` asks a registry of facts (overlap.yaml): MS-CXR lies in MIMIC-CXR, RSNA and ChestX-Det both in ChestX-ray14.
`Seen` is the exact answer: the persons, studies, image files and reports of a split as numbers of 64 bits, small enough
to travel with a checkpoint (half a megabyte for MIMIC-CXR's persons), to be intersected with those of any other split.
"""

import hashlib
import io
import re
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt64

from vlp import config, log
from vlp.config import Config
from vlp.data.fingerprints import report_digest
from vlp.data.manifest import write_whole
from vlp.data.reader import ShardReader
from vlp.errors import DataError
from vlp.records import Split

Share = Literal["images", "persons", "reports", "generator"]
_MAX_BYTES = 1 << 30
_SHOWN_SOURCES = 400
"""Studies whose source is looked at where a guess is enough."""
_MIN_WORDS = 12
"""Shorter reports are stock phrases that any two persons may share."""


class Part(Config):
    """That a set takes from another."""

    of: str
    share: Share
    some: bool = False
    """Whether only a part of the set comes from there."""
    key: str = ""
    """By what the two can be joined."""
    note: str = ""


class DataSet(Config):
    """A public set."""

    name: str
    title: str
    also: tuple[str, ...] = ()
    inside: tuple[Part, ...] = ()


class Registry(Config):
    """What is known of public sets."""

    sets: tuple[DataSet, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """Something in common between a set trained on and a set tested on."""

    train: str
    evaluate: str
    share: Share
    certain: bool
    """Whether every study of one of them lies in the other; else some may be in both."""
    message: str
    """One line for people: what is shared, and what to do."""


def warnings(
    train_sources: Iterable[str], evaluate_sources: Iterable[str], *, same_shards: bool = False
) -> tuple[Overlap, ...]:
    """What sets trained on and sets tested on are known to share; nothing for sets the registry does not know.

    Args:
        train_sources: names of the sets (`Study.source`), in any spelling.
        evaluate_sources: the same of the test.
        same_shards: whether both are splits of one folder of shards, where one set in both is what splits are for.
    """
    found: dict[tuple[str, str], Overlap] = {}
    for train in sorted(set(train_sources)):
        for evaluate in sorted(set(evaluate_sources)):
            overlap = _between(train, evaluate, same_shards=same_shards)
            if overlap is not None:
                found.setdefault((_name(train), _name(evaluate)), overlap)
    return tuple(found.values())


def family(source: str) -> str:
    """The set at the end of all that a set surely takes from; sets of one family share the ids of their persons."""
    name = _name(source)
    known = registry().get(name)
    whole = [part for part in known.inside if not part.some and part.share != "generator"] if known else []
    return family(whole[0].of) if len(whole) >= 1 else name


@lru_cache(maxsize=1)
def registry() -> dict[str, DataSet]:
    """Name -> set, from overlap.yaml beside this file."""
    sets = config.load(Registry, Path(__file__).with_name("overlap.yaml")).sets
    return {known.name: known for known in sets}


@lru_cache(maxsize=1)
def _spellings() -> dict[str, str]:
    return {_plain(spelling): known.name for known in registry().values() for spelling in (known.name, *known.also)}


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _name(source: str) -> str:
    """The registry's name of a source; the source itself where it is not known."""
    return _spellings().get(_plain(source), source)


def _between(train: str, evaluate: str, *, same_shards: bool) -> Overlap | None:
    one, two = _name(train), _name(evaluate)
    if one == two:
        if same_shards:
            return None
        message = (
            f"{_title(one)} was trained on and is tested on from other shards: the figures hold only if both keep the "
            "same split of persons"
        )
        return Overlap(train=one, evaluate=two, share="persons", certain=True, message=message)
    ways_one, ways_two = _ways(one), _ways(two)
    if one in ways_two:
        return _contained(one, two, ways_two[one], f"{_title(two)} (tested on)", f"{_title(one)} (trained on)")
    if two in ways_one:
        return _contained(one, two, ways_one[two], f"{_title(one)} (trained on)", f"{_title(two)} (tested on)")
    common = sorted(set(ways_one) & set(ways_two))
    if not common:
        return None
    share = _weaker(ways_one[common[0]].share, ways_two[common[0]].share)
    message = (
        f"{_title(one)} (trained on) and {_title(two)} (tested on) both take {_what(share)} from {_title(common[0])}; "
        "vlp shards duplicates finds what they share"
    )
    return Overlap(train=one, evaluate=two, share=share, certain=False, message=message)


def _contained(train: str, evaluate: str, part: Part, inner: str, outer: str) -> Overlap:
    how = "takes some" if part.some else "takes its"
    joined = f", joined by {part.key}" if part.key else ""
    note = f"; {part.note}" if part.note else ""
    message = f"{inner} {how} {_what(part.share)} from {outer}{joined}{note}: leave what is shared out of training"
    if part.share == "generator":
        message = f"{inner} comes from {outer}{note}"
    return Overlap(train=train, evaluate=evaluate, share=part.share, certain=not part.some, message=message)


def _ways(name: str) -> dict[str, Part]:
    """Every set that `name` takes from, directly or through others -> the weakest link on the way."""
    found: dict[str, Part] = {}
    known = registry().get(name)
    for part in known.inside if known else ():
        found.setdefault(part.of, part)
        for further, link in _ways(part.of).items():
            weaker = part.model_copy(
                update={"of": further, "some": part.some or link.some, "share": _weaker(part.share, link.share)}
            )
            found.setdefault(further, weaker)
    return found


def _weaker(one: Share, two: Share) -> Share:
    order: tuple[Share, ...] = ("images", "persons", "reports", "generator")
    return max(one, two, key=order.index)


def _what(share: Share) -> str:
    return {"images": "images", "persons": "persons", "reports": "reports", "generator": "what it was drawn from"}[
        share
    ]


def _title(name: str) -> str:
    known = registry().get(name)
    return known.title if known else name


def sources(reader: ShardReader, split: Split | None = None) -> tuple[str, ...]:
    """Names of the sets that a split (None: the folder) is made of, by a look at some hundred studies of it."""
    keys = reader.keys(split)
    places = np.unique(np.linspace(0, len(keys) - 1, num=min(len(keys), _SHOWN_SOURCES)).astype(int)) if keys else ()
    return tuple(sorted({reader.sample_json(keys[place]).source for place in places}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """How much of what is tested on was trained on."""

    persons: int
    studies: int
    images: int
    reports: int

    def __bool__(self) -> bool:
        """Reports alone are no sign: many are stock phrases."""
        return bool(self.persons or self.studies or self.images)

    @property
    def message(self) -> str:
        """One line for people."""
        counts = ", ".join(f"{getattr(self, entry.name)} {entry.name}" for entry in fields(self))
        return f"of what is tested on, training has seen: {counts}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Who and what a split holds, as sorted numbers that say nothing by themselves."""

    persons: UInt64[np.ndarray, "person"]
    studies: UInt64[np.ndarray, "study"]
    images: UInt64[np.ndarray, "image"]
    """By the checksum of the file an image was made from; none where that is not known."""
    reports: UInt64[np.ndarray, "report"]
    """By their words; none for short ones."""

    @classmethod
    def of(cls, reader: ShardReader, *splits: Split) -> "Seen":
        """Everything in these splits (none named: in all); reads every description, no pixel."""
        keys = [key for split in splits or (None,) for key in reader.keys(split)]
        found: dict[str, set[int]] = {entry.name: set() for entry in fields(cls)}
        for key in log.progress(keys, description="who is in it", unit="studies"):
            for kind, number in _numbers(reader, key):
                found[kind].add(number)
        return cls(**{kind: np.array(sorted(numbers), dtype=np.uint64) for kind, numbers in found.items()})

    def shared(self, tested: "Seen") -> Shared:
        """What is in both."""
        return Shared(
            **{
                entry.name: int(np.isin(getattr(tested, entry.name), getattr(self, entry.name)).sum())
                for entry in fields(self)
            }
        )

    def save(self, path: Path) -> None:
        """Writes an .npz file, whole or not at all."""
        content = io.BytesIO()
        np.savez_compressed(content, **{entry.name: getattr(self, entry.name) for entry in fields(self)})
        try:
            write_whole(path, content.getvalue())
        except OSError as error:
            raise DataError(f"{path}: cannot be written: {error.strerror}") from None

    @classmethod
    def load(cls, path: Path) -> "Seen":
        """What `save` wrote.

        Raises:
            DataError: if it is something else.
        """
        try:
            with zipfile.ZipFile(path) as packed:  # a small file may unpack to a very large one
                if sum(entry.file_size for entry in packed.infolist()) > _MAX_BYTES:
                    raise DataError(f"{path}: too large to be a list of what was seen")
            with np.load(path) as values:
                found = {entry.name: values[entry.name] for entry in fields(cls)}
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror or 'damaged'}") from None
        except (zipfile.BadZipFile, KeyError, ValueError, EOFError, RuntimeError):
            raise DataError(f"{path}: not a list of what was seen") from None
        if any(numbers.dtype != np.uint64 or numbers.ndim != 1 for numbers in found.values()):
            raise DataError(f"{path}: not a list of what was seen")
        return cls(**found)


def _numbers(reader: ShardReader, key: str) -> Iterator[tuple[str, int]]:
    json = reader.sample_json(key)
    # Ids are compared within a family: "p1" of two archives are two persons.
    whose = family(json.source)
    yield "persons", _number(whose, json.person.id)
    yield "studies", _number(whose, json.person.id, json.study)
    for image in json.images:
        if image.sha256:
            yield "images", _number(image.sha256)
    if json.text_origin == "report":
        text = reader.text(key)
        if len(text.split()) >= _MIN_WORDS:
            yield "reports", int.from_bytes(report_digest(text))


def _number(*words: str) -> int:
    return int.from_bytes(hashlib.blake2b("\0".join(words).encode(), digest_size=8).digest())
