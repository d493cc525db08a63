"""From a report's text to statements: one `Sentence` per finding a written sentence speaks of."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

from vlp.records import Certainty, Sentence
from vlp.reports.certainty import Mention, Polarity, fillers, judge
from vlp.reports.findings import VOCABULARY, load_data, sentence_text
from vlp.reports.locations import compose, find_location, find_severity, parts
from vlp.reports.phrases import Phrases, Word, find_words
from vlp.reports.sections import find_sections
from vlp.reports.sentences import Span, find_sentences


@dataclass(frozen=True, slots=True)
class _Statement:
    finding: str
    certainty: Certainty
    location: str | None
    severity: str | None
    sign: bool
    """Whether only a sign of the finding is stated."""

    @property
    def outranked(self) -> bool:
        """Whether it gives way to plain words about the finding: a sign that is there does not prove it."""
        return self.sign and self.certainty is not Certainty.ABSENT


def read(text: str) -> tuple[Sentence, ...]:
    """Every statement of a report's findings and impression (or of a text without headings), in order.

    A sentence that speaks of several findings gives several records with the same span; one that speaks of none gives
    one with `finding=None` and its own words as text.  Boilerplate ("Comparison: none", "Dictated by ...") is dropped.
    What is only supposed or remembered ("evaluate for", "history of") states no finding.  A sign ("blunting of the
    costophrenic angle") states the finding it implies unless the report denies that in plain words.

    Spans point into `text`, which is never changed.  Any string can be read; words of no language we know make
    sentences without findings.
    """
    spans = find_sentences(text, find_sections(text))
    read_spans = [(span, _statements(text[span.start : span.end])) for span in spans]
    denied = {
        statement.finding
        for _, statements in read_spans
        for statement in statements
        if statement.certainty is Certainty.ABSENT and not statement.sign
    }
    sentences: list[Sentence] = []
    for span, statements in read_spans:
        kept = [said for said in statements if not (said.outranked and said.finding in denied)]
        sentences.extend(_sentence(span, said) for said in kept)
        written = text[span.start : span.end]
        if not kept and not _boilerplate().search(written[:_LONGEST_BOILERPLATE]):
            sentences.append(_unspecific(span, written))
    return tuple(sentences)


def _sentence(span: Span, said: _Statement) -> Sentence:
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


def _unspecific(span: Span, written: str) -> Sentence:
    """A statement about no finding of the vocabulary, in its own words."""
    return Sentence(
        start=span.start,
        end=span.end,
        section=span.section,
        finding=None,
        certainty=Certainty.PRESENT,
        text=" ".join(written.split()),
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
def _statements(written: str) -> tuple[_Statement, ...]:
    """What one sentence states; reports repeat themselves, so sentences read before are remembered."""
    words = find_words(written, 0, len(written))
    forms = [word.form for word in words]
    mentions = [
        Mention(finding, polarity, match.begin, match.end)
        for match in _wordings().find(forms)
        for finding, polarity in match.values
        if finding
    ]
    certainties = judge(forms, mentions)
    claims = _claims(words, mentions)
    statements: dict[tuple[str, Certainty], _Statement] = {}
    location: str | None = None
    for mention, certainty, claim in zip(mentions, certainties, claims, strict=True):
        place = _place(claim, text=None if certainty is Certainty.ABSENT else written)
        location = place or (location if claim.follows else None)
        if certainty is None:
            continue
        said = _Statement(
            finding=mention.finding,
            certainty=certainty,
            location=location if VOCABULARY[mention.finding].place else None,
            severity=None
            if certainty is Certainty.ABSENT
            else find_severity(claim.before) or find_severity(claim.after),
            sign=mention.polarity == "sign",
        )
        known = statements.get((mention.finding, certainty))
        if known is None or (known.location is None and said.location) or (known.sign and not said.sign):
            statements[mention.finding, certainty] = said
    plain = {said.finding for said in statements.values() if not said.sign}
    return tuple(said for said in statements.values() if not (said.outranked and said.finding in plain))


def _place(claim: "_Claim", *, text: str | None) -> str | None:
    """The place in front of a mention or within it, completed from behind it ("apical pneumothorax on the left")."""
    side, zone = parts(find_location(claim.before) or "")
    side_behind, zone_behind = parts(find_location(claim.after) or "")
    side, zone = side or side_behind, zone or zone_behind
    if side is None and text is not None:
        side, _ = parts(find_location([*claim.before, *claim.after], text=text) or "")
    return compose(side, zone)


@dataclass(frozen=True, slots=True)
class _Claim:
    """The words around a mention that say where and how large it is."""

    before: Sequence[Word]
    after: Sequence[Word]
    follows: bool
    """Whether the mention is one thing with the one before it and shares its place: "right basilar atelectasis or
    pneumonia", "opacity in the left base may represent pneumonia", "left effusion with adjacent atelectasis"."""


_PREPOSITIONS = frozenset({"in", "at", "of", "within", "on", "along", "near", "involving", "overlying", "throughout"})
_JOINTS = frozenset(
    {"and", "or", "with", ",", "versus", "vs", "nor", "but", "plus", "/", ";", "without", "no", "there"}
)
_ALTERNATIVES = frozenset({"or", "versus", "vs", "/"})
_COMPARISONS = frozenset({"greater", "larger", "smaller", "more", "less", "worse"})
_MAX_HEADING = 6
"""Words before a colon at the start of a sentence ("Lungs and pleura:") that name an organ and not a place."""
_SAME_PLACE = frozenset(
    [
        "likely",
        "probably",
        "probable",
        "represent",
        "representing",
        "reflect",
        "reflecting",
        "consistent",
        "compatible",
        "suggest",
        "suggesting",
        "suggestive",
        "concerning",
        "suspicious",
        "may",
        "could",
        "might",
        "due",
        "adjacent",
        "associated",
        "underlying",
        "overlying",
        "compressive",
        "keeping",
    ]
)
"""Words between two mentions that make the second the cause, the meaning or the neighbour of the first."""


def _claims(words: Sequence[Word], mentions: Sequence[Mention]) -> Iterator[_Claim]:
    """The words each mention may take its place from: no word serves two wordings."""
    spans = list(dict.fromkeys((mention.begin, mention.end) for mention in mentions))
    signs = {(mention.begin, mention.end) for mention in mentions if mention.polarity == "sign"}
    claims: dict[tuple[int, int], _Claim] = {}
    previous_end = 0
    heading = words[: min(_MAX_HEADING, spans[0][0])] if spans else ()
    start = next((index + 1 for index, word in enumerate(heading) if word.form == ":"), 0)
    for index, (begin, end) in enumerate(spans):
        last = index + 1 == len(spans)
        following = len(words) if last else max(spans[index + 1][0], end)
        stop = _claim_end(words, end, following, first=start, last=last)
        between = {word.form for word in words[previous_end:begin]}
        # "opacity at the left base with a meniscus": a sign goes with what it is a sign of.
        same = _ALTERNATIVES | {"with"} if (begin, end) in signs else _ALTERNATIVES
        follows = previous_end > 0 and (between & _JOINTS <= same or bool(between & _SAME_PLACE))
        claims[begin, end] = _Claim(before=words[start:end], after=words[end:stop], follows=follows)
        previous_end, start = end, stop
    return (claims[mention.begin, mention.end] for mention in mentions)


def _claim_end(words: Sequence[Word], start: int, end: int, *, first: int, last: bool) -> int:
    """How far the words behind a mention, `start` to the next mention at `end`, still belong to it.

    `first` is where the words in front of the mention begin that belong to it.
    """
    forms = [word.form for word in words[start:end]]
    joints = [index for index, form in enumerate(forms) if form in _JOINTS]
    if last:
        # "in the left and right bases" goes on over an "and", and so does "effusions, left greater than right"; any
        # other comma, a negation, or an "and" without a place soon after it ("and the trachea is deviated to the
        # right") starts something else.
        breaks = (joint for joint in joints if not _goes_on(words[first:end], start + joint - first))
        return start + next(breaks, end - start)
    if joints:
        return start + joints[-1]
    if _PREPOSITIONS.isdisjoint(forms[:3]):
        return start
    return start + next((index for index, form in enumerate(forms) if form in _SAME_PLACE), len(forms))


def _goes_on(words: Sequence[Word], joint: int) -> bool:
    """Whether a claim goes on behind the joint: with its place, if it has none so far, or with another one."""
    behind = words[joint + 1 :]
    if not _COMPARISONS.isdisjoint(word.form for word in behind[:2]):
        return True
    return words[joint].form in {"and", "or", "with"} and bool(
        find_location(behind[:3]) or not find_location(words[:joint])
    )
