import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from vlp.errors import ConfigError, DataError
from vlp.ingest.phantom.truth import FINDINGS
from vlp.prompts.descriptors import PACKAGE_FILE, DescriptorSet, load_descriptors
from vlp.records import Certainty
from vlp.reports.findings import VOCABULARY, sentence_text


@pytest.fixture(scope="module")
def package() -> DescriptorSet:
    return load_descriptors()


def test_the_package_covers_what_it_promises(package: DescriptorSet) -> None:
    promised = {
        *FINDINGS, "pneumonia", "infiltration", "lung opacity", "enlarged cardiomediastinum", "lung lesion"
    }  # fmt: skip
    assert set(package.findings) == promised
    assert all(len(package.observed[name]) >= 3 for name in promised)
    assert package.reviewed_by is None
    assert "not reviewed" in package.note
    assert package.license == "Apache-2.0"


def test_every_sentence_is_english_and_its_opposite_differs_by_its_denial_alone(package: DescriptorSet) -> None:
    for name in package.findings:
        for descriptor in package.observed[name]:
            positive, negative = descriptor.positive, descriptor.negative
            assert re.fullmatch(r"(There (is|are)|The) [a-z].*[^ .]\.", positive), positive
            assert re.search(r"^There (is|are) no [a-z]|^The [a-z ]+ is not ", negative), negative
            plain = re.sub(r"^There (is|are) (an? )?", "", positive)
            assert plain == re.sub(r"^There (is|are) no |(?<= is) not(?= )", "", negative)
            assert not re.search(r"[{}]|  ", positive + negative)


def test_every_descriptor_says_where_it_comes_from_and_how_it_is_seen(package: DescriptorSet) -> None:
    for descriptor in package.all:
        assert descriptor.source
        assert (descriptor.license, descriptor.reviewer) == ("Apache-2.0", None)
        assert (descriptor.laterality is None) == (descriptor.text == "named directly")
    views = {descriptor.id: descriptor.view for descriptor in package.all}
    assert views["emphysema-retrosternal"] == "lateral"
    assert views["cardiomegaly-ratio"] == "frontal"
    assert views["edema-septal"] == "any"


def test_all_gives_every_pair_once_and_the_finding_first(package: DescriptorSet) -> None:
    assert len(package.all) == len({pair.id for pair in package.all})
    assert len(package.all) == len(package.named) + sum(len(group) for group in package.observed.values())
    assert package.all[0] == package.named[package.findings[0]]
    assert package.all[1:7] == package.observed[package.findings[0]]


def test_the_digest_follows_every_sentence(package: DescriptorSet) -> None:
    assert re.fullmatch(r"[0-9a-f]{16}", package.digest)
    assert load_descriptors().digest == package.digest
    name = package.findings[-1]
    last = package.observed[name][-1]
    for change in ({"negative": "There is none."}, {"positive": "There is one."}, {"id": "other"}):
        group = (*package.observed[name][:-1], replace(last, **change))
        other = replace(package, observed={**package.observed, name: group})
        assert other.digest != package.digest
    same = replace(
        package, observed={**package.observed, name: (*package.observed[name][:-1], replace(last, view="any"))}
    )
    assert same.digest == package.digest, "what is not asked does not count"


def test_shared_observations_are_different_prompts(package: DescriptorSet) -> None:
    sentences = [item.positive for name in package.findings for item in package.observed[name]]
    assert len(set(sentences)) == len(sentences)


def test_the_finding_comes_first_and_is_named_as_in_training(package: DescriptorSet) -> None:
    first, *others = package.of("Effusion")
    assert (first.finding, first.text) == ("pleural effusion", "named directly")
    assert first.positive == sentence_text("pleural effusion", Certainty.PRESENT)
    assert first.negative == sentence_text("pleural effusion", Certainty.ABSENT)
    assert tuple(others) == package.observed["pleural effusion"] == package.of("Effusion", prompts="descriptors")
    assert package.of("Effusion", prompts="finding") == (first,)


def test_names_in_any_spelling(package: DescriptorSet) -> None:
    for spelling in ("Pleural_Thickening", "pleural thickening", " Pleural  Thickening "):
        assert package.resolve(spelling) == "pleural thickening"
    with pytest.raises(DataError, match="did you mean 'pneumothorax'"):
        package.resolve("pneumotorax")
    with pytest.raises(DataError, match="descriptor file"):
        package.of("xyzzy")


def test_a_finding_of_the_vocabulary_without_descriptors_is_asked_by_its_name(package: DescriptorSet) -> None:
    name = next(name for name in VOCABULARY if name not in package.findings)
    (only,) = package.of(name)
    assert only.positive == sentence_text(name, Certainty.PRESENT)
    with pytest.raises(DataError, match="no descriptors"):
        package.of(name, prompts="descriptors")


def changed(path: Path, **changes: object) -> Path:
    content = yaml.safe_load(PACKAGE_FILE.read_text(encoding="utf-8"))
    content["findings"] = {"nodule": content["findings"]["nodule"]}
    path.write_text(yaml.safe_dump(content | changes), encoding="utf-8")
    return path


def descriptors(**changes: object) -> list[dict[str, object]]:
    return [{"id": "x", "form": "a", "text": "word", "anatomy": "lung"} | changes]


def finding(**changes: object) -> dict[str, object]:
    return {"descriptors": descriptors(**changes)}


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    named = {"positive": "The aorta is tortuous.", "negative": "The aorta is straight."}
    own = load_descriptors(changed(tmp_path / "own.yaml", findings={"tortuous aorta": {"named": named}}))
    (only,) = own.of("Tortuous Aorta")
    assert (only.positive, only.negative) == (named["positive"], named["negative"])


def test_an_entry_may_write_its_sentences_and_say_who_made_them(tmp_path: Path) -> None:
    entry = {
        "form": None, "positive": "The heart is round{context}.", "negative": "The heart is not round.",
        "laterality": "midline", "view": "frontal", "source": "a book", "license": "CC0", "reviewer": "A. Reader",
    }  # fmt: skip
    content = {"nodule": {"descriptors": [*descriptors(**entry), *descriptors(id="y", text="other")]}}
    own = load_descriptors(changed(tmp_path / "own.yaml", findings=content, source="here", context=" in {finding}"))
    first, second = own.observed["nodule"]
    assert (first.positive, first.negative) == ("The heart is round in a nodule.", "The heart is not round.")
    assert (first.laterality, first.view) == ("midline", "frontal")
    assert (first.source, first.license, first.reviewer) == ("a book", "CC0", "A. Reader")
    assert (second.laterality, second.view) == (None, "any")
    assert (second.source, second.license, second.reviewer) == ("here", "Apache-2.0", None)
    assert own.named["nodule"].source == "here"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"findings": {}}, "findings"),
        ({"findings": {"tortuous blob": finding()}}, "tortuous blob: not in the report vocabulary"),
        ({"findings": {"nodule": finding(text=" ")}}, "empty id, text or anatomy"),
        ({"findings": {"nodule": finding(form="the")}}, "form"),
        ({"findings": {"nodule": finding(colour="red")}}, "colour: unknown key"),
        ({"findings": {"nodule": {}}}, "neither descriptors nor"),
        ({"findings": {"nodule": {"descriptors": descriptors() * 2}}}, "'x' is used 2 times"),
        ({"findings": {"nodule": {"descriptors": [*descriptors(), *descriptors(id="y", text="Word")]}}},
         "'word' is repeated"),
        ({"findings": {"nodule": finding()}, "templates": {}}, "templates.a: missing"),
        ({"templates": {"a": {"positive": "There is.", "negative": "There is no {text}."}}}, "templates.a.positive"),
        ({"templates": {"a": {"positive": "A {text}.", "negative": "A {text}."}}}, "are the same"),
        ({"templates": {"a": {"positive": "{text.x}.", "negative": "No {text}."}}}, "templates.a.positive"),
        ({"context": "of {organ}"}, "context: may hold"),
        ({"license": 3}, "license"),
        ({"findings": {"nodule": finding(form=None)}}, "either a form or the sentences"),
        ({"findings": {"nodule": finding(positive="It is.")}}, "both a positive and a negative"),
        ({"findings": {"nodule": finding(positive="It is.", negative="It is not.")}}, "either a form or the sentences"),
        ({"findings": {"nodule": finding(form=None, positive="It is.", negative="It is.")}}, "are the same"),
        ({"findings": {"nodule": finding(form=None, positive="It is {x}.", negative="No.")}}, "no other braces"),
        ({"findings": {"nodule": finding(laterality="both")}}, "laterality"),
        ({"findings": {"nodule": finding(view="PA")}}, "view"),
    ],
)  # fmt: skip
def test_faults_are_named(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_descriptors(changed(tmp_path / "own.yaml", **changes))


def test_a_missing_file_and_one_that_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load_descriptors(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError):
        load_descriptors(tmp_path / "bytes.yaml")
