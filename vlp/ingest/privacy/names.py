"""Names of persons, found by what stands around them: cues, credentials, forms, given names.

A name goes on over capitalised words, initials and particles until an ordinary word (`words.ORDINARY`) or punctuation
ends it.  Names that were found are masked wherever else they stand.
"""

import re
from collections.abc import Iterable, Iterator

from vlp.ingest.privacy.cues import CHAINED, CUES, Cue
from vlp.ingest.privacy.phi import CAPITALISED, Hit
from vlp.ingest.privacy.words import EPONYMS, FIRST_NAMES, ORDINARY, PARTICLES

_MAX_WORDS = 4
_WORD = re.compile(r"[^\W\d_]{1,31}(?:['’-][^\W\d_]{1,31}){0,4}")
_SPACE = re.compile(r"[ \t]{1,2}")
_AFTER_INITIAL = re.compile(r"\.?[ \t]{0,2}")
_COMMA = re.compile(r",[ \t]*")
_AFTER_PARTICLES = re.compile(rf"(?:[ \t]{{1,2}}(?:{'|'.join(sorted(PARTICLES))}))*[ \t]{{1,2}}(?=[^\W\d_])")
_CREDENTIAL = (
    r"(?:M\.?D\.?|D\.?O\.?|R\.?N\.?|D?NP|PA-C|APRN|ARNP|CRNA|CNP|LPN|Ph\.?D\.?|MBBS|MBChB|FRCR|FRCPC?|FACR|MRCP|MPH|DPM"
    r"|DDS|RT(?:\(R\))?|R\.T\.(?:\(R\))?|RDMS)"
)
_CREDENTIALS = re.compile(rf"(?:,?[ \t]*{_CREDENTIAL}(?![\w-]))+")
_BEFORE_CREDENTIAL = re.compile(rf"(?<=[^\W_.])\.?,?[ \t]+{_CREDENTIAL}(?![\w-])")
_INITIAL = r"[A-Z]\.?"
_LAST_WORD = re.compile(rf"({CAPITALISED}|{_INITIAL})\.?[ \t]*$")

_CARET = re.compile(r"[^\W\d_][\w'-]*\^[\w'^-]*")
"""DICOM's DOE^JANE^Q."""
_DICTATION = re.compile(r"^[ \t]*([A-Z]{2,3}[:/][a-z]{2,4})[ \t]*$|(?<=MD / )([a-z]{2,4})$|(?<=MD/)([a-z]{2,4})$", re.M)
"""The initials of who dictated and who typed."""
_PAIR = re.compile(rf"(?<![\w'’-])({CAPITALISED})(?:[ \t]+{_INITIAL})?[ \t]+(?=[^\W\d_])")
_AGED = re.compile(
    rf"(?<![\w'’-])({CAPITALISED})(?:[ \t]+{_INITIAL})?[ \t]+{CAPITALISED}"
    r"(?=(?:,|[ \t]+(?:is|was))[ \t]+(?:an?[ \t]+)?\d{1,3}[ -]?(?:year|yr|y\.?/?o|[MF]\b))"
)
"""As in "Anna Cole is a 54 year old", "Anna Cole, 54F"."""
_LONE_LINE = re.compile(rf"^[ \t]*({CAPITALISED})[ \t]+{_INITIAL}[ \t]+{CAPITALISED}(?=[ \t]*$)", re.M)
_INVERTED = re.compile(
    rf"^[ \t]*(?P<name>(?P<last>{CAPITALISED}),[ \t]+(?P<first>{CAPITALISED})(?:[ \t]+{_INITIAL}(?!\w))*)"
    r"(?P<rest>[ \t]*[:(\n]|[ \t]{2,}|[ \t]*$|[ \t]+CHEST)?",
    re.M,
)


def find_names(text: str) -> tuple[Hit, ...]:
    """The names in `text` (without de-identification tokens), and every other place where one of them stands."""
    found = [*_after_cues(text), *_before_credentials(text), *_by_form(text), *_inverted(text)]
    return (*found, *_elsewhere(text, found))


def _after_cues(text: str) -> Iterator[Hit]:
    for cue in CUES:
        for match in cue.pattern.finditer(text):
            start = match.end()
            end = _name_end(text, start, cue)
            if end == start or (not cue.strict and match.group().isupper() and not _has_given_name(text[start:end])):
                continue  # in capitals everything looks like a name: PATIENT ROTATION
            yield Hit(match.start() if cue.inside else start, end, "name")
            yield from _chained(text, end)


def _chained(text: str, end: int) -> Iterator[Hit]:
    """The names that are joined to one which ends at `end`."""
    while joint := CHAINED.pattern.match(text, end):
        end = _name_end(text, joint.end(), CHAINED)
        if end == joint.end():
            return
        yield Hit(joint.end(), end, "name")


def _has_given_name(name: str) -> bool:
    return any(word.lower() in FIRST_NAMES for word in _WORD.findall(name))


def _name_end(text: str, start: int, cue: Cue) -> int:
    """Where the name ends that begins at `start`, credentials behind it included; `start` if there is none."""
    position, end, whole, words = start, start, False, list[str]()
    while len(words) < _MAX_WORDS and (match := _WORD.match(text, position)):
        word = match.group()
        if not _belongs(word, match.end(), text, cue, previous=words[-1] if words else ""):
            break
        words.append(word)
        position = match.end()
        if len(word) == 1:
            end = position + text.startswith(".", position)
            gap = _AFTER_INITIAL.match(text, position)
        else:
            if word.lower() not in PARTICLES:
                end, whole = position, True
            gap = _SPACE.match(text, position)
            if cue.comma and len(words) == 1:
                gap = gap or _COMMA.match(text, position)
        if gap is None:
            break
        position = gap.end()
    if not whole:
        return start
    credentials = _CREDENTIALS.match(text, end)
    return credentials.end() if credentials else end


def _belongs(word: str, end: int, text: str, cue: Cue, *, previous: str) -> bool:
    """Whether a word, which ends at `end`, is part of a name after this cue; `previous` is its word before, or ""."""
    lowered = word.lower()
    if len(word) == 1:
        return (word.isupper() or cue.lower) and text[end : end + 1] in ("", ".", ",", " ", "\n")
    if lowered in PARTICLES:
        following = _AFTER_PARTICLES.match(text, end)
        return bool(following and text[following.end()].isupper())
    if lowered in ORDINARY:
        # "Dr. Long", "Patient: Abigail Long": even an ordinary word is a name, unless everything is in capitals.
        return word.istitle() and cue.strict and (previous.lower() in FIRST_NAMES if previous else cue.certain)
    if not previous and not cue.strict and (lowered in EPONYMS or (word.isupper() and len(word) <= 4)):
        return False
    return word[0].isupper() or (cue.lower and len(word) > 2)


def _before_credentials(text: str) -> Iterator[Hit]:
    """Names as in "Anna B. Cole, MD": from the credentials backwards over capitalised words and initials."""
    for match in _BEFORE_CREDENTIAL.finditer(text):
        start = end = match.start()
        for _ in range(_MAX_WORDS):
            before = _LAST_WORD.search(text[max(0, start - 40) : start])
            if before is None or before[1].lower() in ORDINARY:
                break
            start -= len(before.group())
        if any(len(word) > 1 for word in _WORD.findall(text[start:end])):
            yield Hit(start, match.end(), "name")


def _by_form(text: str) -> Iterator[Hit]:
    for match in _CARET.finditer(text):
        yield Hit(*match.span(), "name")
    for match in _DICTATION.finditer(text):
        yield Hit(*match.span(match.lastindex or 0), "name")
    for match in _PAIR.finditer(text):
        end = _name_end(text, match.end(), CHAINED) if match[1].lower() in FIRST_NAMES else match.end()
        if end > match.end():
            yield Hit(match.start(), end, "name")
    for pattern in (_AGED, _LONE_LINE):
        for match in pattern.finditer(text):
            words = {word.lower() for word in _WORD.findall(match.group())}
            if match[1].lower() in FIRST_NAMES or not words & (ORDINARY | EPONYMS):
                yield Hit(match.start(1), match.end(), "name")


def _inverted(text: str) -> Iterator[Hit]:
    """Names as in "COLE, ANNA B" at the start of a line, with a given name or where only a name would stand."""
    for match in _INVERTED.finditer(text):
        last, first, rest = match["last"], match["first"], match["rest"]
        if first.lower() in FIRST_NAMES:
            yield Hit(*match.span("name"), "name")
        elif rest is not None and not {last.lower(), first.lower()} & (ORDINARY | EPONYMS):
            capitals = last.isupper() and len(last) > 2 and len(first) > 2
            if capitals or ":" in rest:
                yield Hit(*match.span("name"), "name")


def _elsewhere(text: str, found: Iterable[Hit]) -> Iterator[Hit]:
    """Other places where a word of a name stands with a capital, as in "Ms. Adler ... Adler denies pain"."""
    words = {word for hit in found for word in _WORD.findall(text[hit.start : hit.end])}
    telling = {
        word
        for word in words
        if word[0].isupper() and len(word) > 1 + word.isupper() and word.lower() not in ORDINARY | PARTICLES
    }
    if telling:
        joined = "|".join(re.escape(word) for word in sorted(telling))
        for match in re.finditer(rf"(?<![\w-])(?:{joined})(?![\w-])", text):
            yield Hit(*match.span(), "name")
