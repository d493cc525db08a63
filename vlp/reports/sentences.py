"""Sentences as spans of the report.

A sentence ends at ".", "!" or "?", at a blank line, before an item of a list, and at a line end that nothing forced
where the next line starts a sentence.  It does not end behind an abbreviation or an initial, or inside a number or the
mark of a removed word.  A line end is forced where the next word would not have fitted into the width of the text.
Numbers and bullets of a list are left out of the span.  White space at both ends is left out; within, line wraps stay
as they are.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from vlp.records import Section
from vlp.reports.marks import find_marks
from vlp.reports.phrases import word_set
from vlp.reports.sections import READ


@dataclass(frozen=True, slots=True)
class Span:
    """One sentence as written: `text[start:end]`, and the section it stands in."""

    start: int
    end: int
    section: str


_TITLES = word_set("dr drs mr mrs ms prof st vs approx e.g i.e viz cf")
"""Words whose full stop never ends a sentence (without the stop)."""
_SHORTENED = word_set(
    "a.m p.m ant bilat ca cm est ext fig fr hx incl inf int l lat lt max med min mm post prox pt pts r resp rt sup yr"
    " yrs jan feb mar apr jun jul aug sep sept oct nov dec"
)
"""Words whose full stop ends a sentence only where the next one starts with a capital."""
_UNITS = frozenset({"a.m", "p.m", "cm", "mm", "yr", "yrs", "max", "min"})
"""Those of them that may close a sentence of capitals."""

_STOP = re.compile(r"[.!?]+[)\"'’]*(?=\s|$|[A-Z(])|\n[ \t\r]*\n|\r?\n", re.MULTILINE)
_LIST_MARK = re.compile(r"\s*(?:#?\(?\d{1,2}[.):](?!\d)|[-*•‣◦–—]+(?=\s)|\(?[a-hA-H]\))\s*")
_LIST_LINE = re.compile(r"[ \t]*(?:#?\(?\d{1,2}[.)](?!\d)|[-*•‣◦–—]+(?=\s))")
_ITEM = re.compile(r"(?:(?<=[\s.;:])|^)#?\(?(?P<number>\d{1,2})[.)](?![\d,])")
_BEFORE_INITIAL = re.compile(r"(?:\b(?:Drs?|Mrs?|Ms|Prof)\.? |\b[A-Z]\. )[A-Z]$")
_INITIALS = re.compile(r"[A-Z]\.")
_LAST_WORD = re.compile(r"([^\W_][\w.]*)$")
_CONTEXT = 200
"""Characters on either side of a candidate that decide whether it ends a sentence."""
_LEAST_WIDTH = 50
"""Characters per line below which a text is taken for a list of short lines rather than for wrapped prose."""
_CONTINUES = word_set(
    "a an and are as at been by for from has have in is no not of on or that the to was were which with without dr"
)
"""Words a line cannot end a sentence with."""
_NAMES = word_set(
    "dobbhoff dobhoff foley hickman kerley mediport port port-a-cath swan swan-ganz january february march april may"
    " june july august september october november december"
)
"""Words with a capital of their own."""


def find_sentences(text: str, sections: Sequence[Section]) -> tuple[Span, ...]:
    """The sentences of the sections that make statements about the study (`sections.READ`), in order."""
    return tuple(
        Span(start, end, section.name)
        for section in sections
        if section.name in READ
        for start, end in _Prose.of(text, section.start, section.end).split()
    )


@dataclass(frozen=True, slots=True)
class _Prose:
    """The words of one section, and what decides about all its line ends and stops."""

    text: str
    start: int
    end: int
    width: int
    """Characters of the longest line."""
    stopped: bool
    """Whether it closes with a stop, as prose does and lists of short lines do not."""
    marks: list[tuple[int, int]]

    @classmethod
    def of(cls, text: str, start: int, end: int) -> "_Prose":
        line_start = text.rfind("\n", 0, start) + 1
        words = text[start:end]
        lines = text[line_start:end].split("\n")
        offset = start if "[" in words else end
        marks = [(begin + offset, stop + offset) for begin, stop in find_marks(text[offset:end])]
        width = max(len(line.rstrip()) for line in lines)
        return cls(text, start, end, width, words.endswith((".", "!", "?")), marks)

    def split(self) -> Iterator[tuple[int, int]]:
        """The spans of its sentences."""
        edges = [self.start, *self._items(), self.end]
        for start, end in pairwise(edges):
            for stop in _STOP.finditer(self.text, start, end):
                if self._ends_sentence(start, stop, end):
                    yield from _trimmed(self.text, start, stop.end())
                    start = stop.end()
            yield from _trimmed(self.text, start, end)

    def _items(self) -> Iterator[int]:
        """Where the items of a numbered list begin that is counted from 1 at the start of the section."""
        expected = 1
        for item in _ITEM.finditer(self.text, self.start, self.end):
            if int(item["number"]) != expected or (expected == 1 and item.start() != self.start):
                continue
            expected += 1
            if item.start() > self.start:
                yield item.start()

    def _ends_sentence(self, start: int, stop: re.Match[str], end: int) -> bool:
        """Whether the candidate `stop` ends the sentence that began at `start`."""
        after = self.text[stop.end() : min(end, stop.end() + _CONTEXT)]
        if stop.group().startswith(("\n", "\r")):
            return stop.group().count("\n") > 1 or self._line_ends_sentence(stop, after)
        if any(begin < stop.end() and stop.start() < finish for begin, finish in self.marks):
            return False
        before = self.text[max(start, stop.start() - _CONTEXT) : stop.start()]
        if stop.group().startswith("?"):
            asks = not before or before[-1:].isspace()  # "? pneumonia" goes on with what it asks
            return not (asks and after.lstrip()[:1].islower())
        if not stop.group().startswith("."):
            return True
        if _LIST_MARK.fullmatch(self.text, start, stop.end()):
            return False
        last = _LAST_WORD.search(before)
        return last is None or not _is_short(last.group(), before, after)

    def _line_ends_sentence(self, stop: re.Match[str], after: str) -> bool:
        """Whether a single line break ends a sentence rather than wrapping it."""
        if _LIST_LINE.match(after):
            return True
        line = self.text[self.text.rfind("\n", 0, stop.start()) + 1 : stop.start()].rstrip()
        following, words = after.split(maxsplit=1)[:1], line.split()
        if not words or not following or not (following[0][0].isupper() and following[0][1:2].islower()):
            return False
        if words[-1].lower() in _CONTINUES or line.endswith((",", "-", "/")) or following[0].lower() in _NAMES:
            return False
        forced = self.width >= _LEAST_WIDTH and len(line) + 1 + len(following[0]) > self.width
        return not (forced and self.stopped)


def _is_short(word: str, before: str, after: str) -> bool:
    """Whether the stop behind `word` belongs to it: an abbreviation or an initial."""
    lower, following = word.lower(), after.lstrip()[:1]
    initial = len(word) == 1 and word.isupper()
    if initial and (_INITIALS.match(after) or (after[:1].isspace() and _BEFORE_INITIAL.search(before))):
        return True
    if lower in _TITLES:
        return True
    if lower == "no":
        return following.isdigit() or following == "#"
    if lower not in _SHORTENED or not following:
        return False
    return not following.isupper() or (lower not in _UNITS and before.isupper())


def _trimmed(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The span without a list mark and white space, if a letter or digit is left."""
    if mark := _LIST_MARK.match(text, start, end):
        start = mark.end()
    piece = text[start:end]
    start += len(piece) - len(piece.lstrip())
    end = start + len(piece.strip())
    if any(letter.isalnum() for letter in text[start:end]):
        yield start, end
