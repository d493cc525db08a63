"""Where a report's findings and impression are, in the dialects reports are written in.

Headings are known words before a colon, or alone on a line, in upper, lower or mixed case, English, German or Spanish.
So are title lines ("AP CHEST, 9:10 P.M., ___"), banners ("FINAL REPORT", "FINAL ADDENDUM") and ruled lines.
A report without any is one section named "report".  What stands before the first heading is "report" too, and so is
what follows a blank line after indication, history, technique or comparison: many reports put their findings there
without a heading.
"""

import re
from collections.abc import Iterator, Mapping

from vlp.records import Section
from vlp.reports import marks

READ: frozenset[str] = frozenset({"findings", "impression", "report", "addendum", "wet read"})
"""Sections whose sentences are statements about the study."""

_AND = " ?(?:and|&|/) ?"
_HEADINGS: dict[str, tuple[str, ...]] = {
    "findings": ("(?:clinical |radiographic )?findings?", f"findings?{_AND}impressions?", "observations?",
                 "description", "hallazgos?", "befunde?"),
    "impression": ("impressions?", f"impressions?{_AND}(?:plan|recommendations?|findings?)", "conclusions?", "opinion",
                   "interpretation", "summary", "diagnos[ie]s", "assessment", f"assessment{_AND}plan",
                   "impresi[oó]n(?: diagn[oó]stica)?", "conclusi[oó]n(?:es)?", "juicio diagn[oó]stico",
                   "beurteilung", "zusammenfassung"),
    "indication": ("(?:clinical )?indications?(?: for (?:the )?(?:exam(?:ination)?|study))?",
                   "reasons? for (?:the |this )?(?:exam(?:ination)?|study|request|visit)", "reason",
                   "clinical (?:information|data|question|context|statement)", "indicaci[oó]n", "motivo",
                   "datos cl[ií]nicos", "fragestellung", "indikation", "klinische angaben"),
    "history": ("(?:clinical |patient |medical )?history", "symptoms?", "anamnese"),
    "technique": ("techniques?", "procedure(?: comments?)?", "views?", "dose", "t[eé]cnica", "technik"),
    "comparison": ("comparisons?(?: (?:exam(?:ination)?|stud)(?:s|y|ies)?)?",
                   "(?:prior|reference) (?:stud(?:y|ies)|exams?)", "comparaci[oó]n", "vergleich", "voraufnahmen?"),
    "exam": ("(?:type of )?exam(?:ination)?s?(?: type)?", "study(?: date)?", "date(?: of (?:exam(?:ination)?|study))?",
             "untersuchung", "estudio"),
    "report": ("(?:final |preliminary )?report", "chest(?: x-?ray| radiograph)?", "narrative", "informe"),
    "wet read": ("wet read(?: version ?#?\\d{1,2})?", "preliminary (?:read|interpretation|findings)"),
    "addendum": ("(?:final |revised )?addendum(?: ?#?\\d{1,2})?(?: to (?:the )?(?:prior |final )?report)?",),
    "other": ("notifications?", "recommendations?", "(?:electronically )?signed(?: by)?", "dictated by", "attending",
              "critical results?", "end of impression", "accession number", "physician", "communications?"),
}  # fmt: skip
_ALONE = frozenset({"findings", "impression", "indication", "history", "technique", "comparison", "addendum",
                    "wet read"})  # fmt: skip
"""Headings recognised without a colon where nothing else stands on their line."""
_BANNERS = frozenset({"final report", "preliminary report", "end of impression", "narrative"})
"""So are these of the others."""

_ANY = "|".join(sorted((form for forms in _HEADINGS.values() for form in forms), key=len, reverse=True))
_HEADING = re.compile(rf"(?<![^\W_])(?P<words>{_ANY})[ \t]*(?::|(?=\r?\n|\r|$))", re.IGNORECASE | re.MULTILINE)
_NAME = {name: re.compile("|".join(forms), re.IGNORECASE) for name, forms in _HEADINGS.items()}
_TITLE_WORD = (
    r"(?:single|one|two|portable|bedside|ap|pa|frontal|lateral|upright|supine|erect|semi-?erect|semi-?upright|and|&"
    r"|decubitus|view|views|examination|exam|study|film|radiograph|radiographs|radiographic|radiography|x-?rays?|of|the|at"
    r"|on|performed|chest|[ap]\.?m\.?|[\d:/.-]+|" + marks.PATTERN + r")"
)
_TITLE = re.compile(
    rf"^[ \t]*(?=[^\n:]{{0,80}}?chest)(?P<words>{_TITLE_WORD}(?:[ ,()]+{_TITLE_WORD}){{0,14}}[ ,.)]*)(?P<end>:|\r?$)",
    re.IGNORECASE | re.MULTILINE,
)
_RULE = re.compile(r"^[ \t]*[_=*-]{8,}[ \t\r]*$", re.MULTILINE)
_GRADE = re.compile(r"\s*\d ?- ?[A-Z]")
"""CheXpert Plus closes with a grade: "SUMMARY: 2-ABNORMAL, PREVIOUSLY REPORTED"."""
_LOOK_BACK = 80
"""Characters in front of a heading that decide whether it is one."""
_BLANK_LINE = re.compile(r"\n[ \t\r]*\n")


def find_sections(text: str) -> tuple[Section, ...]:
    """The named spans of a report in order, without their headings and without white space around them.

    Together they hold every word that is not a heading; the same name may come twice.
    """
    sections: list[Section] = []
    name, start = "report", 0
    for next_name, begin, end in _breaks(text):
        sections.extend(_unheaded(text, name, start, begin))
        name, start = next_name, end
    sections.extend(_unheaded(text, name, start, len(text)))
    return tuple(sections)


def report_text(sections: Mapping[str, str]) -> str:
    """One report from the columns an archive keeps its sections in, in their order; columns without words are left out.

    Names are headings or columns ("section_findings", "Impression"); under "report" or "last_paragraph" stands prose
    that has no heading of its own.
    """
    parts: list[str] = []
    for name, text in sections.items():
        if text.strip():
            heading = name.removeprefix("section_").replace("_", " ").strip().upper()
            parts.append(text if heading in {"REPORT", "LAST PARAGRAPH"} else f"{heading}: {text}")
    return "\n\n".join(parts)


def _breaks(text: str) -> list[tuple[str, int, int]]:
    """(name of what follows, begin, end) of every heading, title line and ruled line, in order and apart."""
    found = [*_headings(text), *(("report", *match.span()) for match in _RULE.finditer(text)), *_titles(text)]
    breaks: list[tuple[str, int, int]] = []
    for name, begin, end in sorted(found, key=lambda item: (item[1], -item[2])):
        if not breaks or begin >= breaks[-1][2]:
            breaks.append((name, begin, end))
    return breaks


def _headings(text: str) -> Iterator[tuple[str, int, int]]:
    for match in _HEADING.finditer(text):
        words = match["words"]
        name = next(name for name, pattern in _NAME.items() if pattern.fullmatch(words))
        before = text[max(0, match.start() - _LOOK_BACK) : match.start()]
        line_start = not before.rpartition("\n")[2].strip()
        if match.group().endswith(":"):
            loose = name in {"findings", "impression"} or words.isupper()
            if loose or line_start or before.rstrip().endswith((".", "!", "?", ":", "REPORT")) or before.endswith("  "):
                graded = name == "impression" and words.lower() == "summary" and _GRADE.match(text, match.end())
                yield "other" if graded else name, match.start(), match.end()
        elif line_start and (name in _ALONE or words.lower() in _BANNERS):
            yield name, match.start(), match.end()


def _titles(text: str) -> Iterator[tuple[str, int, int]]:
    """Lines that only say which examination this is; without a colon only in capitals."""
    for match in _TITLE.finditer(text) if "chest" in text.lower() else ():
        if match["end"] == ":" or match["words"].isupper():
            yield "report", match.start(), match.end()


def _unheaded(text: str, name: str, start: int, end: int) -> Iterator[Section]:
    """One section, or two where prose without a heading follows a section that says nothing about the findings."""
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
