"""The phrasebook of the phantom's radiologists and the small pattern language it is written in."""

import functools
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from vlp import config
from vlp.config import Config

Degree = Literal["small", "moderate", "large"]

_CHOICE = re.compile(r"\(([^()]*)\)")
_NAME = re.compile(r"\$([a-z]+)")
_ARTICLE = re.compile(r"\b([Aa]) (?=[aeiou8]|1[18] )(?!u[nst]i)")
_BEFORE_PUNCTUATION = re.compile(r"\s+([.,;:])")


class FindingPhrases(Config):
    """The wordings for one finding; the file explains each kind."""

    negated: float = Field(ge=0.0, le=1.0)
    degree: dict[Degree, tuple[str, ...]]
    countable: bool = False
    plural_both: bool = False
    one: tuple[str, ...] = ()
    both: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()
    seen_both: tuple[str, ...] = ()
    sign: tuple[str, ...] = ()
    sign_both: tuple[str, ...] = ()
    hedged: tuple[str, ...]
    doubt: tuple[str, ...]
    absent: tuple[str, ...]
    listed: tuple[str, ...]
    unseen: tuple[str, ...]
    resolved: tuple[str, ...]
    frames: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Frames of this finding's own, in place of the general ones."""


class DevicePhrases(Config):
    """The wordings for one kind of support device."""

    seen: tuple[str, ...]
    new: tuple[str, ...]
    unchanged: tuple[str, ...]
    brief: tuple[str, ...]


class StockSentence(Config):
    """A sentence used again and again."""

    text: str
    denies: tuple[str, ...] = ()
    """Findings it names as absent."""
    unseen: tuple[str, ...] = ()
    """Findings whose sign it denies."""
    without: tuple[str, ...] = ()
    """Further findings whose presence would make it untrue."""

    @property
    def excludes(self) -> frozenset[str]:
        """All findings whose presence would make it untrue."""
        return frozenset((*self.denies, *self.unseen, *self.without))


class Phrasebook(Config):
    """Everything in phrases.yaml."""

    findings: dict[str, FindingPhrases]
    devices: dict[str, DevicePhrases]
    frames: dict[str, tuple[str, ...]]
    stock: dict[str, tuple[StockSentence, ...]]
    indications: tuple[str, ...]
    exams: dict[str, tuple[str, ...]]
    techniques: dict[str, tuple[str, ...]]
    comparisons: tuple[str, ...]
    closings: tuple[str, ...]
    abbreviations: dict[str, str]


@functools.cache
def phrasebook() -> Phrasebook:
    """The phrasebook that comes with the package."""
    return config.load(Phrasebook, Path(__file__).with_name("phrases.yaml"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """A pattern put into words."""

    text: str
    names: frozenset[str]
    """Which names of the pattern were filled in."""


def expand(pattern: str, *, names: Mapping[str, str], generator: random.Random) -> Words:
    """`pattern` with its choices made and its names filled in; spaces and a/an are put right.

    Raises:
        KeyError: if the pattern asks for a name that is not among `names`.
    """
    while (choice := _CHOICE.search(pattern)) is not None:
        chosen = generator.choice(choice.group(1).split("|"))
        pattern = pattern[: choice.start()] + chosen + pattern[choice.end() :]
    used = frozenset(_NAME.findall(pattern))
    text = _NAME.sub(lambda match: names[match.group(1)], pattern)
    text = _BEFORE_PUNCTUATION.sub(r"\1", " ".join(text.split()))
    return Words(text=_ARTICLE.sub(r"\1n ", text), names=used)


def usable(patterns: Sequence[str], names: Mapping[str, str]) -> list[str]:
    """Those of `patterns` whose every name can be filled in."""
    return [pattern for pattern in patterns if all(name in names for name in _NAME.findall(pattern))]


def choose(patterns: Sequence[str], *, names: Mapping[str, str], generator: random.Random) -> Words | None:
    """One of the usable patterns in words, or None where there is none."""
    possible = usable(patterns, names)
    return expand(generator.choice(possible), names=names, generator=generator) if possible else None


def sentence_case(text: str) -> str:
    """`text` with a capital at its beginning."""
    return text[:1].upper() + text[1:]
