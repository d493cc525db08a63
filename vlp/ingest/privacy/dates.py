"""Dates in a text and in a person's time: found in many forms, moved by a person's own number of whole days.

A shift is the same for all of a person's dates, so intervals stay exactly what they were; no two dates of different
persons can be compared afterwards.  A year alone is no date in this sense, nor is a time of day.
"""

import datetime
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

DateOrder = Literal["month_first", "day_first"]
_MONTHS = {
    "january": 1, "february": 2, "march": 3, "april": 4, "may": 5, "june": 6, "july": 7, "august": 8, "september": 9,
    "october": 10, "november": 11, "december": 12, "jan": 1, "feb": 2, "mar": 3, "apr": 4, "jun": 6, "jul": 7, "aug": 8,
    "sep": 9, "sept": 9, "oct": 10, "nov": 11, "dec": 12, "enero": 1, "febrero": 2, "marzo": 3, "abril": 4, "mayo": 5,
    "junio": 6, "julio": 7, "agosto": 8, "septiembre": 9, "setiembre": 9, "octubre": 10, "noviembre": 11,
    "diciembre": 12,
    "januar": 1, "februar": 2, "märz": 3, "mai": 5, "juni": 6, "juli": 7, "oktober": 10, "dezember": 12,
}  # fmt: skip
_ENGLISH = tuple(_MONTHS)[:12]
_NAME = rf"(?P<name>{'|'.join(sorted(_MONTHS, key=len, reverse=True))})(?![^\W\d_])\.?"
_DAY = r"(?P<day>3[01]|[12]\d|0?[1-9])"
_YEAR4 = r"(?P<year>(?:19|20)\d\d)"
_YEAR = r"(?P<year>(?:19|20)\d\d|['’]?\d\d)"
_ORDINAL = r"(?:st|nd|rd|th|º|\.)?"
_BEFORE, _AFTER = r"(?<![\w./-])", r"(?![\w/-]|[.,]\d)"
_NUMBER = r"(?P<first>3[01]|[12]\d|0?[1-9])(?P<gap>[/.-])(?P<second>3[01]|[12]\d|0?[1-9])"
_TIME = r"(?:T\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?"

_FULL = (
    rf"{_BEFORE}{_YEAR4}(?P<gap>[-/.])(?P<month>1[0-2]|0?[1-9])(?P=gap){_DAY}{_TIME}{_AFTER}",
    rf"{_BEFORE}{_YEAR4}(?P<month>1[0-2]|0[1-9])(?P<day>3[01]|[12]\d|0[1-9]){_AFTER}",
    rf"{_BEFORE}{_NUMBER}(?P=gap){_YEAR}{_AFTER}",
    rf"(?<![\w/]){_NAME}[\s-]*{_DAY}{_ORDINAL}(?:\s*,\s*|[\s-]+){_YEAR}{_AFTER}",
    rf"{_BEFORE}{_DAY}{_ORDINAL}[\s-]*(?:of\s+|de\s+)?{_NAME}(?:,?\s*|-|\s+del?\s+){_YEAR}{_AFTER}",
)
_PARTIAL = (
    rf"(?<![\w/]){_NAME}(?:\s*,\s*|[\s-]+|\s+of\s+|\s+del?\s+){_YEAR4}{_AFTER}",
    rf"{_BEFORE}(?P<month>1[0-2]|0?[1-9])[/-]{_YEAR4}{_AFTER}",
    rf"(?<![\w/]){_NAME}\s*{_DAY}(?:st|nd|rd|th)?(?![\w/%-]|\s*(?:mm|cm|ml|m|x|%|of)\b|[.,:]\d)",
    rf"{_BEFORE}{_DAY}(?:st|nd|rd|th)?\s+(?:of\s+|de\s+)?{_NAME}(?![\w-])",
    r"(?<=\bon )(?P<month>1[0-2]|0?[1-9])/(?P<day>3[01]|[12]\d|0?[1-9])(?![\w/-]|[.,]\d)",
    r"(?:\b(?:dated|comparison|compared (?:to|with)|since|until"
    r"|(?:exam(?:ination)?|study|film|radiograph|x-?ray|cxr|ct|images?) (?:of|from))[: ]\s*)"
    r"(?P<hit>(?P<month>1[0-2]|0?[1-9])/(?P<day>3[01]|[12]\d|0?[1-9]))(?![\w/-]|[.,]\d|\s*(?:of|ribs?|systolic|murmur|months?|years?|weeks?)\b)",
)
_WORDLIKE = frozenset({"may", "march", "mar", "dec", "sep", "mai", "jun", "jan"})
"""Months that are words or codes too: they need a capital, and "may 12" is none."""
_COMPILED = tuple((re.compile(p, re.IGNORECASE), full) for ps, full in ((_FULL, True), (_PARTIAL, False)) for p in ps)


@dataclass(frozen=True, slots=True, kw_only=True)
class DateSpan:
    """Characters `start` up to `end` of a text are a date."""

    start: int
    end: int
    value: datetime.date | None
    """The day meant; None where day or year is left out."""


def find_dates(text: str, *, order: DateOrder = "month_first") -> tuple[DateSpan, ...]:
    """The dates in `text`, in order and without overlaps; `order` reads 3/4/2019, where either may be the day."""
    found: list[DateSpan] = []
    for pattern, full in _COMPILED:
        for match in pattern.finditer(text):
            start, end = match.span("hit") if "hit" in pattern.groupindex else match.span()
            if any(start < other.end and other.start < end for other in found):
                continue
            value = _value(match.groupdict(), order) if full else None
            if (value is not None or not full) and not _is_word(match.groupdict()):
                found.append(DateSpan(start=start, end=end, value=value))
    return tuple(sorted(found, key=lambda span: span.start))


def _is_word(parts: dict[str, str | None]) -> bool:
    """Whether the month is a word that is written small ("may 12")."""
    name = parts.get("name") or ""
    return name.lower() in _WORDLIKE and not name[0].isupper()


def _value(parts: dict[str, str | None], order: DateOrder) -> datetime.date | None:
    """The day that the parts of a match mean, if there is such a day."""
    year = int((parts["year"] or "").strip("'’"))
    if year < 100:
        year += 100 * _century(year)
    if parts.get("first"):
        first, second = int(parts["first"] or 0), int(parts["second"] or 0)
        month_first = second > 12 or (order == "month_first" and first <= 12)
        month, day = (first, second) if month_first else (second, first)
    else:
        name = parts.get("name")
        month = _MONTHS[name.lower()] if name else int(parts["month"] or 0)
        day = int(parts["day"] or 0)
    try:
        return datetime.date(year, month, day)
    except ValueError:
        return None


def _century(year: int) -> int:
    """Hundreds of years that a year of two digits leaves out."""
    return 20 if year < 60 else 19


def shift_days(digest: bytes, *, max_days: int) -> int:
    """A number of whole days in [-max_days, max_days] without 0, drawn evenly by the first 8 bytes of `digest`."""
    place = int.from_bytes(digest[:8], "big") * (2 * max_days) >> 64
    return place - max_days if place < max_days else place - max_days + 1


def shifted(text: str, span: DateSpan, *, days: int, order: DateOrder = "month_first") -> str | None:
    """The date at `span` moved by `days`, in exactly as many characters, or None where it has no day or does not fit.

    It is written like the original where that fits, else in a shorter form, and filled up with spaces.
    """
    if span.value is None:
        return None
    try:
        moved = span.value + datetime.timedelta(days=days)
    except OverflowError:
        return None
    room = span.end - span.start
    for form in _forms(text[span.start : span.end], moved, order):
        if len(form) <= room:
            return form.ljust(room)
    return None


def _forms(written: str, moved: datetime.date, order: DateOrder) -> Iterator[str]:
    """Ways to write a date, the most like the original first; never one that reads as another date."""
    gaps = re.findall(r"(?<=\d)[/.-](?=\d)", written)
    if len(gaps) == 2 and len(set(gaps)) == 1:
        yield from _numeric(written, gaps[0], moved, order)
    elif written.isdigit():
        yield moved.strftime("%Y%m%d")
    else:
        month = _ENGLISH[moved.month - 1].title()
        day_first = written[0].isdigit()
        for name in (month, month[:3]):
            full = f"{moved.day} {name} {moved.year}" if day_first else f"{name} {moved.day}, {moved.year}"
            yield full.upper() if written.isupper() else full
        yield moved.isoformat()
        yield f"{moved.day:02d}{month[:3].upper()}{moved.year}"


def _numeric(written: str, gap: str, moved: datetime.date, order: DateOrder) -> Iterator[str]:
    year_first = bool(re.match(r"\d{4}", written))
    two_digits = (
        not year_first and re.search(r"\d{4}", written) is None and moved.year // 100 == _century(moved.year % 100)
    )
    year = f"{moved.year % 100:02d}" if two_digits else str(moved.year)
    for day, month in ((f"{moved.day:02d}", f"{moved.month:02d}"), (str(moved.day), str(moved.month))):
        parts = (
            [year, month, day] if year_first else [month, day, year] if order == "month_first" else [day, month, year]
        )
        yield gap.join(parts)
