import re
from collections import Counter, defaultdict

import pytest

from vlp.ingest.phantom.history import HistoryConfig, person
from vlp.ingest.phantom.prose import ORGANS, WrittenReport, compose, write_report
from vlp.ingest.phantom.truth import FINDINGS, StudyTruth
from vlp.records import Certainty
from vlp.reports import read

NAMES = {
    "pleural effusion": "effusion|fluid collection", "pneumothorax": "pneumothorax|ptx",
    "consolidation": "consolidation",
    "atelectasis": "atelectasis", "edema": "edema", "cardiomegaly": "cardiomegaly|enlarge|cardiac|heart",
    "nodule": "nodule", "mass": "mass", "emphysema": "emphysema|emphysematous|hyperinflation",
    "fibrosis": "fibrosis|fibrotic|reticular", "fracture": "fracture", "hernia": "hernia",
    "pleural thickening": "pleural thickening|density",
    "support device": "tube|catheter|line|pacemaker|wires|device|ett|ngt",
}  # fmt: skip
LUNG_FINDINGS = {"consolidation", "atelectasis", "edema", "nodule", "mass", "fibrosis"}


@pytest.fixture(scope="module")
def written() -> list[tuple[StudyTruth, WrittenReport]]:
    studies = [study for index in range(170) for study in person(index, seed=11, settings=HistoryConfig())]
    assert len(studies) >= 300
    return [(study, compose(study)) for study in studies]


def present(truth: StudyTruth) -> set[str]:
    return {place.name for place in truth.findings}


def test_the_same_study_gives_the_same_report(written):
    for truth, report in written[:50]:
        assert compose(truth) == report
        assert write_report(truth) == report.text


def test_mentions_span_whole_sentences_that_speak_of_the_finding(written):
    for _, report in written:
        for mention in report.mentions:
            sentence = report.text[mention.start : mention.end]
            assert sentence == sentence.strip()
            assert sentence.endswith(".")
            assert sentence[0].isupper() or sentence[0].isdigit()
            before = report.text[: mention.start].rstrip(" \n")
            assert not before or before[-1] in ".:" or before[-1].isdigit(), before[-20:]
            if mention.named:
                assert re.search(NAMES[mention.finding], " ".join(sentence.lower().split())), sentence


def test_what_is_stated_is_true(written):
    for truth, report in written:
        for mention in report.mentions:
            if mention.certainty is not Certainty.UNCERTAIN:
                stated = mention.certainty is Certainty.PRESENT
                assert stated == (mention.finding in present(truth)), report.text[mention.start : mention.end]


def test_sides_and_zones_are_those_of_the_truth(written):
    checked = 0
    for truth, report in written:
        for mention in report.mentions:
            known = (
                truth.findings if mention.finding in present(truth) or truth.earlier is None else truth.earlier.findings
            )
            places = [place for place in known if place.name == mention.finding]
            sides = {place.side for place in places}
            if mention.side is not None:
                checked += 1
                assert sides >= ({"left", "right"} if mention.side == "bilateral" else {mention.side})
            if mention.zone is not None:
                assert mention.zone in {place.zone for place in places}
    assert checked > 200


def test_the_words_name_no_side_the_record_does_not_have(written):
    for _, report in written:
        for mention in report.mentions:
            sentence = report.text[mention.start : mention.end].lower()
            if "left hemidiaphragm with tip" in sentence or "left heart border" in sentence or "pacemaker" in sentence:
                continue  # anatomy, not the side of the finding
            spoken = set(re.findall(r"\b(left|right)\b", sentence))
            if mention.finding != "support device":
                assert spoken <= {mention.side}, sentence
            if mention.side in ("left", "right"):
                short = {"left": r"\bl[ul]l\b", "right": r"\br[uml]l\b"}[mention.side]
                assert spoken == {mention.side} or re.search(short, sentence), sentence


def test_every_finding_is_affirmed_hedged_and_denied_somewhere(written):
    seen = Counter((mention.finding, mention.certainty) for _, report in written for mention in report.mentions)
    for finding in FINDINGS:
        assert seen[finding, Certainty.PRESENT] >= 10, finding
        assert seen[finding, Certainty.ABSENT] >= 30, finding
        if finding != "support device":
            assert seen[finding, Certainty.UNCERTAIN] >= 1, finding


def test_signs_are_affirmed_and_denied_without_the_name(written):
    signs = defaultdict(set)
    for _, report in written:
        for mention in report.mentions:
            if not mention.named:
                signs[mention.finding].add(mention.certainty)
    for finding in FINDINGS:
        if finding != "support device":
            assert signs[finding] == {Certainty.PRESENT, Certainty.ABSENT}, finding


def test_a_report_does_not_contradict_itself(written):
    for _, report in written:
        certainties = defaultdict(set)
        for mention in report.mentions:
            certainties[mention.finding].add(mention.certainty)
        assert all(len(values) == 1 for values in certainties.values())


def test_only_small_findings_are_omitted_and_then_not_mentioned(written):
    omitted = 0
    for truth, report in written:
        spoken = {mention.finding for mention in report.mentions}
        assert set(report.omitted) <= present(truth)
        assert present(truth) - spoken == set(report.omitted)
        for name in report.omitted:
            omitted += 1
            assert max(place.severity for place in truth.findings if place.name == name) < 1 / 3
    assert omitted >= 5


def test_lungs_are_called_clear_only_when_they_are(written):
    clear = [truth for truth, report in written if "lungs are clear" in report.text.lower()]
    assert len(clear) > 20
    assert not any(present(truth) & LUNG_FINDINGS for truth in clear)


def test_normal_chest_means_no_finding_at_all(written):
    for truth, report in written:
        if re.search("(normal|unremarkable) chest radiograph", report.text.lower()):
            assert not truth.findings


def test_normal_reports_repeat_the_same_sentences(written):
    counts = Counter()
    for _, report in written:
        counts.update(set(re.findall(r"[A-Z][^.:\n]+\.", report.text)))
    assert counts.most_common(1)[0][1] > 20


def test_comparisons_need_a_prior(written):
    compared = 0
    for truth, report in written:
        words = re.search(r"unchanged|interval (increase|decrease|resolution)|since the prior", report.text.lower())
        compared += words is not None
        assert words is None or truth.earlier is not None, report.text
    assert compared > 50


def test_dialects_differ(written):
    texts = [report.text for _, report in written]
    assert any("FINDINGS:\n" in text and "IMPRESSION:\n" in text for text in texts)
    assert any("Findings: " in text for text in texts)
    assert any("findings: " in text for text in texts)
    assert any(text.startswith("IMPRESSION:") for text in texts)
    assert any(":" not in text for text in texts)
    assert any("LUNGS: " in text for text in texts)
    assert any("\n1. " in text for text in texts)
    assert any(text == text.upper() for text in texts)
    assert any("PTX" in text for text in texts)


def test_no_pattern_shows_through(written):
    for _, report in written:
        assert not re.search(r"[$|()]|  | \.|\.\.|\ba [aeiou](?!n?i)", report.text), report.text


def test_organs_hold_every_finding_once():
    assert sorted(name for names in ORGANS.values() for name in names) == sorted(FINDINGS)


def test_our_own_reader_recovers_what_was_written(written):
    good = total = 0
    for _, report in written:
        sentences = read(report.text)
        for mention in report.mentions:
            if mention.named:
                total += 1
                good += any(
                    (sentence.finding, sentence.certainty) == (mention.finding, mention.certainty)
                    and sentence.start < mention.end
                    and sentence.end > mention.start
                    for sentence in sentences
                )
    assert total > 2000
    assert good / total >= 0.95


def test_our_own_reader_finds_little_that_is_not_there(written):
    false = sum(
        sentence.certainty is Certainty.PRESENT and sentence.finding in set(FINDINGS) - present(truth)
        for truth, report in written
        for sentence in read(report.text)
    )
    assert false <= 0.05 * len(written)
