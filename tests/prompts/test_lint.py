from pathlib import Path

import pytest
import yaml

from vlp.prompts.descriptors import PACKAGE_FILE
from vlp.prompts.lint import Fault, lint

GOOD = {"id": "x", "form": "a", "text": "round opacity", "anatomy": "lung"}


def faults_of(folder: Path, *entries: dict, **changes: object) -> list[Fault]:
    """What the linter says of the package's file with other descriptors of a nodule."""
    content = yaml.safe_load(PACKAGE_FILE.read_text(encoding="utf-8"))
    content["findings"] = {"nodule": {"descriptors": [GOOD | entry for entry in entries or ({},)]}}
    content |= {"anatomies": ["lung"], "reviewed_by": "A. Reader"}
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump(content | changes), encoding="utf-8")
    return list(lint(path))


def written(positive: str, negative: str = "There is no such thing.") -> dict[str, object]:
    return {"form": None, "positive": positive, "negative": negative}


def test_the_package_has_no_error_and_waits_for_its_reviewer() -> None:
    assert [(fault.severity, fault.where) for fault in lint()] == [("warning", "reviewed_by")]


def test_a_good_file_has_no_fault(tmp_path: Path) -> None:
    assert faults_of(tmp_path) == []


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        ({"text": "opaque nodular density"}, "'a opaque'"),
        ({"form": "an"}, "'an round'"),
        (written("There is an unilateral opacity."), "'an unilateral'"),
        (written("There is a MRI finding in the lung."), "'a MRI'"),
        (written("there is a round opacity."), "is no sentence"),
        (written("There is a round opacity"), "is no sentence"),
        (written("There is a  round opacity."), "is no sentence"),
        (written("There is a round opacity.."), "is no sentence"),
        (written("There is a round\topacity."), "control character U+0009"),
        (written("There is a round opac\u200bity."), "control character U+200B"),
        (written("There is a a round opacity."), "repeats 'a'"),
        (written("There is " + "very " * 64 + "round opacity."), "has 68 words"),
        (written("There is no nodule."), "nodule is absent"),
        (written("There may be a nodule."), "nodule is uncertain"),
        (written("There is no round thing."), "denies ('no')"),
        (written("There is an effusion and no consolidation."), "consolidation is absent"),
        (written("It is round.", "There is a nodule."), "nodule is present"),
        (written("It is round.", "There may be a nodule."), "nodule is uncertain"),
        (written("It is round.", "It is square."), "denies nothing"),
        (written("There is a left right opacity."), "'left' and 'right' exclude"),
        (written("There is a nodule and there is no nodule."), "affirms and denies nodule"),
        ({"text": "round opacity of the knee"}, "no chest radiograph shows 'knee'"),
        ({"anatomy": "knee"}, "no chest radiograph shows 'knee'"),
        ({"anatomy": "spleen"}, "unknown anatomy 'spleen'"),
        ({"laterality": "left", "text": "right round opacity"}, "speaks of the right side"),
    ],
)
def test_errors(tmp_path: Path, entry: dict[str, object], what: str) -> None:
    found = [fault for fault in faults_of(tmp_path, entry) if what in fault.what]
    assert found, faults_of(tmp_path, entry)
    assert {fault.severity for fault in found} == {"error"}
    assert all(fault.advice for fault in found)
    assert "nodule / x" in found[0].where


@pytest.mark.parametrize(
    "positive",
    [
        "There is a unilateral opacity.",
        "There is an MRI finding.",
        "There is an 8 mm opacity.",
        "There is a used catheter.",
        "There is a one-sided opacity.",
        "There is an unusual opacity.",
        "There is an x-ray marker.",
        "There is an air-fluid level of a half.",
    ],
)
def test_articles_follow_the_sound(tmp_path: Path, positive: str) -> None:
    assert not [fault for fault in faults_of(tmp_path, written(positive)) if "write" in fault.advice]


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        ({"text": "new round opacity"}, "compares with another study ('new')"),
        ({"text": "round opasity"}, "'opasity' is not known"),
        ({"laterality": "midline", "text": "left round opacity"}, "names a side"),
    ],
)
def test_warnings(tmp_path: Path, entry: dict[str, object], what: str) -> None:
    found = faults_of(tmp_path, entry)
    assert {fault.severity for fault in found} == {"warning"}
    assert any(what in fault.what for fault in found)


def test_a_misspelling_gets_the_word_that_was_meant(tmp_path: Path) -> None:
    assert "did you mean 'opacity'?" in {fault.advice for fault in faults_of(tmp_path, {"text": "round opasity"})}


def test_one_sentence_for_two_things(tmp_path: Path) -> None:
    (named,) = [fault for fault in faults_of(tmp_path, written("There is a nodule.", "It is not round."))]
    assert "the same sentence as nodule / nodule-named / positive" in named.what
    twice = faults_of(
        tmp_path, {}, written("There is a ROUND opacity indicating a nodule", "Not so.") | {"id": "y", "text": "z"}
    )
    assert any("the same sentence as nodule / x / positive" in fault.what for fault in twice)


def test_no_finding_is_read_the_other_way_round(tmp_path: Path) -> None:
    entry = {"id": "clear", "text": "clear lungs", "anatomy": "lung"}
    clear = entry | {"positive": "The lungs are clear.", "negative": "There is a lung opacity."}
    assert faults_of(tmp_path, findings={"no finding": {"descriptors": [clear]}}) == []
    turned = entry | {"positive": "There is a lung opacity.", "negative": "The lungs are clear."}
    found = faults_of(tmp_path, findings={"no finding": {"descriptors": [turned]}})
    assert {fault.where.rpartition(" / ")[2] for fault in found} == {"positive", "negative"}


def test_where_it_comes_from(tmp_path: Path) -> None:
    missing = faults_of(tmp_path, source="", license="", reviewed_by=None)
    assert [(fault.severity, fault.where) for fault in missing] == [
        ("warning", "source"),
        ("warning", "license"),
        ("warning", "reviewed_by"),
    ]
    own = {"source": "a book", "license": "CC0", "reviewer": "A. Reader"}
    assert faults_of(tmp_path, own, source="", license="", reviewed_by=None) == []


def test_the_list_of_anatomies(tmp_path: Path) -> None:
    found = faults_of(tmp_path, anatomies=["lung", "heart", "knee"])
    assert [(fault.severity, fault.what) for fault in found] == [
        ("error", "no chest radiograph shows 'knee'"),
        ("warning", "'heart' is used by no descriptor"),
    ]
    assert faults_of(tmp_path, {"anatomy": "spleen"}, anatomies=[]) == [], "no list, no limit"


def test_a_file_that_cannot_be_loaded_gives_its_faults(tmp_path: Path) -> None:
    found = faults_of(tmp_path, {"form": "the"}, {"form": "some"})
    assert len(found) == 2
    assert {fault.severity for fault in found} == {"error"}
    (absent,) = lint(tmp_path / "none.yaml")
    assert "cannot read" in absent.what
