"""Sentences turned into what is not true of their study: the other polarity, the other side.

A flipped sentence differs from a true one in a word that a model of findings can overlook, so it is a hard negative
for its study's images.  It is one only where it is surely false, so a flip is made only where the study says nothing,
in a sentence or a label, that makes it true or leaves it open.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated

from pydantic import Field, model_validator

from vlp.config import Config
from vlp.data.statements import Fact, normalised
from vlp.data.texts import Teller, sentence_texts
from vlp.records import Certainty
from vlp.reports.findings import NO_FINDING, VOCABULARY, sentence_text
from vlp.reports.locations import compose, parts

_OTHER_SIDE = {"left": "right", "right": "left"}
_WITHOUT_OTHER_SIDE = frozenset({"hernia", "support device"})
"""Findings whose side, though a place in the vocabulary, rules nothing out: a hiatal hernia behind the heart is read
as "left lower", and a pacemaker of the left side has its lead in the right ventricle."""
_OPPOSITE = {Certainty.PRESENT: Certainty.ABSENT, Certainty.ABSENT: Certainty.PRESENT}


class FlipsConfig(Config):
    """Flipped sentences beside the true ones while training."""

    polarity: bool = True
    """"There is F." for an F that is denied, "There is no F." for one that is there; what may be is left alone."""
    laterality: bool = True
    """The other side of an F on one side, where nothing that is said of F or of its organ reaches there."""
    per_study: Annotated[int, Field(ge=1)] = 2
    """Up to so many, chosen anew each epoch."""

    @model_validator(mode="after")
    def _something_is_flipped(self) -> "FlipsConfig":
        if not (self.polarity or self.laterality):
            raise ValueError("flips need polarity or laterality; leave flips out for none")
        return self


def flips(study: Teller, *, config: FlipsConfig) -> dict[str, Fact]:
    """Every flip of the study that is surely false, as a template text with what it states.

    None repeats words of the study.  Findings that are not in the vocabulary have no template and are not flipped.
    """
    facts = tuple(dict.fromkeys(fact for said in study.sentences if (fact := Fact.of(said)) is not None))
    known = (*facts, *_labels(study, facts))
    found: list[Fact | None] = []
    for fact in facts:
        if config.polarity:
            found.append(polarity_flip(fact, known))
        if config.laterality:
            found.append(laterality_swap(fact, known))
    words = {normalised(text) for said in study.sentences for text in sentence_texts(study, said, "both")}
    made = {
        sentence_text(flip.finding, flip.certainty, location=flip.location): flip for flip in found if flip is not None
    }
    return {text: flip for text, flip in made.items() if normalised(text) not in words}


def polarity_flip(fact: Fact, known: Sequence[Fact]) -> Fact | None:
    """Present for absent or absent for present; None where `known` does not rule that out, or `fact` is uncertain.

    The denial is of the finding anywhere; the affirmation is of the place where it was denied.
    """
    opposite = _OPPOSITE.get(fact.certainty)
    if opposite is None or fact.finding not in VOCABULARY:
        return None
    if opposite is Certainty.ABSENT:
        flip = fact._replace(certainty=opposite, location=None)
        false = all(other.certainty is Certainty.PRESENT for other in known if other.finding == fact.finding)
    else:
        place = fact.location if VOCABULARY[fact.finding].place else None
        flip = fact._replace(certainty=opposite, location=place)
        # A kind of it that is there makes it true: consolidation is an opacity.
        near = (other for other in known if _touch(place, other.location))
        false = all(other.certainty is Certainty.ABSENT for other in near if fact.finding in _lineage(other.finding))
    # "There is an abnormality" is not surely false of a study that found anything at all.
    if fact.finding == NO_FINDING and opposite is Certainty.ABSENT:
        false = all(other.certainty is Certainty.ABSENT for other in known if other.finding != NO_FINDING) and false
    return flip if false else None


def laterality_swap(fact: Fact, known: Sequence[Fact]) -> Fact | None:
    """A present finding on the other side; None where it has none, or `known` does not rule the other side out.

    What is known of the finding and of others of its organ must all be on its own side, but for denials.
    """
    side, zone = parts(fact.location or "")
    if fact.certainty is not Certainty.PRESENT or side not in _OTHER_SIDE:
        return None
    if fact.finding not in VOCABULARY or fact.finding in _WITHOUT_OTHER_SIDE or not VOCABULARY[fact.finding].place:
        return None
    other_side = _OTHER_SIDE[side]
    if not all(_leaves_free(other, fact.finding, side=side, other_side=other_side) for other in known):
        return None
    return fact._replace(location=compose(other_side, zone))


def _leaves_free(known: Fact, finding: str, *, side: str, other_side: str) -> bool:
    """Whether what is known does not put `finding`, seen on one side, on the other side too."""
    where, _ = parts(known.location or "")
    if known.finding == finding:
        return where == (other_side if known.certainty is Certainty.ABSENT else side)
    # Shadows of one organ go by many names: one reader's scar is another's atelectasis.
    related = known.finding in VOCABULARY and VOCABULARY[known.finding].group == VOCABULARY[finding].group
    return not related or known.certainty is Certainty.ABSENT or where == side


def _touch(one: str | None, other: str | None) -> bool:
    """Whether two places may have something in common; zones are too vague to tell apart."""
    sides = {parts(one or "")[0], parts(other or "")[0]}
    return sides != {"left", "right"}


def _lineage(finding: str) -> Iterator[str]:
    """The finding, what it is a kind of, and so on."""
    name: str | None = finding
    while name is not None:
        yield name
        name = VOCABULARY[name].parent if name in VOCABULARY else None


def _labels(study: Teller, facts: Sequence[Fact]) -> Iterator[Fact]:
    """What the labels say and no sentence does: of a finding somewhere."""
    stated = {(fact.finding, fact.certainty) for fact in facts}
    for finding, certainty in study.labels.items():
        if (finding, certainty) not in stated:
            yield Fact(finding=finding, certainty=certainty)
