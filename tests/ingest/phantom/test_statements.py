import random
import re
from collections import Counter

import pytest

from vlp.ingest.phantom.phrases import StockSentence, phrasebook
from vlp.ingest.phantom.statements import (
    Statement,
    Subject,
    cardiothoracic_ratio,
    deny_together,
    devices,
    mass_mm,
    nodule_mm,
    stock,
)
from vlp.ingest.phantom.truth import Body, Exposure, PlacedFinding, StudyTruth
from vlp.records import Certainty

BODY = Body(age=60.0, sex="F", size=1.0, habitus=0.0, seed=0)
UPRIGHT = Exposure(
    frontal="PA", lateral=True, rotation_deg=0.0, tilt_deg=0.0, inspiration=0.8, scanner=0, site="north", marker=True,
    site_marker=False, seed=0,
)  # fmt: skip


def study(*findings: PlacedFinding, earlier: StudyTruth | None = None) -> StudyTruth:
    return StudyTruth(
        id="phantom-000000-0", person="phantom-000000", order=0 if earlier is None else 1, days=0, body=BODY,
        exposure=UPRIGHT, findings=findings, earlier=earlier,
    )  # fmt: skip


def effusion(severity: float, side: str = "left") -> PlacedFinding:
    return PlacedFinding(name="pleural effusion", side=side, severity=severity)


def affirmations(truth: StudyTruth, name: str, *, compare: bool = False, brief: bool = False) -> list[Statement]:
    generator = random.Random(0)
    return [Subject(truth, name).affirm(generator, compare=compare, brief=brief) for _ in range(60)]


@pytest.mark.parametrize(("severity", "degree"), [(0.2, "small"), (0.5, "moderate"), (0.9, "large")])
def test_severity_becomes_the_fitting_word(severity, degree):
    words = phrasebook().findings["pleural effusion"].degree[degree]
    for statement in affirmations(study(effusion(severity)), "pleural effusion"):
        assert any(word in statement.text.lower() for word in words), statement.text


@pytest.mark.parametrize(("side", "other"), [("left", "right"), ("right", "left")])
def test_the_side_of_the_truth_is_the_side_in_the_words(side, other):
    for statement in affirmations(study(effusion(0.4, side)), "pleural effusion"):
        assert side in statement.text.lower()
        assert other not in statement.text.lower()
        assert statement.said[0].side == side


def test_what_is_on_both_sides_is_called_so():
    truth = study(effusion(0.5, "left"), effusion(0.4, "right"))
    for statement in affirmations(truth, "pleural effusion"):
        assert statement.said[0].side == "bilateral"
        assert any(word in statement.text.lower() for word in ("bilateral", "both"))


@pytest.mark.parametrize(
    ("before", "now", "status", "cues"),
    [
        (None, 0.5, "new", ("new", "interval development")),
        (0.5, 0.52, "unchanged", ("unchanged", "stable", "persistent", "not significantly changed")),
        (0.3, 0.6, "increased", ("increase", "worsening")),
        (0.6, 0.3, "decreased", ("decrease", "improv")),
    ],
)
def test_comparisons_say_what_happened(before, now, status, cues):
    earlier = study() if before is None else study(effusion(before))
    truth = study(effusion(now), earlier=earlier)
    assert Subject(truth, "pleural effusion").status == status
    for statement in affirmations(truth, "pleural effusion", compare=True):
        assert any(cue in statement.text.lower() for cue in cues), statement.text


def test_without_a_prior_nothing_is_compared():
    for statement in affirmations(study(effusion(0.5)), "pleural effusion", compare=True):
        assert not any(
            word in statement.text.lower() for word in ("new", "increase", "decrease", "unchanged", "stable")
        )


def test_a_finding_that_is_gone_is_said_to_be():
    subject = Subject(study(earlier=study(effusion(0.5))), "pleural effusion")
    assert subject.resolved
    assert not subject.present
    said = subject.resolve(random.Random(0)).said[0]
    assert (said.certainty, said.side) == (Certainty.ABSENT, "left")


def test_hedges_are_uncertain_and_denials_absent():
    here, nowhere = Subject(study(effusion(0.2)), "pleural effusion"), Subject(study(), "pleural effusion")
    for seed in range(30):
        generator = random.Random(seed)
        assert here.hedge(generator).said[0].certainty is Certainty.UNCERTAIN
        assert nowhere.doubt(generator).said[0].certainty is Certainty.UNCERTAIN
        assert nowhere.deny(generator).said[0].certainty is Certainty.ABSENT
        assert not nowhere.deny_sign(generator).said[0].named


def test_signs_do_not_name_the_finding():
    subject = Subject(study(effusion(0.2)), "pleural effusion")
    for seed in range(30):
        statement = subject.show(random.Random(seed))
        assert "effusion" not in statement.text.lower()
        assert not statement.said[0].named


def test_zones_are_recorded_only_where_they_are_said():
    truth = study(PlacedFinding(name="nodule", side="right", zone="lower", severity=0.5))
    zones = Counter()
    for statement in affirmations(truth, "nodule"):
        spoken = any(word in statement.text.lower() for word in ("lower", "base"))
        assert statement.said[0].zone == ("lower" if spoken else None), statement.text
        zones[spoken] += 1
    assert zones[True]


def test_a_rib_keeps_its_number():
    truth = study(PlacedFinding(name="fracture", side="left", zone="lower", severity=0.9, seed=4))
    ribs = set()
    for statement in affirmations(truth, "fracture"):
        first = re.search(r"\d(th|rd)|third|fourth|fifth|sixth|seventh|eighth", statement.text)
        ribs |= {first.group()} if first else set()
    assert ribs == {"seventh", "7th"}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_joint_denials_deny_each_of_them(count):
    names = ["pneumothorax", "pleural thickening", "mass"][:count]
    statement = deny_together(names, random.Random(0))
    assert [said.finding for said in statement.said] == names
    assert all(said.certainty is Certainty.ABSENT for said in statement.said)
    assert all(name in statement.text for name in names)
    assert statement.text.count(" or ") == (count > 1)


def test_devices_are_named_with_their_side_and_what_became_of_them():
    tube = PlacedFinding(name="support device", side="right", device="chest tube")
    wires = PlacedFinding(name="support device", device="sternal wires")
    truth = study(tube, wires, earlier=study(wires))
    texts = Counter()
    for seed in range(40):
        first, second = devices(truth, random.Random(seed), compare=True, brief=False)
        assert "right" in first.text.lower()
        assert first.said[0].side == "right"
        assert second.said[0].side is None
        texts["new tube"] += any(word in first.text for word in ("New", "placement"))
        texts["old wires"] += "unchanged" in second.text
        assert "new" not in second.text.lower()
        assert "unchanged" not in first.text.lower()
    assert texts["new tube"]
    assert texts["old wires"]


def test_stock_sentences_say_what_they_deny():
    said = stock(StockSentence(text="No mass. Heart size is normal.", denies=("mass",), unseen=("cardiomegaly",))).said
    assert [(entry.finding, entry.named) for entry in said] == [("mass", True), ("cardiomegaly", False)]


def test_measures_grow_with_severity_and_keep_nodules_and_masses_apart():
    assert nodule_mm(0.1) < nodule_mm(0.9) < 30
    assert 30 < mass_mm(0.0) < mass_mm(1.0)
    assert 0.5 < cardiothoracic_ratio(0.1) < cardiothoracic_ratio(1.0) < 0.7
