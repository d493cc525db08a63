import math
from collections import Counter

import pytest

from vlp import config
from vlp.errors import ConfigError
from vlp.ingest.phantom.history import Confounders, HistoryConfig, SiteMarker, person
from vlp.ingest.phantom.truth import DEVICES, FINDINGS, StudyTruth

PERMANENT = {"emphysema", "fibrosis", "hernia", "pleural thickening"}


def population(count: int, settings: HistoryConfig | None = None, *, seed: int = 5) -> list[StudyTruth]:
    settings = settings or HistoryConfig()
    return [study for index in range(count) for study in person(index, seed=seed, settings=settings)]


def names(study: StudyTruth) -> set[str]:
    return {place.name for place in study.findings}


def share(studies: list[StudyTruth], finding: str) -> float:
    return sum(finding in names(study) for study in studies) / len(studies)


@pytest.fixture(scope="module")
def studies() -> list[StudyTruth]:
    return population(1200)


def test_the_same_seed_and_number_give_the_same_history():
    assert person(7, seed=3, settings=HistoryConfig()) == person(7, seed=3, settings=HistoryConfig())


def test_other_seeds_and_numbers_give_other_histories():
    assert person(7, seed=3, settings=HistoryConfig())[0].body != person(7, seed=4, settings=HistoryConfig())[0].body
    assert person(7, seed=3, settings=HistoryConfig())[0].body != person(8, seed=3, settings=HistoryConfig())[0].body


@pytest.mark.parametrize("finding", FINDINGS)
def test_every_finding_has_the_prevalence_asked_for(studies, finding):
    assert 0.08 <= share(studies, finding) <= 0.16
    assert share(studies, finding) == pytest.approx(HistoryConfig().prevalence[finding], abs=0.03)


def test_normal_studies_are_a_quarter_to_a_third(studies):
    assert 0.25 <= sum(not study.findings for study in studies) / len(studies) <= 0.35


def test_a_changed_prevalence_changes_that_finding_alone():
    more = population(400, HistoryConfig(prevalence={"mass": 0.4}))
    usual = population(400)
    assert share(more, "mass") == pytest.approx(0.4, abs=0.07)
    for before, after in zip(usual, more, strict=True):
        assert [place for place in before.findings if place.name != "mass"] == [
            place for place in after.findings if place.name != "mass"
        ]


@pytest.mark.parametrize(
    ("one", "other"),
    [("pleural effusion", "atelectasis"), ("edema", "cardiomegaly"), ("edema", "pleural effusion"),
     ("nodule", "mass"), ("emphysema", "mass")],
)  # fmt: skip
def test_findings_with_common_causes_come_together(studies, one, other):
    with_other = [study for study in studies if other in names(study)]
    assert share(with_other, one) > 1.4 * share(studies, one)


def test_findings_appear_grow_shrink_and_resolve(studies):
    seen = Counter()
    for study in studies:
        if study.earlier is None:
            continue
        for name in ("pleural effusion", "consolidation", "pneumothorax", "edema"):
            now = max((place.severity for place in study.findings if place.name == name), default=0.0)
            before = max((place.severity for place in study.earlier.findings if place.name == name), default=0.0)
            change = "appears" if now and not before else "resolves" if before and not now else "grows"
            if now or before:
                seen[change if change != "grows" or now > before else "shrinks"] += 1
    assert all(seen[change] >= 20 for change in ("appears", "resolves", "grows", "shrinks")), seen


def test_what_never_heals_stays_and_does_not_shrink(studies):
    for study in studies:
        if study.earlier is None:
            continue
        assert names(study) & PERMANENT == names(study.earlier) & PERMANENT
        for place in study.findings:
            if place.name in PERMANENT:
                (before,) = [p for p in study.earlier.findings if (p.name, p.seed) == (place.name, place.seed)]
                assert place.severity >= before.severity


def test_a_finding_keeps_its_place_from_study_to_study(studies):
    for study in studies:
        for place in study.findings:
            if study.earlier is None or place.name == "support device":
                continue
            before = [p for p in study.earlier.findings if p.name == place.name]
            assert not before or (place.side, place.zone, place.seed) in {(p.side, p.zone, p.seed) for p in before}


def test_studies_are_chained_and_the_person_ages(studies):
    lengths = Counter()
    for study in studies:
        assert study.order == (0 if study.earlier is None else study.earlier.order + 1)
        lengths[study.order] += 1
        if study.earlier is not None:
            assert study.earlier.person == study.person
            assert study.days > study.earlier.days
            assert study.body.age > study.earlier.body.age
            assert (study.body.sex, study.body.seed) == (study.earlier.body.sex, study.earlier.body.seed)
    assert set(lengths) == {0, 1, 2, 3}
    assert len({study.id for study in studies}) == len(studies)
    assert len(studies) / lengths[0] == pytest.approx(2.0, abs=0.2)


def test_severities_and_devices_are_what_truth_allows(studies):
    worn = Counter()
    for study in studies:
        for place in study.findings:
            assert 0.0 < place.severity <= 1.0
            assert (place.device in DEVICES) == (place.name == "support device")
            worn[place.device] += 1
        assert len({(p.name, p.side, p.device) for p in study.findings}) == len(study.findings)
    assert all(worn[device] >= 10 for device in DEVICES), worn


def test_sicker_people_are_radiographed_in_bed(studies):
    bedside = [study for study in studies if study.exposure.frontal == "AP"]
    upright = [study for study in studies if study.exposure.frontal == "PA"]
    assert 0.15 < len(bedside) / len(studies) < 0.45
    assert share(bedside, "edema") > 2 * share(upright, "edema")
    assert not any(study.exposure.lateral for study in bedside)
    assert 0.4 < sum(study.exposure.lateral for study in upright) / len(upright) < 0.6


def tube_with_pneumothorax(studies: list[StudyTruth]) -> float:
    hits = total = 0
    for study in studies:
        sides = {place.side for place in study.findings if place.name == "pneumothorax"}
        if sides:
            total += 1
            hits += sides == {place.side for place in study.findings if place.device == "chest tube"}
    return hits / total


def test_the_chest_tube_shortcut_switches_on_and_off(studies):
    planted = population(600, HistoryConfig(confounders=Confounders(chest_tube=0.8)))
    assert tube_with_pneumothorax(studies) < 0.1
    assert tube_with_pneumothorax(planted) == pytest.approx(0.8, abs=0.1)
    assert share(planted, "support device") < 0.18


def test_the_site_marker_shortcut_switches_on_and_off(studies):
    marker = SiteMarker(site="harbour", finding="consolidation", prevalence=0.3)
    planted = population(800, HistoryConfig(confounders=Confounders(site_marker=marker)))
    marked = [study for study in planted if study.exposure.site_marker]
    assert {study.exposure.site for study in marked} == {"harbour"}
    assert share(marked, "consolidation") == pytest.approx(0.3, abs=0.06)
    assert share(planted, "consolidation") == pytest.approx(0.125, abs=0.04)
    assert not any(study.exposure.site_marker for study in studies)
    at_harbour = [study for study in studies if study.exposure.site == "harbour"]
    assert share(at_harbour, "consolidation") == pytest.approx(0.125, abs=0.05)


@pytest.mark.parametrize(
    "values",
    [
        {"prevalence": {"cardiomegally": 0.1}},
        {"prevalence": {"mass": 1.5}},
        {"max_studies": 9},
        {"confounders": {"site_marker": {"site": "mars", "finding": "mass", "prevalence": 0.5}}},
        {"confounders": {"site_marker": {"site": "north", "finding": "gout", "prevalence": 0.5}}},
    ],
)
def test_settings_that_cannot_be_are_refused(values):
    with pytest.raises(ConfigError):
        config.validate(HistoryConfig, values, where="here")


def test_one_study_each_where_only_one_is_asked_for():
    studies = population(50, HistoryConfig(max_studies=1))
    assert len(studies) == 50
    assert not math.isnan(sum(study.body.age for study in studies))
