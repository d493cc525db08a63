"""Sentences as spans of the report.

A sentence ends at ".", "!" or "?", at a blank line, before an item of a list, and at a line end where the next line
starts a sentence.  It does not end behind an abbreviation or an initial, or inside a number.  Numbers and bullets of
a list are left out of the span.  White space at both ends is left out; within, line wraps stay as they are.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vlp.records import Section
from vlp.reports.sections import READ


@dataclass(frozen=True, slots=True)
class Span:
    """One sentence as written: `text[start:end]`, and the section it stands in."""

    start: int
    end: int
    section: str


_ABBREVIATIONS = frozenset(
    [
        "dr",
        "drs",
        "mr",
        "mrs",
        "ms",
        "st",
        "vs",
        "approx",
        "e.g",
        "i.e",
        "fig",
        "prof",
        "resp",
        "ant",
        "lat",
        "incl",
        "viz",
        "ca",
    ]
)
"""Words whose full stop does not end a sentence (without the stop)."""

_STOP = re.compile(r"[.!?]+[)\"'’]*(?=\s|$|[A-Z(])|\n[ \t\r]*\n|\r?\n", re.MULTILINE)
_LIST_MARK = re.compile(r"\s*(?:#?\(?\d{1,2}[.):](?!\d)|[-*•‣◦–—]+(?=\s)|\(?[a-hA-H]\))\s*")
_LIST_LINE = re.compile(r"[ \t]*(?:#?\(?\d{1,2}[.)](?!\d)|[-*•‣◦–—]+(?=\s))")
_BEFORE_INITIAL = re.compile(r"(?:\b(?:Drs?|Mrs?|Ms|Prof)\.? |\b[A-Z]\. )[A-Z]$")
_LAST_WORD = re.compile(r"([^\W_][\w.]*)$")
_CONTEXT = 200
"""Characters on either side of a candidate that decide whether it ends a sentence."""
_CONTINUES = frozenset(
    [
        "a",
        "an",
        "and",
        "are",
        "as",
        "at",
        "been",
        "by",
        "for",
        "from",
        "has",
        "have",
        "in",
        "is",
        "no",
        "not",
        "of",
        "on",
        "or",
        "that",
        "the",
        "to",
        "was",
        "were",
        "which",
        "with",
        "without",
        "dr",
    ]
)
"""Words a line cannot end a sentence with."""


def find_sentences(text: str, sections: Sequence[Section]) -> tuple[Span, ...]:
    """The sentences of the sections that make statements about the study (`sections.READ`), in order."""
    return tuple(
        Span(start, end, section.name)
        for section in sections
        if section.name in READ
        for start, end in _split(text, section.start, section.end)
    )


def _split(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    for stop in _STOP.finditer(text, start, end):
        if _ends_sentence(text, start, stop, end):
            yield from _trimmed(text, start, stop.end())
            start = stop.end()
    yield from _trimmed(text, start, end)


def _ends_sentence(text: str, start: int, stop: re.Match[str], end: int) -> bool:
    """Whether the candidate `stop` ends the sentence that began at `start`."""
    before = text[max(start, stop.start() - _CONTEXT) : stop.start()]
    after = text[stop.end() : min(end, stop.end() + _CONTEXT)]
    if stop.group().startswith(("\n", "\r")):
        return stop.group().count("\n") > 1 or _line_ends_sentence(before, after)
    if not stop.group().startswith("."):
        return True
    if _LIST_MARK.fullmatch(text, start, stop.end()):
        return False
    last = _LAST_WORD.search(before)
    if last is None:
        return True
    word = last.group()
    if len(word) == 1 and word.isupper() and after[:1].isspace() and _BEFORE_INITIAL.search(before):
        return False
    return word.lower() not in _ABBREVIATIONS


def _line_ends_sentence(line: str, rest: str) -> bool:
    """Whether a single line break between `line` and `rest` ends a sentence rather than wrapping it."""
    if _LIST_LINE.match(rest):
        return True
    following = rest.lstrip(" \t")
    words = line.split()
    if not words or not following[:1].isupper() or not following[1:2].islower():
        return False
    return words[-1].lower() not in _CONTINUES and not line.rstrip().endswith((",", "-", "/"))


def _trimmed(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The span without a list mark and white space, if a letter or digit is left."""
    if mark := _LIST_MARK.match(text, start, end):
        start = mark.end()
    piece = text[start:end]
    start += len(piece) - len(piece.lstrip())
    end = start + len(piece.strip())
    if any(letter.isalnum() for letter in text[start:end]):
        yield start, end
