"""Checks on a descriptor file that a schema cannot make: grammar, whether a sentence says what it should, duplicates.

An error is something a diagnosis would be wrong by; a warning is something a person should look at.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vlp import config
from vlp.errors import ConfigError
from vlp.prompts import lexicon
from vlp.prompts.descriptors import PACKAGE_FILE, Descriptor, DescriptorFile, DescriptorSet, load_descriptors
from vlp.prompts.understanding import contradiction, statements_in
from vlp.records import Certainty
from vlp.reports.findings import NO_FINDING

Severity = Literal["error", "warning"]

MAX_WORDS = 64
"""Words of a sentence beyond which no text tower of this package reads it whole."""
_ARTICLE = re.compile(r"\b(an?) ([^\W_][\w-]*)", re.IGNORECASE)
_SOUNDS_LIKE_A_CONSONANT = re.compile(r"(?:u(?:n[ai]|s[eu]|ter)|eu|one|once|ew)", re.IGNORECASE)
"""Beginnings that are written with a vowel and said with a consonant: "a unilateral", "a used", "a one-sided"."""
_SOUNDS_LIKE_A_VOWEL = re.compile(r"(?:hour|honest|heir|x-|8|11\b|18\b|[FHLMNRSX](?:[A-Z]+|-))")
"""Beginnings that are said with a vowel: "an x-ray", "an MRI", "an 8 mm nodule"."""
_REPEATED = re.compile(r"\b(\w+) \1\b", re.IGNORECASE)
_FORM = re.compile(r"[A-Z][^\n]*[^\s.]\.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something wrong with a descriptor file."""

    where: str
    """The file's key, or "finding / id / polarity"."""
    what: str
    severity: Severity
    advice: str
    """What to do about it."""


def lint(path: Path | str | None = None) -> tuple[Fault, ...]:
    """Every fault of a descriptor file, errors first; of the package's own without `path`.

    A file that cannot be loaded at all gives what `load_descriptors` says of it, as errors.
    """
    source = Path(path) if path is not None else PACKAGE_FILE
    try:
        descriptors = load_descriptors(source)
    except ConfigError as error:
        return tuple(_error("file", line, "correct the file, then lint it again") for line in str(error).splitlines())
    content = config.load(DescriptorFile, source)
    faults = [
        *_of_origin(content, descriptors),
        *_of_anatomies(content, descriptors),
        *_of_repetition(descriptors),
        *(fault for pair in descriptors.all for fault in _of_pair(pair)),
    ]
    return tuple(sorted(faults, key=lambda fault: fault.severity))


def _error(where: str, what: str, advice: str) -> Fault:
    return Fault(where=where, what=what, severity="error", advice=advice)


def _warning(where: str, what: str, advice: str) -> Fault:
    return Fault(where=where, what=what, severity="warning", advice=advice)


def _of_origin(content: DescriptorFile, descriptors: DescriptorSet) -> Iterator[Fault]:
    pairs = [pair for group in descriptors.observed.values() for pair in group]
    for field, key, advice in (
        ("source", "source", "say where the words come from"),
        ("license", "license", "say under which licence they may be used"),
        ("reviewer", "reviewed_by", "have a radiologist read them, then name the reviewer"),
    ):
        missing = sum(not getattr(pair, field) for pair in pairs)
        if missing and not getattr(content, key):
            yield _warning(key, f"{missing} of {len(pairs)} descriptors have no {field}", advice)


def _of_anatomies(content: DescriptorFile, descriptors: DescriptorSet) -> Iterator[Fault]:
    known = set(content.anatomies)
    used = {pair.anatomy for pair in descriptors.all if pair.anatomy}
    for pair in descriptors.all:
        if known and pair.anatomy and pair.anatomy not in known:
            what = f"unknown anatomy {pair.anatomy!r}"
            yield _error(_place(pair), what, "use one of `anatomies`, or add it there")
    for name in content.anatomies:
        if places := lexicon.elsewhere(name):
            yield _error("anatomies", f"no chest radiograph shows {places[0]!r}", "leave it out")
        elif name not in used:
            yield _warning("anatomies", f"{name!r} is used by no descriptor", "leave it out")


def _of_repetition(descriptors: DescriptorSet) -> Iterator[Fault]:
    owners: defaultdict[str, list[tuple[Descriptor, str]]] = defaultdict(list)
    for pair in descriptors.all:
        for polarity, sentence in _sides(pair):
            owners[" ".join(lexicon.words(sentence))].append((pair, polarity))
    for group in owners.values():
        for pair, polarity in group[1:]:
            first, side = group[0]
            what = f"the same sentence as {_place(first)} / {side}"
            yield _error(_place(pair, polarity), what, "one sentence is evidence for one thing; word them apart")


def _of_pair(pair: Descriptor) -> Iterator[Fault]:
    for polarity, sentence in _sides(pair):
        where = _place(pair, polarity)
        yield from _of_form(where, sentence)
        yield from _of_words(where, sentence)
        if reason := contradiction(sentence, statements_in(sentence)):
            yield _error(where, f"contradicts itself: {reason}", "say one thing")
        yield from _of_side(where, pair, sentence)
    # What is read as "nothing is found" turns round what it means to deny.
    affirmed, denied = (pair.positive, pair.negative)
    if pair.finding == NO_FINDING:
        affirmed, denied = denied, affirmed
    yield from _of_affirmation(pair, affirmed, "negative" if affirmed is pair.negative else "positive")
    yield from _of_denial(pair, denied, "positive" if denied is pair.positive else "negative")
    if places := lexicon.elsewhere(f"{pair.anatomy} {pair.text} {pair.positive} {pair.negative}"):
        yield _error(_place(pair), f"no chest radiograph shows {places[0]!r}", "ask for something that is on the image")


def _of_affirmation(pair: Descriptor, sentence: str, polarity: str) -> Iterator[Fault]:
    said = [one for one in statements_in(sentence) if one.finding != NO_FINDING]
    for one in said:
        if one.certainty is not Certainty.PRESENT:
            what = f"is read as saying that {one.finding} is {one.certainty}"
            yield _error(_place(pair, polarity), what, "say plainly what is there")
    if not said and (denials := lexicon.denials(sentence)) and pair.finding != NO_FINDING:
        yield _error(_place(pair, polarity), f"denies ({denials[0]!r})", "say what is there, not what is missing")


def _of_denial(pair: Descriptor, sentence: str, polarity: str) -> Iterator[Fault]:
    where, said = _place(pair, polarity), [one for one in statements_in(sentence) if one.finding != NO_FINDING]
    wrong = [one for one in said if one.certainty is not Certainty.ABSENT and one.finding == pair.finding]
    if wrong:
        what = f"is read as saying that {wrong[0].finding} is {wrong[0].certainty}"
        yield _error(where, what, "deny it in plain words: 'There is no ...'")
    elif not (lexicon.denials(sentence) or any(one.certainty is Certainty.ABSENT for one in said)):
        yield _error(where, "denies nothing that can be recognised", "deny it in plain words: 'There is no ...'")


def _of_form(where: str, sentence: str) -> Iterator[Fault]:
    if hidden := [letter for letter in sentence if unicodedata.category(letter) in {"Cc", "Cf", "Co", "Cs", "Cn"}]:
        yield _error(where, f"holds the control character U+{ord(hidden[0]):04X}", "delete it")
    if _FORM.fullmatch(sentence) is None or "  " in sentence:
        yield _error(where, "is no sentence", "begin with a capital, end with one full stop, single spaces between")
    if (count := len(sentence.split())) > MAX_WORDS:
        yield _error(where, f"has {count} words, the most is {MAX_WORDS}", "say less")
    if repeated := _REPEATED.search(sentence):
        yield _error(where, f"repeats {repeated[1]!r}", "write it once")
    for article, word in _ARTICLE.findall(sentence):
        if (article.lower() == "an") is not _takes_an(word):
            wanted = "an" if _takes_an(word) else "a"
            yield _error(where, f"'{article} {word}'", f"write '{wanted} {word}'")


def _takes_an(word: str) -> bool:
    if _SOUNDS_LIKE_A_VOWEL.match(word):
        return True
    return word[0].lower() in "aeiou" and _SOUNDS_LIKE_A_CONSONANT.match(word) is None


def _of_words(where: str, sentence: str) -> Iterator[Fault]:
    if changed := lexicon.changes(sentence):
        what = f"compares with another study ({changed[0]!r})"
        yield _warning(where, what, "say how it is now: the model sees one study")
    for word in dict.fromkeys(lexicon.unknown(sentence)[0]):
        meant = lexicon.meant(word)
        advice = f"did you mean {meant!r}?" if meant else "check the spelling, or use a commoner word"
        yield _warning(where, f"{word!r} is not known from chest reports", advice)


def _of_side(where: str, pair: Descriptor, sentence: str) -> Iterator[Fault]:
    named = set(lexicon.words(sentence))
    other = {"left": "right", "right": "left"}.get(pair.laterality or "")
    if other is not None and other in named:
        yield _error(where, f"speaks of the {other} side, its laterality is {pair.laterality}", "make them agree")
    if pair.laterality == "midline" and named & {"left", "right"}:
        yield _warning(where, "names a side, its laterality is midline", "make them agree")


def _sides(pair: Descriptor) -> tuple[tuple[str, str], tuple[str, str]]:
    return ("positive", pair.positive), ("negative", pair.negative)


def _place(pair: Descriptor, polarity: str | None = None) -> str:
    return " / ".join(filter(None, (pair.finding, pair.id, polarity)))
