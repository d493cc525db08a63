"""Which words of a sentence say where a mention is and how large.

No word serves two mentions: those in front of a mention belong to it from where the one before it ends; those behind
belong to it up to the word that opens the next.  A mention without a place of its own shares the place of the one it
is the cause, the meaning or the alternative of.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from vlp.reports.locations import Place, find_location, find_places, find_severity
from vlp.reports.phrases import Word, word_set

_PREPOSITIONS = word_set("in at of within on along near involving overlying throughout")
_JOINTS = word_set(
    "and or with , versus vs nor but plus / ; without no there following after post s/p since although though however"
    " while whereas"
)
_ALTERNATIVES = frozenset({"or", "versus", "vs", "/"})
_COMPARISONS = frozenset({"greater", "larger", "smaller", "more", "less", "worse"})
_MAX_HEADING = 6
"""Words before a colon at the start of a sentence ("Lungs and pleura:") that name an organ and not a place."""
_SAME_PLACE = word_set(
    "likely probably probable represent representing reflect reflecting consistent compatible c/w suggest suggesting"
    " suggestive concerning suspicious may could might due d/t adjacent associated underlying overlying compressive"
    " keeping"
)
"""Words between two mentions that make the second the cause, the meaning or the neighbour of the first."""
_REMOVED_WORD = frozenset({",", "xxxx"})
""""Left base opacity, XXXX atelectasis": the word that was removed from there was mostly "likely"."""
_CAUSES = frozenset({"with", "from", "due", "d/t", "secondary"})
"""Words in front of a mention that a degree before them does not reach over: "mild volume loss with effusion"."""
_STATES = frozenset({"is", "are", "now", "remain"})


@dataclass(frozen=True, slots=True)
class Claim:
    """What the words around one mention say: its places, none if they name none, and the degree of those without."""

    places: tuple[Place, ...]
    severity: str | None


@dataclass(slots=True)
class _Around:
    """The words of one mention while claims are settled."""

    before: Sequence[Word]
    after: Sequence[Word]
    rest: Sequence[Word]
    """All words up to the next mention."""
    follows: bool
    """Whether it is one thing with the mention before it and shares its place: "right basilar atelectasis or
    pneumonia", "opacity in the left base may represent pneumonia", "left effusion with adjacent atelectasis"."""
    alternative: bool
    """Whether only an "or" parts it from the mention before it."""


Span = tuple[int, int]
"""Words `begin` up to `end` of a sentence."""


def find_claims(
    words: Sequence[Word], spans: Mapping[Span, bool], *, signs: set[Span], written: str
) -> dict[Span, Claim]:
    """What is said of the place and degree of each mention.

    Args:
        words: the sentence.
        spans: where the mentions stand, in order, and whether all that is said there is a denial: a plural then names
            no side ("no effusion at the bases").
        signs: those of `spans` that only imply a finding.
        written: the text `words` were found in.
    """
    around = _around(words, list(spans), signs)
    own = [_places(item, text=None if denied else written) for item, denied in zip(around, spans.values(), strict=True)]
    shared: list[tuple[Place, ...]] = []
    for item, places in zip(around, own, strict=True):
        shared.append(places or (_vague(shared[-1]) if item.follows and shared else ()))
    for index in reversed(range(1, len(around))):
        behind = not find_places(around[index].before)
        if around[index].alternative and behind and not shared[index - 1]:
            shared[index - 1] = _vague(shared[index])  # "atelectasis or pneumonia at the left base"
    return {
        span: Claim(places, None if any(place.severity for place in places) else _severity(item))
        for span, item, places in zip(spans, around, shared, strict=True)
    }


def _vague(places: tuple[Place, ...]) -> tuple[Place, ...]:
    """The same places without a degree, which is only the other mention's."""
    return tuple(replace(place, severity=None) for place in places)


def _places(item: _Around, *, text: str | None) -> tuple[Place, ...]:
    """The places in front of a mention or within it, completed from behind it ("apical pneumothorax on the left")."""
    near = _near(item.before)
    front = find_places(near) or _vague(find_places(item.before))
    behind = find_places(item.after, text=text if not front else None)
    if not front and not behind and text is not None:
        return find_places([*item.before, *item.after], text=text)
    if not front or not behind:
        places = front or behind
    elif len(front) == len(behind) == 1:
        side = front[0].side or behind[0].side
        zone = front[0].zone or (behind[0].zone if behind[0].side in {None, side} else None)
        return (Place(side, zone, front[0].severity or behind[0].severity),)
    elif len(front) == 1 and front[0].zone is None:
        places = _completed(front[0], behind)
    else:
        places = front
    if text is not None and not any(place.side for place in places):
        paired = find_places([*item.before, *item.after], text=text)
        return paired if len(paired) == len(places) else places
    return places


def _completed(front: Place, behind: tuple[Place, ...]) -> tuple[Place, ...]:
    """One side in front of a mention with several places behind it."""
    if front.side == "bilateral" and all(place.side for place in behind):
        return behind  # "bilateral effusions, moderate on the right and small on the left"
    if not any(place.side for place in behind):
        return tuple(replace(place, side=front.side) for place in behind)
    return (front,)


def _near(before: Sequence[Word]) -> Sequence[Word]:
    """The words in front of a mention that a degree may stand in."""
    cut = max((index + 1 for index, word in enumerate(before) if word.form in _CAUSES), default=0)
    return before[cut:]


def _severity(item: _Around) -> str | None:
    degree = find_severity(_near(item.before)) or find_severity(item.after)
    if degree is not None:
        return degree
    for index, word in enumerate(item.rest[:-1]):
        ends = index + 2 == len(item.rest) or item.rest[index + 2].form in {",", ";", ":", "and", "in"}
        if word.form in _STATES and ends:  # "which was large, is now small"
            degree = find_severity(item.rest[index + 1 : index + 2]) or degree
    return degree


def _around(words: Sequence[Word], spans: Sequence[Span], signs: set[Span]) -> list[_Around]:
    found: list[_Around] = []
    previous_end = 0
    heading = words[: min(_MAX_HEADING, spans[0][1])] if spans else ()
    start = next((index + 1 for index, word in enumerate(heading) if word.form == ":"), 0)
    if spans:  # "status post left thoracentesis without effusion": what is denied is somewhere else
        start = max([start, *(index + 1 for index in range(spans[0][0]) if words[index].form == "without")])
    for index, (begin, end) in enumerate(spans):
        last = index + 1 == len(spans)
        following = len(words) if last else max(spans[index + 1][0], end)
        stop = _end(words, end, following, first=min(start, end), last=last)  # mentions may lie within each other
        between = {word.form for word in words[previous_end:begin]}
        # "opacity at the left base with a meniscus": a sign goes with what it is a sign of.
        same = _ALTERNATIVES | {"with"} if (begin, end) in signs else _ALTERNATIVES
        joints = between & _JOINTS
        one = joints <= same or not between.isdisjoint(_SAME_PLACE) or ("xxxx" in between and between <= _REMOVED_WORD)
        found.append(
            _Around(
                before=words[start:end],
                after=words[end:stop],
                rest=words[end:following],
                follows=index > 0 and one,
                alternative=index > 0 and bool(joints) and joints <= _ALTERNATIVES,
            )
        )
        previous_end, start = end, stop
    return found


def _end(words: Sequence[Word], start: int, end: int, *, first: int, last: bool) -> int:
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
    return start + next((index for index, form in enumerate(forms) if form in _SAME_PLACE - _PREPOSITIONS), len(forms))


def _goes_on(words: Sequence[Word], joint: int) -> bool:
    """Whether a claim goes on behind the joint: with its place, if it has none so far, or with another one."""
    behind = words[joint + 1 :]
    if not _COMPARISONS.isdisjoint(word.form for word in behind[:2]):
        return True
    if find_severity(behind[:1]) and not _PREPOSITIONS.isdisjoint(word.form for word in behind[1:2]):
        return True  # ", moderate on the right and small on the left"
    return words[joint].form in {"and", "or", "with", "/"} and bool(
        find_location(behind[:3]) or not find_location(words[:joint])
    )
