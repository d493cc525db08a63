"""What can be said of one finding of one study: affirmed, compared, hedged or denied, with a record of what it says."""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from vlp.ingest.phantom.phrases import Degree, StockSentence, Words, choose, expand, phrasebook, sentence_case
from vlp.ingest.phantom.truth import PlacedFinding, StudyTruth, Zone
from vlp.records import Certainty

SaidSide = Literal["left", "right", "bilateral"]
Status = Literal["plain", "new", "unchanged", "increased", "decreased"]

_SMALL, _LARGE = 1.0 / 3.0, 2.0 / 3.0
_NOTICED_CHANGE = 0.08
"""Difference of severity from which a radiologist calls a finding increased or decreased."""

_ZONE_NAMES = frozenset({"place", "places", "lobe", "base", "apex", "apical", "basal", "basilar"})
_SIDE_NAMES = frozenset({"side", "place", "lobe", "base"})
_BOTH_SIDES = re.compile(r"\b(bilateral(ly)?|both|biapical|bibasilar)\b", re.IGNORECASE)
_RIBS: Mapping[Zone, tuple[tuple[str, str], tuple[str, str]]] = {
    "upper": (("third", "3rd"), ("fourth", "4th")),
    "middle": (("fifth", "5th"), ("sixth", "6th")),
    "lower": (("seventh", "7th"), ("eighth", "8th")),
}
"""The uppermost broken rib of each zone and the one below it, in words and in figures; see `lesions`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a sentence says of one finding."""

    finding: str
    certainty: Certainty
    side: SaidSide | None = None
    zone: Zone | None = None
    named: bool = True
    """Whether the finding is named; otherwise only its sign is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A sentence, and what it says."""

    text: str
    said: tuple[Said, ...] = ()


class Subject:
    """One finding of a study, wherever it is, and the words that are true of it."""

    def __init__(self, truth: StudyTruth, name: str) -> None:
        """Gathers the places of `name`; where it is gone since the study before, those it had then."""
        self.name = name
        self.phrases = phrasebook().findings[name]
        now, before = _placed(truth, name), _placed(truth.earlier, name)
        self.present = bool(now)
        self.places = sorted(now or before, key=lambda place: -place.severity)
        self.both = len({place.side for place in self.places}) == 2
        self.severity = self.places[0].severity if self.places else 0.0
        self.resolved = bool(before) and not now
        self.status = _status(self.severity, before, truth)
        self._truth = truth

    @property
    def degree(self) -> Degree:
        """The severity as a word."""
        return "small" if self.severity < _SMALL else "moderate" if self.severity < _LARGE else "large"

    def affirm(self, generator: random.Random, *, compare: bool, brief: bool) -> Statement:
        """A sentence that names the finding; `brief` ones suit an impression."""
        names = self._names(generator)
        if compare and self.status != "plain":
            return self._framed(self.status, names, generator)
        if generator.random() < 0.07:
            return self._framed("probable", names, generator)
        whole = choose(self.phrases.seen_both if self.both else self.phrases.seen, names=names, generator=generator)
        if whole is not None and generator.random() < (0.15 if brief else 0.4):
            return self._statement(whole, Certainty.PRESENT)
        return self._framed("plain", names, generator)

    def show(self, generator: random.Random) -> Statement | None:
        """A sentence that only shows the finding's sign, if there is a fitting one."""
        signs = self.phrases.sign_both if self.both else self.phrases.sign
        words = choose(signs, names=self._names(generator), generator=generator)
        return None if words is None else self._statement(words, Certainty.PRESENT, named=False)

    def hedge(self, generator: random.Random) -> Statement:
        """A sentence that leaves open whether the finding, which is there, is there."""
        names = self._names(generator)
        words = choose(self.phrases.hedged, names=names, generator=generator)
        if words is None or generator.random() < 0.3:
            return self._framed("hedged", names, generator)
        return self._statement(words, Certainty.UNCERTAIN)

    def doubt(self, generator: random.Random) -> Statement | None:
        """A sentence that leaves open whether the finding, which is not there, is there."""
        words = choose(self.phrases.doubt, names=self._names(generator), generator=generator)
        return None if words is None else self._statement(words, Certainty.UNCERTAIN)

    def resolve(self, generator: random.Random) -> Statement | None:
        """A sentence that says the finding of the study before is gone."""
        words = choose(self.phrases.resolved, names=self._names(generator), generator=generator)
        return None if words is None else self._statement(words, Certainty.ABSENT)

    def deny(self, generator: random.Random) -> Statement:
        """A sentence that names the finding as absent."""
        return Statement(text=generator.choice(self.phrases.absent), said=(_absent(self.name),))

    def deny_sign(self, generator: random.Random) -> Statement | None:
        """A sentence that denies the finding's sign."""
        words = choose(self.phrases.unseen, names=self._names(generator), generator=generator)
        return None if words is None else self._statement(words, Certainty.ABSENT, named=False, placed=False)

    def _framed(self, frame: str, names: Mapping[str, str], generator: random.Random) -> Statement:
        noun_phrases = self.phrases.both if self.both else self.phrases.one
        noun = choose(noun_phrases, names=names, generator=generator)
        assert noun is not None, self.name
        plural = self.both and self.phrases.plural_both
        countable = self.phrases.countable or (not self.both and self.phrases.plural_both)
        article = "a " if countable and not plural else ""
        grammar = {
            "np": noun.text,
            "anp": article + noun.text,
            "anew": article + "new",
            "is": "are" if plural else "is",
            "has": "have" if plural else "has",
        }
        frames = self.phrases.frames.get(frame, phrasebook().frames[frame])
        words = expand(generator.choice(frames), names=grammar, generator=generator)
        certainty = Certainty.UNCERTAIN if frame == "hedged" else Certainty.PRESENT
        return self._statement(Words(text=words.text, names=noun.names), certainty)

    def _statement(self, words: Words, certainty: Certainty, *, named: bool = True, placed: bool = True) -> Statement:
        side: SaidSide | None = None
        zone: Zone | None = None
        if placed and self.places:
            if self.both and (_BOTH_SIDES.search(words.text) or "places" in words.names):
                side = "bilateral"
            elif words.names & _SIDE_NAMES:
                side = self.places[0].side
            zone = self.places[0].zone if words.names & _ZONE_NAMES else None
        said = Said(finding=self.name, certainty=certainty, side=side, zone=zone, named=named)
        return Statement(text=sentence_case(words.text), said=(said,))

    def _names(self, generator: random.Random) -> dict[str, str]:
        """What patterns may ask for, as far as the study can answer."""
        names = {**_circumstances(self._truth), **self._measures(generator)}
        if not self.places:
            return names
        degree = generator.choice(self.phrases.degree[self.degree])
        names |= {"degree": degree, "degreely": f"{degree}ly", self.degree: ""}
        names |= {f"not{other}": "" for other in ("small", "large") if other != self.degree}
        side, zone = self.places[0].side, self.places[0].zone
        if side is not None:
            names["side"] = side
        if zone is not None:
            names |= _zone_names(side, zone, generator)
        return names

    def _measures(self, generator: random.Random) -> dict[str, str]:
        names = {
            "mm": str(nodule_mm(self.severity)),
            "cm": f"{mass_mm(self.severity) / 10:.1f}",
            "ratio": f"{cardiothoracic_ratio(self.severity):.2f}",
        }
        if self.places and (zone := self.places[0].zone) is not None:
            names["rib"], names["next"] = generator.choice(list(zip(*_RIBS[zone], strict=True)))
        return names


def nodule_mm(severity: float) -> int:
    """Diameter a report gives a nodule of `severity`, close to the one `lesions` draws in an average adult."""
    return round(12.0 + 13.0 * severity)


def mass_mm(severity: float) -> int:
    """Diameter a report gives a mass of `severity`, close to the one `lesions` draws in an average adult."""
    return round(33.0 + 32.0 * severity)


def cardiothoracic_ratio(severity: float) -> float:
    """Width of the heart over that of the thorax that a report gives an enlarged heart of `severity`."""
    return 0.55 + 0.10 * severity


def stock(sentence: StockSentence) -> Statement:
    """A stock sentence and what it says."""
    named = tuple(_absent(name) for name in sentence.denies)
    return Statement(text=sentence.text, said=named + tuple(replace(_absent(n), named=False) for n in sentence.unseen))


def deny_together(names: Sequence[str], generator: random.Random) -> Statement:
    """One sentence that denies all of `names`: "No a, b, or c."."""
    listed = [generator.choice(phrasebook().findings[name].listed) for name in names]
    joint = (
        listed[0] if len(listed) == 1 else f"{', '.join(listed[:-1])}{',' if len(listed) > 2 else ''} or {listed[-1]}"
    )
    words = expand(generator.choice(phrasebook().frames["none"]), names={"listed": joint}, generator=generator)
    return Statement(text=words.text, said=tuple(_absent(name) for name in names))


def devices(truth: StudyTruth, generator: random.Random, *, compare: bool, brief: bool) -> list[Statement]:
    """A sentence for each support device."""
    before = {place.device for place in _placed(truth.earlier, "support device")}
    statements = []
    for place in _placed(truth, "support device"):
        assert place.device is not None
        phrases = phrasebook().devices[place.device]
        patterns = phrases.brief if brief else phrases.seen
        if compare and truth.earlier is not None and generator.random() < 0.6:
            patterns = phrases.unchanged if place.device in before else phrases.new
        names = {"side": place.side} if place.side else {}
        words = expand(generator.choice(patterns), names=names, generator=generator)
        side = place.side if "side" in words.names else None
        said = Said(finding="support device", certainty=Certainty.PRESENT, side=side)
        statements.append(Statement(text=sentence_case(words.text), said=(said,)))
    return statements


def _absent(name: str) -> Said:
    return Said(finding=name, certainty=Certainty.ABSENT)


def _placed(truth: StudyTruth | None, name: str) -> list[PlacedFinding]:
    return [] if truth is None else [place for place in truth.findings if place.name == name]


def _status(severity: float, before: Sequence[PlacedFinding], truth: StudyTruth) -> Status:
    if truth.earlier is None:
        return "plain"
    if not before:
        return "new"
    change = severity - max(place.severity for place in before)
    if abs(change) < _NOTICED_CHANGE:
        return "unchanged"
    return "increased" if change > 0 else "decreased"


def _circumstances(truth: StudyTruth) -> dict[str, str]:
    names = {"upright" if truth.exposure.frontal == "PA" else "bedside": ""}
    if truth.exposure.lateral:
        names["sideview"] = ""
    present = {place.name for place in truth.findings}
    return names | {f"no{name}": "" for name in ("mass", "atelectasis") if name not in present}


def _zone_names(side: str | None, zone: Zone, generator: random.Random) -> dict[str, str]:
    word = {"upper": "upper", "middle": "mid", "lower": "lower"}[zone]
    lobe = f"{side} mid lung" if zone == "middle" and side == "left" else f"{side} {zone} lobe"
    place = generator.choice((lobe, lobe, f"{side} {word} lung zone", f"{side} {word} lung"))
    places = generator.choice((f"both {word} lung zones", f"the {word} lungs bilaterally"))
    names = {"lobe": lobe, "place": place, "places": places}
    if zone == "upper":
        return names | {"apical": "apical", "apex": ""}
    if zone == "lower":
        names |= {"base": generator.choice((f"{side} base", f"{side} lung base")), "basilar": "basilar", "basal": ""}
        names["places"] = generator.choice((places, "both lung bases", "both lower lobes"))
    return names | {"notapical": ""}
