"""What the words of a prompt are, before asking what they mean: hidden characters, scripts, known and impossible words.

The linter of descriptors and the understanding of a person's prompt both read these.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import yaml

from vlp.reports.findings import load_data
from vlp.reports.phrases import normal_form

_INVISIBLE = frozenset({"Cf", "Cc", "Cs", "Co", "Cn"})
"""Unicode categories that never belong in a sentence: zero-width and direction marks, controls, surrogates, nothing."""
_TERMINAL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
"""An escape sequence that colours a terminal or moves its cursor."""
_WORD = re.compile(r"[^\W\d_]+")
_CLOSE = 0.84
"""How alike a known word must be to be suggested."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleaned:
    """A text as it is shown and encoded, and what was done to it."""

    text: str
    """In Unicode's normal form NFKC, one line, single spaces, nothing invisible."""
    hidden: int
    """How many invisible characters were taken out; line breaks and tabs are not hidden."""
    rewritten: bool
    """Whether look-alike forms (full-width letters, ligatures) became plain ones."""


def cleaned(text: str) -> Cleaned:
    """`text` without what cannot be seen."""
    plain = unicodedata.normalize("NFC", text)
    without = _TERMINAL.sub("", plain)
    kept = "".join(" " if letter.isspace() else letter for letter in without if _shows(letter))
    spaced = " ".join(kept.split())
    result = " ".join(unicodedata.normalize("NFKC", spaced).split())
    return Cleaned(text=result, hidden=len(plain) - len(kept), rewritten=result != spaced)


def _shows(letter: str) -> bool:
    return letter.isspace() or unicodedata.category(letter) not in _INVISIBLE


def words(text: str) -> tuple[str, ...]:
    """The words of a text in the normal form of the report vocabulary: "Opacities" is "opacity"."""
    return tuple(normal_form(word) for word in _WORD.findall(text))


def other_script(text: str) -> tuple[int, int]:
    """(letters that are not Latin, letters) of a text; marks that stand on a letter count for neither."""
    letters = [letter for letter in text if unicodedata.category(letter).startswith("L")]
    return sum("LATIN" not in unicodedata.name(letter, "") for letter in letters), len(letters)


def unknown(text: str) -> tuple[tuple[str, ...], int]:
    """(words that nothing here knows, words that say something) of a text; pictographs are unknown words."""
    table = _lexicon()
    telling = [word for word in words(text) if word not in table.little]
    pictures = [letter for letter in text if unicodedata.category(letter) == "So"]
    return (*(word for word in telling if word not in table.known), *pictures), len(telling) + len(pictures)


def meant(word: str) -> str | None:
    """The known word that an unknown one was probably meant to be: "pneumotorax" -> "pneumothorax"."""
    close = get_close_matches(word, _lexicon().known, n=1, cutoff=_CLOSE)
    return close[0] if close else None


def elsewhere(text: str) -> tuple[str, ...]:
    """The parts of the body in a text that no chest radiograph shows."""
    return tuple(dict.fromkeys(word for word in words(text) if word in _lexicon().elsewhere))


def clash(text: str) -> tuple[str, str] | None:
    """Two neighbouring words that exclude each other ("left right"), if there are any.

    Only neighbours count: "left and right lung" and "left lung and right base" contradict nothing.
    """
    table = _lexicon()
    for piece in re.split(r"[^\w\s]+", text.lower().replace("-sided", "sided").replace("-", " ")):
        for pair in pairwise(words(piece)):
            if frozenset(pair) in table.opposites:
                return pair
    return None


def denials(text: str) -> tuple[str, ...]:
    """The words of a text that deny."""
    return tuple(word for word in words(text) if word in _lexicon().denials)


def hedges(text: str) -> tuple[str, ...]:
    """The words of a text that leave open."""
    return tuple(word for word in words(text) if word in _lexicon().hedges)


def changes(text: str) -> tuple[str, ...]:
    """The words of a text that compare with another study."""
    return tuple(word for word in words(text) if word in _lexicon().changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lexicon:
    known: frozenset[str]
    little: frozenset[str]
    elsewhere: frozenset[str]
    opposites: frozenset[frozenset[str]]
    denials: frozenset[str]
    hedges: frozenset[str]
    changes: frozenset[str]


@cache
def _lexicon() -> _Lexicon:
    table: Mapping[str, Any] = MappingProxyType(
        yaml.safe_load((files("vlp.prompts") / "lexicon.yaml").read_text(encoding="utf-8"))
    )
    cues = {kind: lines for kind, lines in load_data("cues.yaml").items() if kind != "boilerplate"}
    known = _normal([table["known"], *_strings(load_data("vocabulary.yaml")), *_strings(cues)])
    kinds = {kind: _normal([table[kind]]) for kind in ("denials", "hedges", "changes")}
    places = _normal([table["elsewhere"]])
    return _Lexicon(
        known=known.union(places, *kinds.values()),
        little=_normal([table["little"]]),
        elsewhere=places,
        opposites=frozenset(frozenset(_normal(pair)) for pair in table["opposites"]),
        **kinds,
    )


def _normal(texts: Iterable[str]) -> frozenset[str]:
    return frozenset(word for text in texts for word in words(text))


def _strings(data: Any) -> Iterator[str]:
    """Every text in nested values, keys included."""
    if isinstance(data, str):
        yield data
    elif isinstance(data, Mapping):
        yield from _strings([*data, *data.values()])
    elif isinstance(data, list):
        for item in data:
            yield from _strings(item)
