"""What a scan of a text gives: hits with a kind and a place, and the text with its hits masked, letter for letter.

A hit never holds the words it marks, so that hits can be logged and counted.  Masks have the length of what they hide:
every span into the text, of a section or a sentence, stays right.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from vlp.ingest.privacy.words import EPONYMS, INSTITUTION_FILLERS, ORDINARY

HitKind = Literal["name", "date", "phone", "email", "web", "number", "address", "age", "institution"]
KINDS: tuple[HitKind, ...] = get_args(HitKind)
MASK = "_"
"""What hidden characters become; runs of it are what MIMIC's reports have in the same place."""

_UPPER = "".join(letter for letter in map(chr, [*range(0x530), *range(0x1E00, 0x1F00)]) if letter.isupper())
"""Capitals of Latin, Greek and Cyrillic; regular expressions have no class for them."""
CAPITALISED = rf"[{_UPPER}][^\W\d_]{{0,30}}(?:['’-][^\W\d_]{{1,30}}){{0,4}}"
"""Pattern of a word that begins with a capital; of limited length, so that no text makes matching slow."""

_TOKENS = re.compile(
    r"\[\*\*.*?\*\*\]"  # [**Known lastname 123**]
    r"|_{2,}|\*{3,}|#{3,}"
    r"|(?<![^\W_])[Xx]-?X{3,}|X{3,}|(?<![^\W_])x{4,}(?![^\W_])"
    r"|[\[<](?:redacted|removed|date|phone|id|mrn|age|address|accession|de-?identified|anonymi[sz]ed)[\]>]"
    r"|[\[<](?:name|patient|doctor|staff|hospital|location|vendor)(?:[ _-]?\d{1,2})?[\]>]",
    re.IGNORECASE | re.DOTALL,
)
_WRAP = re.compile(r"^([^\r\n]{50,})\r?\n(?=[ \t]*[^\W_])", re.MULTILINE)
"""A line is long, and may go on below, from 50 characters on."""


@dataclass(frozen=True, slots=True, order=True)
class Hit:
    """Characters `start` up to `end` of a text may say who somebody is."""

    start: int
    end: int
    kind: HitKind


class Scanner(Protocol):
    """Anything that finds what identifies a person."""

    def scan(self, text: str) -> tuple[Hit, ...]:
        """The hits in `text`, in order and without overlaps."""

    def fingerprint(self) -> str:
        """Changes when the scanner would find something else in the same text."""


def without_tokens(text: str) -> str:
    """`text`, as long as it is, with what de-identification left in it ("___", "XXXX", "[**Name**]") as NULs.

    No rule takes a NUL for part of a word.
    """
    return _TOKENS.sub(lambda match: "\0" * len(match.group()), text)


def without_wraps(text: str) -> str:
    """`text`, as long as it is, with the breaks of long lines as spaces: names and addresses are wrapped anywhere."""
    return _WRAP.sub(lambda match: match[1] + " " * (len(match.group()) - len(match[1])), text)


def merged(hits: Iterable[Hit]) -> tuple[Hit, ...]:
    """The hits in order; those that overlap become one, of the kind of the longest."""
    result: list[tuple[Hit, int]] = []
    for hit in sorted(hits, key=lambda hit: (hit.start, -hit.end)):
        last, longest = result[-1] if result else (None, 0)
        if last is None or hit.start >= last.end:
            result.append((hit, hit.end - hit.start))
            continue
        kind = hit.kind if hit.end - hit.start > longest else last.kind
        both = Hit(last.start, max(last.end, hit.end), kind)
        result[-1] = (both, max(longest, hit.end - hit.start))
    return tuple(hit for hit, _ in result)


def mask(text: str, hits: Iterable[Hit]) -> str:
    """`text` with every character of the hits masked but line breaks; as long as `text`."""
    letters = list(text)
    for hit in hits:
        letters[hit.start : hit.end] = [letter if letter in "\r\n" else MASK for letter in letters[hit.start : hit.end]]
    return "".join(letters)


def believable(text: str, hits: Iterable[Hit]) -> Iterator[Hit]:
    """The hits of a model that are not what models take for names in radiology.

    Left out are de-identification tokens, words that are all ordinary or eponyms ("Right Lung", "Kerley"), ages up to
    89, and names, places and record numbers without a telling letter or digit.
    """
    plain = without_tokens(text)
    for hit in hits:
        words = [word.lower() for word in _LETTERS.findall(plain[hit.start : hit.end])]
        digits = _DIGITS.findall(plain[hit.start : hit.end])
        if hit.kind == "age":
            keep = any(int(number) >= 90 for number in digits)
        elif hit.kind in ("name", "institution", "address"):
            keep = any(len(word) > 1 and word not in ORDINARY | EPONYMS | INSTITUTION_FILLERS for word in words)
        else:
            keep = bool(digits or words)
        if keep:
            yield hit


_LETTERS = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_DIGITS = re.compile(r"\d+")
