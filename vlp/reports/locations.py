"""Where a finding is and how large: side first, then zone ("left lower", "bilateral base"), and back into English.

Sides are the patient's own.  "base" and "apex" are kept apart from "lower" and "upper", as reports do.  Words that name
several places ("in the right upper and left lower lobes", "small on the left and moderate on the right") give several.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from types import MappingProxyType

from vlp.reports.phrases import Word, word_set

SIDES: tuple[str, ...] = ("left", "right", "bilateral")
ZONES: tuple[str, ...] = ("upper", "middle", "lower", "apex", "base", "perihilar")
SEVERITIES: tuple[str, ...] = ("small", "moderate", "large")

_PLACES: Mapping[str, tuple[str | None, str | None]] = MappingProxyType(
    {
        **dict.fromkeys(("left", "lt", "l", "leftsided"), ("left", None)),
        **dict.fromkeys(("right", "rt", "r", "rightsided"), ("right", None)),
        **dict.fromkeys(("bilateral", "bilaterally", "bilat", "both"), ("bilateral", None)),
        **dict.fromkeys(("bibasilar", "bibasal"), ("bilateral", "base")),
        "biapical": ("bilateral", "apex"),
        "lul": ("left", "upper"),
        "rul": ("right", "upper"),
        "lll": ("left", "lower"),
        "rll": ("right", "lower"),
        "rml": ("right", "middle"),
        **dict.fromkeys(("lingula", "lingular"), ("left", "middle")),
        "retrocardiac": ("left", "lower"),
        "upper": (None, "upper"),
        **dict.fromkeys(("middle", "mid", "midlung", "midzone"), (None, "middle")),
        "lower": (None, "lower"),
        **dict.fromkeys(("apex", "apical", "apices", "apice"), (None, "apex")),
        **dict.fromkeys(("base", "basilar", "basal"), (None, "base")),
        **dict.fromkeys(
            ("perihilar", "hilar", "hilum", "hila", "parahilar", "suprahilar", "infrahilar"), (None, "perihilar")
        ),
    }
)
"""Word -> (side, zone).  The lingula lies beside the middle lobe's level; "retrocardiac" is the left lower lobe."""

_ELSEWHERE = word_set(
    "svc ivc vena cava atrium atrial ventricle ventricular heart thoracic spine abdomen quadrant neck mediastinum"
    " trachea esophagus stomach extremity humerus limit"
)
"""Words behind a side or zone that make it one of something else than the lung: "mid SVC", "right atrium"."""

_PAIRED = frozenset({"base", "apice", "lung", "apices"})
"""Words whose plural means both sides."""
_PAIRED_ZONED = frozenset({"lobe", "zone", "field"})
"""Words whose plural behind a single zone does."""
_CONNECTING = frozenset({"and", "or", ",", "/", "greater", "larger", "more", "less", "smaller", "than", "to", "the"})
"""Words between two sides that share the zone behind the second: "left and right bases"."""
_JOINTS = frozenset({"and", "or", ",", "/", "with", "but"})
_NAMING = frozenset(_PLACES) | _PAIRED
"""Words without which no place is named."""

_SMALL = word_set("small tiny mild mildly minimal minimally trace slight slightly subtle minor faint minute")
_LARGE = word_set("large severe severely marked markedly massive massively extensive gross huge considerable")
_DEGREES: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(_SMALL, "small"),
        **dict.fromkeys(["moderate", "moderately"], "moderate"),
        **dict.fromkeys(_LARGE, "large"),
    }
)
_CHANGES = word_set(
    "improved improvement improving increase increased increasing decrease decreased decreasing worsening worsened"
    " worse larger smaller better change changed progression progressed resolution reduction clearing less more"
    " interval"
)
"""Words that a degree before them belongs to: "slightly improved" says nothing of how much is there now."""
_FORMERLY = frozenset({"from", "previously", "formerly", "was", "were"})
"""Words that put the degree behind them into the past."""


@dataclass(frozen=True, slots=True)
class Place:
    """One of the places some words name; `severity` only where it is said of this place."""

    side: str | None
    zone: str | None
    severity: str | None = None

    @property
    def location(self) -> str | None:
        """Side and zone as one normalised location; None if there is neither."""
        return compose(self.side, self.zone)


def find_places(words: Sequence[Word], *, text: str | None = None) -> tuple[Place, ...]:
    """The places these words name, in order; left and right of one zone are one place, "bilateral".

    With the `text` the words come from, a plural ("at the bases") means both sides too.
    """
    if not any(word.form in _NAMING for word in words):
        return ()
    groups = _groups(words)
    if text is not None and not any(group.side for group in groups) and _is_paired(words, text, zones=len(groups)):
        groups = [replace(group, side="bilateral") for group in groups or [_Group(None, None)]]
    _share(groups, words)
    return _united(Place(group.side, group.zone, group.severity) for group in groups)


def find_location(words: Sequence[Word], *, text: str | None = None) -> str | None:
    """The first of the places these words name, None if they name none."""
    return next((place.location for place in find_places(words, text=text)), None)


def find_severity(words: Sequence[Word]) -> str | None:
    """The degree these words name; the largest of several ("small to moderate" is moderate), None if none.

    Not of something that is gone ("decreased from moderate to small") or of a change ("slightly improved").
    """
    degrees = [degree for index in range(len(words)) if (degree := _degree(words, index))]
    return max(degrees, key=SEVERITIES.index, default=None)


def parts(location: str) -> tuple[str | None, str | None]:
    """(side, zone) of a normalised location, either may be None."""
    words = location.split()
    side = next((word for word in words if word in SIDES), None)
    zone = next((word for word in words if word in ZONES), None)
    return side, zone


def compose(side: str | None, zone: str | None) -> str | None:
    """The normalised location of a side and a zone; None if there is neither."""
    return " ".join(part for part in (side, zone) if part) or None


def render(location: str, *, noun: str) -> str:
    """The location as it ends a template, e.g. "of the left lower lung", "of both bases"; `noun` is what has sides."""
    side, zone = parts(location)
    if zone in {"apex", "base"}:
        what = zone
    elif zone == "perihilar":
        what = "perihilar region"
    else:
        what = f"{zone} {noun}" if zone else noun
    if side == "bilateral":
        return f"of both {'apices' if what == 'apex' else what + 's'}"
    return f"of the {side} {what}" if side else f"of the {what}"


@dataclass(slots=True)
class _Group:
    """A place while its words are read."""

    side: str | None
    zone: str | None
    severity: str | None = None
    begin: int = 0
    end: int = 0

    def takes(self, side: str | None, zone: str | None) -> bool:
        """Whether a side and zone can be of the same place."""
        return (not side or self.side in {None, side}) and (not zone or self.zone in {None, zone})


def _groups(words: Sequence[Word]) -> list[_Group]:
    """One group per place, in the order of the words; sides and zones that a neighbour shares are still missing."""
    groups: list[_Group] = []
    waiting: str | None = None  # a degree whose place is still to come
    joint = True  # whether a new place may begin
    for index, word in enumerate(words):
        side, zone = _place(words, index)
        if degree := _degree(words, index):
            if joint or not groups:
                waiting = max(filter(None, (waiting, degree)), key=SEVERITIES.index)
            else:
                last = groups[-1]
                last.severity = max(filter(None, (last.severity, degree)), key=SEVERITIES.index)
        elif side or zone:
            if not groups or not groups[-1].takes(side, zone) or (waiting and joint and len(groups) > 0):
                groups.append(_Group(None, None, severity=waiting, begin=index))
                waiting = None
            group = groups[-1]
            group.side, group.zone, group.end = group.side or side, group.zone or zone, index + 1
            joint = False
        elif word.form in _JOINTS:
            joint = True
    return groups


def _place(words: Sequence[Word], index: int) -> tuple[str | None, str | None]:
    place = _PLACES.get(words[index].form, (None, None))
    if place != (None, None) and any(word.form in _ELSEWHERE for word in words[index + 1 : index + 2]):
        return None, None
    return place


def _degree(words: Sequence[Word], index: int) -> str | None:
    degree = _DEGREES.get(words[index].form)
    if degree is None or any(word.form in _CHANGES for word in words[index + 1 : index + 2]):
        return None
    return None if index and words[index - 1].form in _FORMERLY else degree


def _is_paired(words: Sequence[Word], text: str, *, zones: int) -> bool:
    """Whether a plural speaks of both sides."""
    paired = _PAIRED | _PAIRED_ZONED if zones == 1 else _PAIRED
    return any(word.form in paired and text[word.end - 1] in "sS" for word in words)


def _share(groups: list[_Group], words: Sequence[Word]) -> None:
    """Gives groups what they share with a neighbour: "right upper and lower", "left and right bases"."""
    for first, second in pairwise(groups):
        if second.side is None:
            second.side = first.side
    for first, second in reversed(list(pairwise(groups))):
        between = {word.form for word in words[first.end : second.begin]}
        if first.zone is None and second.side != first.side and between <= _CONNECTING:
            first.zone = second.zone
        elif second.zone is None and "than" in between and between <= _CONNECTING:
            second.zone = first.zone  # "at the bases, left greater than right"


def _united(places: Iterable[Place]) -> tuple[Place, ...]:
    """The places without repetition, left and right of one zone as one, a vague one not beside its parts."""
    found = list(places)
    if len(found) > 1 and not any(place.severity for place in found[1:]):
        found = [replace(place, severity=found[0].severity) for place in found]  # "small right and left effusions"
    found = _without_vague(found)
    united: list[Place] = []
    for place in found:
        for index, other in enumerate(united):
            if place.zone == other.zone and _one_place(place, other):
                degrees = [degree for degree in (place.severity, other.severity) if degree]
                side = place.side if place.side == other.side else "bilateral"
                united[index] = Place(side, place.zone, max(degrees, key=SEVERITIES.index, default=None))
                break
        else:
            united.append(place)
    return tuple(united)


def _one_place(place: Place, other: Place) -> bool:
    """Whether two places of one zone are one: the same side, or two sides of which nothing different is said."""
    if place.side == other.side:
        return True
    same_degree = place.severity == other.severity or None in {place.severity, other.severity}
    return same_degree and place.side is not None and other.side is not None


def _without_vague(places: list[Place]) -> list[Place]:
    """Drops "bilateral" where both sides follow with their own degrees or zones, else sides that only compare."""
    both = [place for place in places if place.side == "bilateral"]
    single = [place for place in places if place.side in {"left", "right"}]
    if not both or not single:
        return places
    told = [place for place in single if place.severity or place.zone]
    if {place.side for place in told} == {"left", "right"} and all(place.zone is None for place in both):
        return single
    return [place for place in places if place not in single or place in told]
