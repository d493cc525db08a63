"""Whether what a model says of a sentence stands in it: quote, finding, place, and no contradiction to its words."""

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum

from vlp.records import Certainty
from vlp.reports.findings import VOCABULARY, canonical
from vlp.reports.locations import SEVERITIES, SIDES, ZONES, compose, find_places
from vlp.reports.phrases import find_words
from vlp.reports.reader import Statement, find_statements
from vlp.reports.readers.prompt import Said

VERSION = "1"
"""Counts up when the checks change: what passed them is cached."""


class Unusable(StrEnum):
    """Why a statement of a model is dropped."""

    NO_SENTENCE = "no such sentence"
    NOT_WRITTEN = "not in the text"
    UNKNOWN = "unknown finding"
    PLACE = "place not in the text"
    CONTRADICTION = "contradicts the words"


def verify(
    said: Sequence[Said], sentences: Sequence[str], *, contradictions: bool
) -> tuple[list[list[Statement]], Counter[str]]:
    """Per sentence the statements that hold, and how many do not, by reason.

    A statement is dropped where its sentence does not exist, its quote is not in that sentence (white space and case
    aside), its finding is none of the vocabulary, it names a side or zone that the sentence does not name, or, unless
    `contradictions` are let through, the rules read the very opposite (present, absent) of that finding there.
    """
    kept: list[list[Statement]] = [[] for _ in sentences]
    dropped: Counter[str] = Counter()
    for one in said:
        if not 0 <= one.sentence < len(sentences):
            dropped[Unusable.NO_SENTENCE] += 1
            continue
        reason, statement = _check(one, sentences[one.sentence], contradictions=contradictions)
        if reason is not None:
            dropped[reason] += 1
        elif statement is not None and statement not in kept[one.sentence]:
            kept[one.sentence].append(statement)
    return kept, dropped


def _check(one: Said, sentence: str, *, contradictions: bool) -> tuple[Unusable | None, Statement | None]:
    quote = _plain(one.quote)
    if not any(letter.isalnum() for letter in quote) or quote not in _plain(sentence):
        return Unusable.NOT_WRITTEN, None
    finding = canonical(one.finding)
    if finding is None:
        return Unusable.UNKNOWN, None
    side = one.side if one.side in SIDES else None
    zone = one.zone if one.zone in ZONES else None
    if not _is_named(side, zone, sentence):
        return Unusable.PLACE, None
    certainty = Certainty(one.certainty)
    if not contradictions and _contradicts(finding, certainty, sentence):
        return Unusable.CONTRADICTION, None
    location = compose(side, zone) if VOCABULARY[finding].place else None
    severity = one.severity if one.severity in SEVERITIES and certainty is not Certainty.ABSENT else None
    return None, Statement(finding=finding, certainty=certainty, location=location, severity=severity)


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _is_named(side: str | None, zone: str | None, sentence: str) -> bool:
    """Whether the sentence names the side and the zone, in whatever words."""
    places = find_places(find_words(sentence, 0, len(sentence)), text=sentence)
    sides = {place.side for place in places}
    if "bilateral" in sides:
        sides |= {"left", "right"}
    if {"left", "right"} <= sides:
        sides.add("bilateral")
    return side in {None, *sides} and zone in {None, *(place.zone for place in places)}


def _contradicts(finding: str, certainty: Certainty, sentence: str) -> bool:
    """Whether the rules read the finding in this sentence, and only the opposite of it."""
    statements, _ = find_statements(sentence)
    read = {one.certainty for one in statements if one.finding == finding and not one.sign}
    return {certainty, *read} == {Certainty.PRESENT, Certainty.ABSENT} and certainty not in read
