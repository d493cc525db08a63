"""Where a report's findings and impression are, in the dialects reports are written in.

Headings are known words before a colon, or alone on a line, in upper, lower or mixed case, English or Spanish.
A report without any is one section named "report".  What stands before the first heading is "report" too, and so is
what follows a blank line after indication, history, technique or comparison: many reports put their findings there
without a heading.
"""

import re
from collections.abc import Iterator

from vlp.records import Section

READ: frozenset[str] = frozenset({"findings", "impression", "report", "addendum"})
"""Sections whose sentences are statements about the study."""

_HEADINGS: dict[str, tuple[str, ...]] = {
    "findings": ("findings?", "findings? ?(?:and|/|&) ?impressions?", "observations?", "description", "hallazgos?"),
    "impression": ("impressions?", "conclusions?", "opinion", "interpretation", "summary", "diagnosis", "assessment",
                   "impresi[oó]n", "conclusi[oó]n(?:es)?"),
    "indication": ("(?:clinical )?indications?", "reason for (?:the )?(?:exam(?:ination)?|study)", "indicaci[oó]n",
                   "clinical (?:information|data|question|context)", "reason"),
    "history": ("(?:clinical |patient )?history", "symptoms?"),
    "technique": ("techniques?", "procedure", "views?", "t[eé]cnica"),
    "comparison": ("comparisons?(?: stud(?:y|ies))?", "prior studies", "comparaci[oó]n"),
    "exam": ("(?:type of )?exam(?:ination)?s?(?: type)?", "study(?: date)?", "date"),
    "report": ("(?:final |preliminary )?report", "wet read", "chest(?: x-?ray| radiograph)?"),
    "addendum": ("addendum",),
    "other": ("notifications?", "recommendations?", "(?:electronically )?signed(?: by)?", "dictated by", "attending",
              "critical results?"),
}  # fmt: skip
_ALONE = frozenset({"findings", "impression", "indication", "history", "technique", "comparison", "addendum"})
"""Headings recognised without a colon where nothing else stands on their line."""

_ANY = "|".join(sorted((form for forms in _HEADINGS.values() for form in forms), key=len, reverse=True))
_HEADING = re.compile(rf"(?<![^\W_])(?P<words>{_ANY})[ \t]*(?::|(?=\r?\n|\r|$))", re.IGNORECASE | re.MULTILINE)
_NAME = {name: re.compile("|".join(forms), re.IGNORECASE) for name, forms in _HEADINGS.items()}
_BANNER = re.compile(r"\s*(?:final|preliminary) report\s*", re.IGNORECASE)
_LOOK_BACK = 80
"""Characters in front of a heading that decide whether it is one."""
_BLANK_LINE = re.compile(r"\n[ \t\r]*\n")


def find_sections(text: str) -> tuple[Section, ...]:
    """The named spans of a report in order, without their headings and without white space around them.

    Together they hold every word that is not a heading; the same name may come twice.
    """
    headings = list(_headings(text))
    starts = [("report", 0), *((name, match.end()) for name, match in headings)]
    ends = [*(match.start() for _, match in headings), len(text)]
    sections: list[Section] = []
    for (name, start), end in zip(starts, ends, strict=True):
        sections.extend(_unheaded(text, name, start, end))
    return tuple(sections)


def _headings(text: str) -> Iterator[tuple[str, re.Match[str]]]:
    """Every heading with the name of its section."""
    for match in _HEADING.finditer(text):
        words = match["words"]
        name = next(name for name, pattern in _NAME.items() if pattern.fullmatch(words))
        before = text[max(0, match.start() - _LOOK_BACK) : match.start()]
        line_start = not before.rpartition("\n")[2].strip()
        if match.group().endswith(":"):
            loose = name in {"findings", "impression"} or words.isupper()
            if loose or line_start or before.rstrip().endswith((".", "!", "?", ":", "REPORT")) or before.endswith("  "):
                yield name, match
        elif line_start and name in _ALONE:
            yield name, match


def _unheaded(text: str, name: str, start: int, end: int) -> Iterator[Section]:
    """One section, or two where prose without a heading follows a section that says nothing about the findings."""
    if name == "report" and (banner := _BANNER.match(text, start, end)):
        start = banner.end()
    blank = _BLANK_LINE.search(text, start + _leading_space(text, start, end), end) if name not in READ else None
    pieces = [(name, start, end)]
    if blank and name != "other":
        pieces = [(name, start, blank.start()), ("report", blank.end(), end)]
    for piece_name, piece_start, piece_end in pieces:
        piece_start += _leading_space(text, piece_start, piece_end)
        piece_end = piece_start + len(text[piece_start:piece_end].rstrip())
        if piece_end > piece_start:
            yield Section(name=piece_name, start=piece_start, end=piece_end)


def _leading_space(text: str, start: int, end: int) -> int:
    piece = text[start:end]
    return len(piece) - len(piece.lstrip())
