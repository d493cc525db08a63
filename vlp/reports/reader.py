"""From a report's text to statements: one `Sentence` per finding a written sentence speaks of, by rules alone."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cache, lru_cache
from types import MappingProxyType

from vlp.records import Certainty, Sentence
from vlp.reports.certainty import Mention, Polarity, Verdict, fillers, judge
from vlp.reports.claims import find_claims
from vlp.reports.findings import VOCABULARY, load_data, sentence_text
from vlp.reports.language import ENGLISH, detect_language, is_foreign
from vlp.reports.locations import Place, parts
from vlp.reports.marks import normalised
from vlp.reports.phrases import Phrases, find_words
from vlp.reports.sections import find_sections
from vlp.reports.sentences import Span, find_sentences
from vlp.reports.wording import training_text


class LeftOut(StrEnum):
    """Why a written sentence, or a statement in it, gives no training sentence."""

    BOILERPLATE = "about the work"
    ELSEWHEN = "past or supposed"
    COMPARISON = "only compares"
    OVERRULED = "overruled"
    """By an addendum or the final report, or a tentative denial by plain words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a reader made of one report."""

    sentences: tuple[Sentence, ...]
    language: str = ENGLISH
    left_out: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """How many sentences or statements give no training sentence, by reason (`LeftOut`, or a back-end's own)."""


@dataclass(frozen=True, slots=True)
class Statement:
    """What a sentence says of one finding in one place."""

    finding: str
    certainty: Certainty
    location: str | None = None
    severity: str | None = None
    sign: bool = False
    """Whether only a sign of the finding is stated."""
    tentative: bool = False
    """Whether it denies no more than that something is new."""

    @property
    def outranked(self) -> bool:
        """Whether it gives way to plain words about the finding: a sign that is there does not prove it."""
        return self.sign and self.certainty is not Certainty.ABSENT


def read(text: str, *, language: str | None = None) -> tuple[Sentence, ...]:
    """The sentences of `read_report`."""
    return read_report(text, language=language).sentences


def read_report(text: str, *, language: str | None = None) -> Reading:
    """Every statement of a report's findings and impression (or of a text without headings), in order.

    A sentence that speaks of several findings, or of one in several places, gives several records with the same span;
    one that speaks of none gives one with `finding=None` and its own words as text, without what only compares.
    Boilerplate ("Comparison: none", "Dictated by ...") is dropped, and so is what is only supposed or remembered
    ("evaluate for", "history of").  A sign ("blunting of the costophrenic angle") states the finding it implies unless
    the report denies that in plain words.  An addendum overrules the report, the report overrules its wet read.

    Spans point into `text`, which is never changed.  Any string can be read; words of no language we know make
    sentences without findings.

    Args:
        text: the report as written.
        language: its language ("en", "de" ...); None looks for itself.  Sentences of another language than English
            keep their words and state nothing: rules for English would find a pneumothorax in "kein Pneumothorax".
    """
    language = language or detect_language(text)
    spans = find_sentences(text, find_sections(text))
    if is_foreign(language):
        sentences = (_unspecific(span, normalised(" ".join(text[span.start : span.end].split()))) for span in spans)
        return Reading(sentences=tuple(sentences), language=language)
    heard = [Heard(span, *_understand(text[span.start : span.end])) for span in spans]
    return settle(heard, language=language)


@dataclass(frozen=True, slots=True)
class Heard:
    """One written sentence, what it states, and what stands for it where it states nothing."""

    span: Span
    statements: tuple[Statement, ...]
    text: str | None
    """Its training text where it states no finding; None where it has none."""
    reason: LeftOut
    """Why it has none."""


def settle(heard: Sequence[Heard], *, language: str) -> Reading:
    """The sentences of a report, their contradictions settled."""
    said = [(item.span.section, statement) for item in heard for statement in item.statements]
    denied = {one.finding for _, one in said if one.certainty is Certainty.ABSENT and not one.sign}
    affirmed = {one.finding for _, one in said if one.certainty is not Certainty.ABSENT}
    later = _later(said)
    left_out: Counter[str] = Counter()
    sentences: list[Sentence] = []
    for item in heard:
        kept = [one for one in item.statements if not (one.outranked and one.finding in denied)]
        standing = [one for one in kept if not (one.tentative and one.finding in affirmed)]
        standing = [one for one in standing if _stands(item.span.section, one, later)]
        sentences.extend(_sentence(item.span, one) for one in standing)
        left_out[LeftOut.OVERRULED] += len(kept) - len(standing)
        if kept:
            continue
        if item.text is None:
            left_out[item.reason] += 1
        else:
            sentences.append(_unspecific(item.span, item.text))
    counts = {str(reason): count for reason, count in left_out.items() if count}
    return Reading(sentences=tuple(sentences), language=language, left_out=MappingProxyType(counts))


_RANKS = {"wet read": 0, "addendum": 2}
_Said = tuple[int, Statement]


def _later(said: Sequence[tuple[str, Statement]]) -> Mapping[str, Sequence[_Said]]:
    """Finding -> what is said of it and how late (wet read, report, addendum); empty where all is of one time."""
    ranks = {_RANKS.get(section, 1) for section, _ in said}
    found: dict[str, list[_Said]] = {}
    for section, statement in said if len(ranks) > 1 else ():
        found.setdefault(statement.finding, []).append((_RANKS.get(section, 1), statement))
    return found


def _stands(section: str, statement: Statement, later: Mapping[str, Sequence[_Said]]) -> bool:
    """Whether no later part of the report says otherwise: it may agree, or speak of the other side."""
    rank, (side, _) = _RANKS.get(section, 1), parts(statement.location or "")
    after = [one for when, one in later.get(statement.finding, ()) if when > rank]
    elsewhere = {parts(one.location or "")[0] for one in after} | {side} == {"left", "right"}
    return not after or elsewhere or any(one.certainty is statement.certainty for one in after)


def _sentence(span: Span, said: Statement) -> Sentence:
    return Sentence(
        start=span.start,
        end=span.end,
        section=span.section,
        finding=said.finding,
        certainty=said.certainty,
        text=sentence_text(said.finding, said.certainty, location=said.location),
        location=said.location,
        severity=said.severity,
    )


def _unspecific(span: Span, text: str) -> Sentence:
    """A statement about no finding of the vocabulary, in its own words."""
    return Sentence(
        start=span.start, end=span.end, section=span.section, finding=None, certainty=Certainty.PRESENT, text=text
    )


_LONGEST_BOILERPLATE = 400
"""Characters of a sentence that are looked at for boilerplate."""
_MEANING = tuple[str, Polarity]


@cache
def _boilerplate() -> re.Pattern[str]:
    """Sentences about the work rather than the chest: dropped where they name no finding."""
    return re.compile("|".join(load_data("cues.yaml")["boilerplate"]), re.IGNORECASE | re.DOTALL)


@cache
def _wordings() -> Phrases[_MEANING]:
    """Every wording of the vocabulary; decoys are wordings that look like a finding and mean none."""
    patterns: list[tuple[str, _MEANING]] = [
        (decoy, ("", "mention")) for decoy in load_data("vocabulary.yaml")["decoys"]
    ]
    for entry in VOCABULARY.values():
        patterns += [(wording, (entry.name, "mention")) for wording in entry.wordings]
        patterns += [(wording, (entry.name, "sign")) for wording in entry.signs]
        patterns += [(wording, (entry.name, "normal")) for wording in entry.normal]
        patterns += [(wording, (entry.name, "inverse")) for wording in entry.inverse]
    return Phrases(patterns, fillers=fillers())


@lru_cache(maxsize=16384)
def _understand(written: str) -> tuple[tuple[Statement, ...], str | None, LeftOut]:
    """What one sentence states, its training text where it states nothing, and why it has none.

    Reports repeat themselves, so sentences read before are remembered.
    """
    statements, elsewhen = find_statements(written)
    if not all(said.outranked for said in statements):
        return statements, None, LeftOut.OVERRULED  # something of it is always kept
    if elsewhen and not statements:
        return (), None, LeftOut.ELSEWHEN
    return (statements, *own_words(written))


def own_words(written: str) -> tuple[str | None, LeftOut]:
    """The training text of a sentence that states no finding; None, and why, where it says nothing of the chest."""
    if _boilerplate().search(written[:_LONGEST_BOILERPLATE]):
        return None, LeftOut.BOILERPLATE
    return training_text(written), LeftOut.COMPARISON


def find_mentions(forms: Sequence[str]) -> list[Mention]:
    """Where words (in normal form) name findings, in order; a wording may name several."""
    return [
        Mention(finding, polarity, match.begin, match.end)
        for match in _wordings().find(forms)
        for finding, polarity in match.values
        if finding
    ]


def find_statements(written: str) -> tuple[tuple[Statement, ...], bool]:
    """What one sentence states, and whether it names a finding of another time (past, supposed) or to be looked for."""
    words = find_words(written, 0, len(written))
    forms = [word.form for word in words]
    mentions = find_mentions(forms)
    if not mentions:
        return (), False
    verdicts = judge(forms, mentions)
    spans: dict[tuple[int, int], bool] = {}
    for mention, verdict in zip(mentions, verdicts, strict=True):
        denied = verdict is not None and verdict.certainty is Certainty.ABSENT
        span = (mention.begin, mention.end)
        spans[span] = spans.get(span, True) and denied
    signs = {(mention.begin, mention.end) for mention in mentions if mention.polarity == "sign"}
    claims = find_claims(words, spans, signs=signs, written=written)
    found: list[Statement] = []
    for mention, verdict in zip(mentions, verdicts, strict=True):
        if verdict is not None:
            claim = claims[mention.begin, mention.end]
            found.extend(_statements(mention, verdict, claim.places, claim.severity))
    return _united(found), any(verdict is None for verdict in verdicts)


def _statements(
    mention: Mention, verdict: Verdict, places: Sequence[Place], severity: str | None
) -> Iterator[Statement]:
    """One statement per place of a mention."""
    said = Statement(
        finding=mention.finding,
        certainty=verdict.certainty,
        sign=mention.polarity == "sign",
        tentative=verdict.tentative,
    )
    degrees = verdict.certainty is not Certainty.ABSENT
    if not places or not VOCABULARY[mention.finding].place:
        degree = severity or next((place.severity for place in places if place.severity), None)
        yield replace(said, severity=degree if degrees else None)
        return
    for place in places:
        yield replace(said, location=place.location, severity=(place.severity or severity) if degrees else None)


def _united(found: Sequence[Statement]) -> tuple[Statement, ...]:
    """Each finding, certainty and place once; nothing without a place, or by a sign, where more is said."""
    united: dict[tuple[str, Certainty, str | None], Statement] = {}
    plain = {one.finding for one in found if not one.sign}
    for one in found:
        if one.outranked and one.finding in plain:
            continue
        same = [other for other in found if (other.finding, other.certainty) == (one.finding, one.certainty)]
        vague = one.location is None and any(other.location for other in same)
        if vague or (one.sign and not all(other.sign for other in same)):
            continue
        key = one.finding, one.certainty, one.location
        known = united.get(key, one)
        tentative = known.tentative and one.tentative
        united[key] = replace(known, severity=known.severity or one.severity, tentative=tentative)
    return tuple(united.values())
