"""Present, absent or uncertain: what the words around a mention make of it.

In the manner of NegEx and ConText (Chapman 2001, Harkema 2009), on words:

* A cue *before* a mention reaches forward to the next boundary ("but", ";", "there is"); one *behind* it reaches back.
* A wording that only looks like a negation or hedge ("no change in", "not seen on the lateral") is matched first, as
  the longer phrase, and does nothing.
* A negation also ends where a comma, "and" or "with" opens a new statement ("no effusion, mild cardiomegaly"), unless
  an "or" still follows ("no consolidation, large effusion or pneumothorax").
* Hedges are graded by strength.  Strong ones ("probable", "likely", "versus", "consistent with") leave a finding
  present; weak ones ("possible", "may", "suggest", "cannot exclude", "suspicious for") make it uncertain.
* A finding of the past ("history of") or supposed ("if", "evaluate for") is no statement about this study.
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
from vlp.reports.phrases import Match, Phrases, normal_form


class Cue(StrEnum):
    """Kinds of turning words; the values are the keys of `cues.yaml`."""

    AFFIRM = "affirm"
    NEGATION_BEFORE = "negation_before"
    NEGATION_AFTER = "negation_after"
    HEDGE_BEFORE = "hedge_before"
    HEDGE_AFTER = "hedge_after"
    PAST_BEFORE = "past_before"
    HYPOTHETICAL_BEFORE = "hypothetical_before"
    BOUNDARY = "boundary"


Polarity = Literal["mention", "sign", "normal", "inverse"]
"""What a wording says by itself: the finding, a sign of it, its absence ("heart size is normal"), or, for the finding
"no finding", an abnormality."""

_FORWARD = frozenset({Cue.NEGATION_BEFORE, Cue.HEDGE_BEFORE, Cue.PAST_BEFORE, Cue.HYPOTHETICAL_BEFORE})
_BACKWARD = frozenset({Cue.NEGATION_AFTER, Cue.HEDGE_AFTER})


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


def judge(words: Sequence[str], mentions: Sequence[Mention]) -> list[Certainty | None]:
    """What the sentence says of each mention (in order of `begin`); None where it says nothing about this study."""
    cues = _cues().find(words)
    starts = [cue.begin for cue in cues]
    judged: list[Certainty | None] = []
    for mention in mentions:
        near = cues[bisect_left(starts, mention.begin - _REACH) : bisect_left(starts, mention.end + _REACH)]
        judged.append(_certainty(mention, _reaching(words, mention, near)))
    return judged


def _certainty(mention: Mention, cues: frozenset[Cue]) -> Certainty | None:
    if cues & {Cue.PAST_BEFORE, Cue.HYPOTHETICAL_BEFORE}:
        return None
    negated = bool(cues & {Cue.NEGATION_BEFORE, Cue.NEGATION_AFTER})
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
                if affected and cue.end <= mention.begin and _open(words, cue, mention, cues):
                    reaching.add(kind)
            elif kind in _BACKWARD and cue.begin >= mention.end and _reaches_back(words, mention, cue, cues):
                reaching.add(kind)
    return frozenset(reaching)


def _inside(kind: Cue) -> Cue:
    """A cue within a mention ("heart is not enlarged") acts as one before it, whichever way it would reach."""
    return {Cue.NEGATION_AFTER: Cue.NEGATION_BEFORE, Cue.HEDGE_AFTER: Cue.HEDGE_BEFORE}.get(kind, kind)


def _open(words: Sequence[str], cue: Match[Cue], mention: Mention, cues: Sequence[Match[Cue]]) -> bool:
    """Whether nothing between a cue and a later mention ends the cue's reach."""
    if any(Cue.BOUNDARY in other.values and cue.end <= other.begin < mention.begin for other in cues):
        return False
    if not {Cue.PAST_BEFORE, Cue.HYPOTHETICAL_BEFORE}.isdisjoint(cue.values):
        return True
    return not any(
        words[index] in {",", "and", "with"}
        and words[index + 1] in _words("starters")
        and not {"or", "nor"} & set(words[index : index + _REACH])
        for index in range(cue.end, min(mention.begin, len(words) - 1))
    )


def _reaches_back(words: Sequence[str], mention: Mention, cue: Match[Cue], cues: Sequence[Match[Cue]]) -> bool:
    """Whether nothing between a mention and a later cue ends the cue's reach."""
    if any(Cue.BOUNDARY in other.values and mention.end <= other.begin < cue.begin for other in cues):
        return False
    between = words[mention.end : cue.begin]
    said = any(word in _words("verbs") for word in words[max(0, mention.begin - _REACH) : cue.begin])
    return not (said and any(word in {",", "and", "with"} for word in between))
