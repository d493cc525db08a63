from dataclasses import replace

import pytest

from vlp.config import validate
from vlp.data.flips import FlipsConfig, flips, laterality_swap, polarity_flip
from vlp.data.statements import Fact, normalised
from vlp.errors import ConfigError
from vlp.ingest.phantom.history import HistoryConfig, person
from vlp.ingest.phantom.prose import write_report
from vlp.ingest.phantom.source import labels
from vlp.ingest.phantom.truth import FINDINGS, StudyTruth
from vlp.records import Certainty, Person, Report, Sentence, Study
from vlp.reports import read, sentence_text
from vlp.reports.findings import VOCABULARY
from vlp.reports.locations import parts

PRESENT, ABSENT, UNCERTAIN = Certainty.PRESENT, Certainty.ABSENT, Certainty.UNCERTAIN
ALL = FlipsConfig(per_study=99)


def fact(finding: str, certainty: Certainty, location: str | None = None) -> Fact:
    return Fact(finding=finding, certainty=certainty, location=location)


def study_of(*facts: Fact, **changes) -> Study:
    sentences = tuple(
        Sentence(start=0, end=0, section="labels", finding=said.finding, certainty=said.certainty, origin="labels",
                 location=said.location, text=sentence_text(said.finding, said.certainty, location=said.location))
        for said in facts
    )  # fmt: skip
    return replace(Study(id="s", person=Person(id="p"), images=(), sentences=sentences, source="made here"), **changes)


def made(*facts: Fact, **changes) -> set[str]:
    return set(flips(study_of(*facts, **changes), config=ALL))


def test_present_is_denied_anywhere_and_absent_affirmed_where_it_was_denied():
    effusion = fact("pleural effusion", PRESENT, "left lower")
    assert polarity_flip(effusion, [effusion]) == fact("pleural effusion", ABSENT)
    none = fact("nodule", ABSENT, "right")
    assert polarity_flip(none, [none]) == fact("nodule", PRESENT, "right")
    assert made(fact("nodule", ABSENT)) == {"There is a nodule."}
    assert made(fact("cardiomegaly", PRESENT)) == {"There is no cardiomegaly."}


@pytest.mark.parametrize("location", [None, "left", "bilateral base"])
def test_what_may_be_is_never_flipped(location):
    assert made(fact("nodule", UNCERTAIN, location)) == set()


@pytest.mark.parametrize(
    ("flipped", "known"),
    [
        (fact("nodule", PRESENT), fact("nodule", UNCERTAIN, "left")),
        (fact("nodule", PRESENT, "left"), fact("nodule", ABSENT, "right")),
        (fact("nodule", ABSENT), fact("nodule", UNCERTAIN)),
        (fact("nodule", ABSENT), fact("nodule", PRESENT, "left")),
        (fact("nodule", ABSENT, "left"), fact("nodule", PRESENT, "left upper")),
        (fact("nodule", ABSENT, "left"), fact("nodule", UNCERTAIN, "bilateral")),
        (fact("lung opacity", ABSENT), fact("consolidation", PRESENT, "right")),
        (fact("lung opacity", ABSENT), fact("pneumonia", UNCERTAIN)),
        (fact("no finding", PRESENT), fact("cardiomegaly", PRESENT)),
        (fact("no finding", PRESENT), fact("edema", UNCERTAIN)),
    ],
)
def test_no_polarity_is_flipped_where_the_study_leaves_it_open(flipped, known):
    assert polarity_flip(flipped, [flipped]) is not None
    assert polarity_flip(flipped, [flipped, known]) is None


def test_denials_elsewhere_and_what_is_no_kind_of_it_do_not_matter():
    none = fact("consolidation", ABSENT, "left")
    assert polarity_flip(none, [none, fact("consolidation", PRESENT, "right")]) is not None
    assert polarity_flip(none, [none, fact("lung opacity", PRESENT), fact("nodule", PRESENT)]) is not None


def test_a_side_is_swapped_and_its_zone_kept():
    effusion = fact("pleural effusion", PRESENT, "left lower")
    assert laterality_swap(effusion, [effusion]) == fact("pleural effusion", PRESENT, "right lower")
    assert made(fact("nodule", PRESENT, "right upper")) == {
        "There is no nodule.", "There is a nodule of the left upper lung."
    }  # fmt: skip


@pytest.mark.parametrize(
    "known",
    [
        fact("consolidation", PRESENT, "right"),
        fact("consolidation", PRESENT, "bilateral base"),
        fact("consolidation", PRESENT),
        fact("consolidation", PRESENT, "upper"),
        fact("consolidation", UNCERTAIN, "right lower"),
        fact("consolidation", ABSENT),
        fact("consolidation", ABSENT, "left"),
        fact("pneumonia", PRESENT, "right"),  # a kind of it
        fact("lung opacity", PRESENT),  # may be one
        fact("lung opacity", UNCERTAIN, "bilateral"),
        fact("scarring", PRESENT, "right"),  # another name for it
    ],
)
def test_no_side_is_swapped_where_the_study_reaches_the_other(known):
    seen = fact("consolidation", PRESENT, "left")
    assert laterality_swap(seen, [seen, known]) is None


@pytest.mark.parametrize(
    "known",
    [
        fact("consolidation", PRESENT, "left lower"),
        fact("consolidation", ABSENT, "right"),
        fact("lung opacity", PRESENT, "left"),
        fact("pneumonia", ABSENT),
        fact("nodule", PRESENT, "left upper"),
        fact("pleural effusion", PRESENT, "right"),
        fact("cardiomegaly", PRESENT),
        fact("no finding", ABSENT),
    ],
)
def test_a_side_is_swapped_beside_what_stays_away_from_the_other(known):
    seen = fact("consolidation", PRESENT, "left")
    assert laterality_swap(seen, [seen, known]) == fact("consolidation", PRESENT, "right")


@pytest.mark.parametrize(
    "seen",
    [
        fact("cardiomegaly", PRESENT, "left"),
        fact("hernia", PRESENT, "left lower"),
        fact("support device", PRESENT, "right"),
        fact("nodule", PRESENT),
        fact("nodule", PRESENT, "bilateral apex"),
        fact("nodule", PRESENT, "upper"),
        fact("nodule", ABSENT, "left"),
        fact("nodule", UNCERTAIN, "left"),
        fact("pet", PRESENT, "left"),
    ],
)
def test_what_has_no_side_is_not_swapped(seen):
    assert laterality_swap(seen, [seen]) is None


def test_labels_know_what_sentences_leave_out():
    none, seen = fact("nodule", ABSENT), fact("edema", PRESENT, "left")
    assert made(none, labels={"nodule": ABSENT}) == {"There is a nodule."}
    assert made(none, labels={"nodule": PRESENT}) == set()
    assert made(fact("lung opacity", ABSENT), labels={"pneumonia": PRESENT}) == set()
    assert "There is edema of the right lung." in made(seen, labels={"edema": PRESENT})
    assert made(seen, labels={"edema": UNCERTAIN}) == set()
    assert made(seen, labels={"lung opacity": PRESENT}) == {"There is no edema."}


def test_no_flip_repeats_the_study():
    unread = Sentence(start=0, end=0, section="findings", finding=None, certainty=PRESENT, text="there is  a NODULE")
    study = study_of(fact("nodule", ABSENT))
    assert flips(replace(study, sentences=(*study.sentences, unread)), config=ALL) == {}


def test_a_finding_without_a_template_is_left_alone():
    text = Sentence(
        start=0, end=0, section="findings", finding="pet", certainty=PRESENT, text="A pet.", location="left"
    )
    assert flips(replace(study_of(), sentences=(text,)), config=ALL) == {}


def test_each_kind_can_be_left_out():
    study = study_of(fact("nodule", PRESENT, "left"))
    assert set(flips(study, config=FlipsConfig(polarity=False))) == {"There is a nodule of the right lung."}
    assert set(flips(study, config=FlipsConfig(laterality=False))) == {"There is no nodule."}
    with pytest.raises(ConfigError, match="leave flips out"):
        validate(FlipsConfig, {"polarity": False, "laterality": False}, where="test")
    with pytest.raises(ConfigError, match="per_study"):
        validate(FlipsConfig, {"per_study": 0}, where="test")


def _is_kind_of(name: str | None, other: str) -> bool:
    return name is not None and (name == other or _is_kind_of(VOCABULARY[name].parent, other))


def _true(flip: Fact, truth: StudyTruth) -> bool:
    """Whether a statement holds of a phantom study whose every finding and place is known."""
    if flip.finding == "no finding":
        ill = any(place.name != "support device" for place in truth.findings)
        return ill != (flip.certainty is PRESENT)
    side, _ = parts(flip.location or "")
    there = any(
        _is_kind_of(place.name, flip.finding)
        and (side is None or place.side is None or side in {place.side, "bilateral"})
        for place in truth.findings
    )
    return there == (flip.certainty is PRESENT)


def _is_drawn(flip: Fact) -> bool:
    """Whether the drawing decides it: it knows of no hyperinflation, and of opacities only some kinds."""
    if flip.certainty is PRESENT:
        return any(_is_kind_of(name, flip.finding) for name in (*FINDINGS, "no finding"))
    return flip.finding in (*FINDINGS, "no finding")


@pytest.mark.parametrize("seed", [0, 11])
def test_flips_are_never_true_of_their_study(seed):
    """Whatever the report mentions, in whatever words: measured against what was drawn."""
    kinds = {PRESENT: 0, ABSENT: 0, "swapped": 0}
    for truth in (truth for index in range(150) for truth in person(index, seed=seed, settings=HistoryConfig())):
        text = write_report(truth)
        study = study_of(report=Report(text=text), sentences=read(text), labels=labels(truth))
        said = {normalised(sentence.text) for sentence in study.sentences}
        sources = {(s.finding, s.certainty) for s in study.sentences}
        for words, flip in flips(study, config=ALL).items():
            if not _is_drawn(flip):
                continue
            assert not _true(flip, truth), (words, text)
            assert words == sentence_text(flip.finding, flip.certainty, location=flip.location)
            assert normalised(words) not in said
            assert flip.certainty is not UNCERTAIN
            assert (flip.finding, UNCERTAIN) not in sources
            swapped = (flip.finding, flip.certainty) in sources
            kinds["swapped" if swapped else flip.certainty] += 1
    assert min(kinds.values()) > 50, kinds
