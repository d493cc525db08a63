"""Present, absent or uncertain: what the words around a mention make of it.

In the manner of NegEx and ConText (Chapman 2001, Harkema 2009), on words:

* A cue *before* a mention reaches forward to the next boundary ("but", ";", "there is"); one *behind* it reaches back.
* A wording that only looks like a negation or hedge ("no change in", "not seen on the lateral") is matched first, as
  the longer phrase, and does nothing.
* A negation also ends where a comma, "and" or "with" opens a new statement ("no effusion, mild cardiomegaly"), unless
  an "or" still follows ("no consolidation, large effusion or pneumothorax").
* Hedges are graded by strength.  Strong ones ("probable", "likely", "versus", "consistent with") leave a finding
  present; weak ones ("possible", "may", "suggest", "cannot exclude", "suspicious for") make it uncertain.
* What is denied only as new ("no new opacity", "otherwise clear") is denied tentatively: it gives way to plain words.
* A finding of the past ("history of", "status post", "prior" without a word on what became of it), supposed ("if",
  "evaluate for") or to be looked for ("recommend CT for") is no statement about this study.  A device that a person
  is "status post" is still there, and so is what the past leaves behind: a scar, a granuloma, a fracture.
* A question mark makes uncertain, in front of a word ("? pneumonia") or behind it.
* The negation of a normal state ("the heart is not normal") leaves open which finding it is: uncertain.
* Where cues meet: past and supposed win, then a hedge behind the mention, then negation, then a hedge before it.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Literal

from vlp.records import Certainty
from vlp.reports.findings import load_data
from vlp.reports.phrases import Match, Phrases, normal_form, word_set


class Cue(StrEnum):
    """Kinds of turning words; the values are the keys of `cues.yaml`."""

    AFFIRM = "affirm"
    NEGATION_BEFORE = "negation_before"
    NEGATION_OF_NEWS = "negation_of_news"
    NEGATION_AFTER = "negation_after"
    HEDGE_BEFORE = "hedge_before"
    HEDGE_AFTER = "hedge_after"
    PAST_BEFORE = "past_before"
    PROCEDURE_BEFORE = "procedure_before"
    EARLIER_BEFORE = "earlier_before"
    EARLIER_AFTER = "earlier_after"
    HYPOTHETICAL_BEFORE = "hypothetical_before"
    BOUNDARY = "boundary"
    PERSISTENCE = "persistence"


Polarity = Literal["mention", "sign", "normal", "inverse"]
"""What a wording says by itself: the finding, a sign of it, its absence ("heart size is normal"), or, for the finding
"no finding", an abnormality."""

_NEGATIONS_BEFORE = frozenset({Cue.NEGATION_BEFORE, Cue.NEGATION_OF_NEWS})
_ANOTHER_TIME = frozenset({Cue.PAST_BEFORE, Cue.PROCEDURE_BEFORE, Cue.EARLIER_BEFORE, Cue.HYPOTHETICAL_BEFORE})
_EARLIER = frozenset({Cue.EARLIER_BEFORE, Cue.EARLIER_AFTER})
_FORWARD = _NEGATIONS_BEFORE | _ANOTHER_TIME | {Cue.HEDGE_BEFORE}
_BACKWARD = frozenset({Cue.NEGATION_AFTER, Cue.HEDGE_AFTER, Cue.EARLIER_AFTER, Cue.PERSISTENCE})
_LASTING = frozenset(
    {
        "aortic calcification",
        "fibrosis",
        "fracture",
        "granuloma",
        "hernia",
        "pleural other",
        "pleural thickening",
        "scarring",
        "scoliosis",
        "support device",
    }
)
"""Findings that are still there where a report calls them "prior" or "old"."""


@dataclass(frozen=True, slots=True)
class Mention:
    """Words `begin` up to `end` of a sentence name a finding."""

    finding: str
    polarity: Polarity
    begin: int
    end: int


@cache
def _cues() -> Phrases[Cue]:
    data = load_data("cues.yaml")
    return Phrases(((pattern, kind) for kind in Cue for pattern in data[kind.value]), fillers=fillers())


@cache
def fillers() -> frozenset[str]:
    """Words the "~" of a pattern may stand for."""
    return frozenset(load_data("cues.yaml")["fillers"])


@cache
def _words(kind: Literal["starters", "verbs"]) -> frozenset[str]:
    return frozenset(normal_form(word) for word in load_data("cues.yaml")[kind])


_REACH = 60
"""Words a cue reaches at most, either way: longer than any sentence, so that only text without stops meets it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a sentence says of one mention."""

    certainty: Certainty
    tentative: bool = False
    """Whether it is a denial of something new alone."""


def judge(words: Sequence[str], mentions: Sequence[Mention]) -> list[Verdict | None]:
    """What the sentence says of each mention (in order of `begin`); None where it says nothing about this study."""
    cues = _cues().find(words)
    starts = [cue.begin for cue in cues]
    judged: list[Verdict | None] = []
    for mention in mentions:
        near = cues[bisect_left(starts, mention.begin - _REACH) : bisect_left(starts, mention.end + _REACH)]
        only_news = mention.polarity == "normal" and "otherwise" in words[max(0, mention.begin - 1) : mention.end]
        judged.append(_verdict(mention, _reaching(words, mention, near), only_news=only_news))
    return judged


def _verdict(mention: Mention, cues: frozenset[Cue], *, only_news: bool) -> Verdict | None:
    if _is_of_another_time(mention, cues):
        return None
    certainty = _certainty(mention, cues)
    only_news = only_news or cues & (_NEGATIONS_BEFORE | {Cue.NEGATION_AFTER}) == {Cue.NEGATION_OF_NEWS}
    return Verdict(certainty, tentative=only_news and certainty is Certainty.ABSENT)


def _is_of_another_time(mention: Mention, cues: frozenset[Cue]) -> bool:
    """Whether the mention is of the past, supposed, or still to be looked for."""
    if cues & {Cue.PAST_BEFORE, Cue.HYPOTHETICAL_BEFORE}:
        return True
    if Cue.PROCEDURE_BEFORE in cues:
        return mention.finding not in _LASTING and not cues & _NEGATIONS_BEFORE
    untold = cues.isdisjoint({Cue.NEGATION_AFTER, Cue.PERSISTENCE, *_NEGATIONS_BEFORE})
    return untold and not cues.isdisjoint(_EARLIER) and mention.finding not in _LASTING


def _certainty(mention: Mention, cues: frozenset[Cue]) -> Certainty:
    negated = not cues.isdisjoint(_NEGATIONS_BEFORE | {Cue.NEGATION_AFTER})
    if Cue.HEDGE_AFTER in cues or (Cue.HEDGE_BEFORE in cues and not negated):
        return Certainty.UNCERTAIN
    if mention.polarity == "normal":
        return Certainty.UNCERTAIN if negated else Certainty.ABSENT
    return Certainty.ABSENT if negated == (mention.polarity in {"mention", "sign"}) else Certainty.PRESENT


def _reaching(words: Sequence[str], mention: Mention, cues: Sequence[Match[Cue]]) -> frozenset[Cue]:
    """The kinds of cue that reach a mention."""
    reaching: set[Cue] = set()
    predicate = any(word in _words("verbs") for word in words[mention.begin : mention.end])
    for cue in cues:
        for kind in cue.values:
            if mention.begin <= cue.begin and cue.end <= mention.end:
                reaching.add(_inside(kind))
            elif kind in _FORWARD:
                affected = mention.polarity == "inverse" or (mention.polarity != "normal" and not predicate)
                if affected and cue.end <= mention.begin and _open(words, kind, cue, mention, cues):
                    reaching.add(kind)
            elif kind in _BACKWARD and cue.begin >= mention.end and _reaches_back(words, kind, cue, mention, cues):
                reaching.add(kind)
    return frozenset(reaching)


def _inside(kind: Cue) -> Cue:
    """A cue within a mention ("heart is not enlarged") acts as one before it, whichever way it would reach."""
    return {Cue.NEGATION_AFTER: Cue.NEGATION_BEFORE, Cue.HEDGE_AFTER: Cue.HEDGE_BEFORE}.get(kind, kind)


def _open(words: Sequence[str], kind: Cue, cue: Match[Cue], mention: Mention, cues: Sequence[Match[Cue]]) -> bool:
    """Whether nothing between a cue and a later mention ends the cue's reach."""
    if any(Cue.BOUNDARY in other.values and cue.end <= other.begin < mention.begin for other in cues):
        return False
    between = words[cue.end : mention.begin]
    if kind is Cue.HYPOTHETICAL_BEFORE:
        return True
    if kind is Cue.EARLIER_BEFORE:
        return len(between) <= _NOUN_PHRASE and _ENDS_EARLIER.isdisjoint(between)
    if kind in _ANOTHER_TIME:  # "history of pneumonia with persistent opacity": it ends where the present begins
        return _ENDS_PAST.isdisjoint(between)
    if words[cue.begin] == "differential":
        return True  # a list of what it may be: "includes atelectasis, small infiltrate, scarring"
    return not _starts_anew(words, cue.end, mention.begin)


def _starts_anew(words: Sequence[str], start: int, end: int) -> bool:
    """Whether a comma, "and" or "with" in words `start` up to `end` opens another statement."""
    return any(
        words[index] in {",", "and", "with"}
        and words[index + 1] in _words("starters")
        and not {"or", "nor"} & set(words[index : index + _REACH])
        for index in range(start, min(end, len(words) - 1))
    )


_NOUN_PHRASE = 5
"""Words that may stand between "prior" and what it is said of."""
_ENDS_EARLIER = word_set(", ; : the a an is are and with there no without")
_ENDS_PAST = word_set("with now currently no without there persistent presents new removal")


def _reaches_back(
    words: Sequence[str], kind: Cue, cue: Match[Cue], mention: Mention, cues: Sequence[Match[Cue]]
) -> bool:
    """Whether nothing between a mention and a later cue ends the cue's reach."""
    if kind is Cue.PERSISTENCE:
        return True
    # "Unlikely but not excluded" goes on about the same thing.
    if any(Cue.BOUNDARY in other.values and mention.end <= other.begin and other.end < cue.begin for other in cues):
        return False
    between = words[mention.end : cue.begin]
    said = any(word in _words("verbs") for word in words[max(0, mention.begin - _REACH) : cue.begin])
    return not (said and any(word in {",", "and", "with"} for word in between))
