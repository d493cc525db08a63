import logging
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vlp.data.schema import SampleJson
from vlp.errors import PrivacyError, VlpError
from vlp.ingest.privacy import Cleaned, Privacy, PrivacyConfig
from vlp.ingest.source import StudyFault
from vlp.records import (
    Certainty,
    ImageFile,
    LoadedStudy,
    Person,
    Region,
    Report,
    Sentence,
    Study,
)

KEY = "kj3-not-a-real-key-9f8e7d6c5b4a39281706"
TEXT = (
    "FINDINGS: Small left effusion. Dr. Rosalind Achterberg agreed on 03/14/2019, film 20044891.\n{also} Normal heart."
)
SECRETS = (
    "p20031877",
    "20031877",
    "s50412233",
    "s50410001",
    "20044891",
    "Rosalind",
    "Achterberg",
    "adler-jane",
    "Eastfield",
    KEY,
)


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLP_TEST_KEY", KEY)


def _privacy(**values) -> Privacy:
    return Privacy(PrivacyConfig(**({"pseudonyms": "keyed", "key_env": "VLP_TEST_KEY"} | values)))


def _sentence(text: str, written: str, report: str, *, finding: str | None = None) -> Sentence:
    start = report.index(written) if written else 0
    return Sentence(
        start=start,
        end=start + len(written),
        section="findings",
        finding=finding,
        certainty=Certainty.PRESENT,
        text=text,
    )


def _study(**changes) -> Study:
    report = TEXT.format(also="Seen at Eastfield General Hospital; id 20031877.")
    agreed = "Dr. Rosalind Achterberg agreed on 03/14/2019, film 20044891."
    study = Study(
        id="s50412233",
        person=Person(
            id="p20031877", age=93.5, sex="F", groups={"site": "Eastfield General Hospital", "scanner": "CR"}
        ),
        images=(
            ImageFile(
                id="adler-jane_20044891",
                path=Path("/data/adler-jane/1.dcm"),
                view="PA",
                rows=40,
                columns=30,
                sha256="ab",
            ),
        ),
        report=Report(text=report),
        sentences=(
            _sentence(
                "There is pleural effusion of the left lung.",
                "Small left effusion.",
                report,
                finding="pleural effusion",
            ),
            _sentence(agreed, agreed, report),
            _sentence("Achterberg agreed.", "", report),
        ),
        regions=(Region(finding="pleural effusion", image="adler-jane_20044891", geometry=(1.0, 2.0, 3.0, 4.0)),),
        source="test",
        split="train",
        earlier=("s50410001",),
    )
    return replace(study, **changes)


def test_no_id_of_the_archive_is_left():
    privacy = _privacy()
    cleaned = privacy.clean(_study())
    for form in (repr(cleaned), SampleJson.from_study(cleaned, key="k", image_format="png").model_dump_json()):
        assert not [secret for secret in SECRETS if secret.lower() in form.lower()]
    assert cleaned.id == privacy.study("s50412233")
    assert cleaned.person.id == privacy.person("p20031877")
    assert cleaned.earlier == (privacy.study("s50410001"),)
    assert cleaned.images[0].id == cleaned.regions[0].image == privacy.image("adler-jane_20044891")
    assert cleaned.images[0].path is None


def test_everything_else_stays():
    study = _study()
    cleaned = _privacy().clean(study)
    assert (cleaned.split, cleaned.source, cleaned.regions[0].geometry) == ("train", "test", (1.0, 2.0, 3.0, 4.0))
    assert (cleaned.person.sex, cleaned.person.groups["scanner"], cleaned.images[0].sha256) == ("F", "CR", "ab")
    assert cleaned.sentences[0] == study.sentences[0]
    assert cleaned.report.text.startswith("FINDINGS: Small left effusion. ____")


def test_spans_stay_right_and_sentences_say_what_the_report_says():
    study = _study()
    cleaned = _privacy().clean(study)
    assert len(cleaned.report.text) == len(study.report.text)
    for before, after in zip(study.sentences, cleaned.sentences, strict=True):
        assert (before.start, before.end) == (after.start, after.end)
    agreed = cleaned.sentences[1]
    assert agreed.text == cleaned.report.text[agreed.start : agreed.end]
    assert agreed.text == "_______________________ agreed on __________, film ________."
    assert cleaned.sentences[2].text == "__________ agreed."


def test_groups_that_identify_still_group():
    privacy = _privacy()
    one, other = privacy.clean(_study()), privacy.clean(_study(id="s2x", person=replace(_study().person, id="p2x")))
    assert one.person.groups["site"] == other.person.groups["site"] != "Eastfield General Hospital"
    masked = Privacy(PrivacyConfig()).clean(_study()).person.groups["site"]
    assert masked == "_" * len("Eastfield General Hospital")


@pytest.mark.parametrize(
    ("age", "expected"), [(None, None), (0.0, 0.0), (89.0, 89.0), (89.5, 90.0), (93.5, 90.0), (90.0, 90.0)]
)
def test_the_oldest_are_90(age, expected):
    study = _study(person=replace(_study().person, age=age))
    assert _privacy().clean(study).person.age == expected
    assert _privacy(phi_scan="off").clean(study).person.age == age


def test_a_study_is_cleaned_once():
    privacy = _privacy()
    cleaned = privacy.clean(_study())
    with pytest.raises(PrivacyError, match="cleaned once"):
        privacy.clean(cleaned)
    with pytest.raises(PrivacyError, match="cleaned once"):
        privacy.clean(replace(cleaned, id="another"))
    # without pseudonyms a second time changes nothing
    off = Privacy(PrivacyConfig())
    assert off.clean(off.clean(_study())) == off.clean(_study())


def test_off_changes_nothing():
    study = _study()
    assert Privacy(PrivacyConfig(phi_scan="off")).clean(study) == study
    assert Privacy(PrivacyConfig()).person("p1") == "p1"


def test_dates_move_by_the_persons_days_and_intervals_stay():
    privacy = _privacy(dates="shift", max_shift_days=300)
    text = "Comparison 2019-03-14 and 2019-03-20."
    days = privacy.days("p20031877")
    moved = privacy.clean(_study(report=Report(text=text), sentences=())).report.text
    first, second = (np.datetime64(word.strip(".")) for word in moved.split() if "-" in word)
    assert first - np.datetime64("2019-03-14") == days
    assert second - first == 6
    assert 1 <= abs(days) <= 300
    assert len({privacy.days(f"p{number}") for number in range(40)}) > 30
    assert _privacy().days("p20031877") == 0
    assert _privacy(dates="keep").clean(_study(report=Report(text=text), sentences=())).report.text == text


def test_counts_and_policies():
    cleaned = _privacy().examine(_study())
    assert cleaned.dates == 1
    assert set(cleaned.hits) == {"name", "institution", "number"}
    loaded = LoadedStudy(study=_study(), pixels=(np.zeros((40, 30), np.uint8),))
    fault = _privacy(on_phi="refuse").apply(loaded)
    assert isinstance(fault, StudyFault)
    assert fault.code == "identifying_text"
    only_a_date = _study(report=Report(text="Film of 2019-03-14."), sentences=(), person=Person(id="p1"))
    assert _privacy(on_phi="refuse").examine(only_a_date).hits == {}
    counted = _privacy(on_phi="count").examine(_study())
    assert "Achterberg" in counted.study.report.text
    assert "20031877" not in counted.study.report.text


def test_images_with_text():
    from benchmarks.privacy import draw_line

    plain = np.random.default_rng(0).normal(90, 3, (300, 300)).astype(np.uint8)
    drawn = draw_line(plain, "ADLER, JANE", height_px=14, style="bright", font=0, place=(0.1, 0.05))
    image = _study().images[0]
    study = _study(images=(image, replace(image, id="second")), report=None, sentences=(), person=Person(id="p1"))
    loaded = LoadedStudy(study=study, pixels=(plain, drawn))
    counts = {}
    for policy in ("off", "count", "refuse"):
        result = _privacy(burned_in=policy).apply(loaded)
        counts[policy] = result.burned_in if isinstance(result, Cleaned) else result.code
    assert counts == {"off": 0, "count": 1, "refuse": "burned_in_text"}
    privacy = _privacy()
    assert [privacy.burned_in(plain, flag=flag) for flag in ("YES", " yes ", "NO", None)] == [True, True, False, False]


def test_the_key_stays_in_its_process():
    privacy = _privacy()
    sent = pickle.dumps(privacy)
    assert KEY.encode() not in sent
    assert pickle.loads(sent).person("p1") == privacy.person("p1")
    assert KEY not in repr(privacy) + repr(vars(privacy)) + privacy.fingerprint()


def test_the_fingerprint_follows_key_and_rules(monkeypatch):
    before = _privacy().fingerprint()
    assert _privacy(phi_scan="off").fingerprint() != before
    assert Privacy(PrivacyConfig()).fingerprint() != before
    monkeypatch.setenv("VLP_TEST_KEY", KEY[::-1])
    assert _privacy().fingerprint() != before


def _broken(scan):
    """A policy whose scanner fails in the middle of a text."""
    privacy = _privacy()
    privacy._scanner = type("Broken", (), {"scan": scan, "fingerprint": lambda self: ""})()
    return privacy


def _load(study: Study) -> LoadedStudy:
    return LoadedStudy(study=study, pixels=(np.zeros((40, 30), np.uint8),))


ERROR_PATHS = {
    "twice": lambda: _privacy().clean(_privacy().clean(_study())),
    "study id twice": lambda: _privacy().clean(_study(id=_privacy().study("s50412233"))),
    "image id twice": lambda: _privacy().clean(_study(images=_privacy().clean(_study()).images)),
    "earlier id twice": lambda: _privacy().clean(_study(earlier=(_privacy().study("s50410001"),))),
    "refused": lambda: _privacy(on_phi="refuse").clean(_study()),
    "refused without pseudonyms": lambda: Privacy(PrivacyConfig(on_phi="refuse")).clean(_study()),
    "weak key": lambda: Privacy(PrivacyConfig(pseudonyms="keyed", key_env="VLP_WEAK")),
    "no key": lambda: Privacy(PrivacyConfig(pseudonyms="keyed", key_env="VLP_NONE")),
}


@pytest.mark.parametrize("path", ERROR_PATHS)
def test_no_error_tells_whose_study_it_is(path, monkeypatch, caplog):
    monkeypatch.setenv("VLP_WEAK", "Achterberg")
    with caplog.at_level(logging.DEBUG), pytest.raises(VlpError) as caught:
        ERROR_PATHS[path]()
    told = f"{caught.value!r} {caught.value.__cause__!r} {caplog.text}"
    assert not [secret for secret in SECRETS if secret.lower() in told.lower()]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("policy", ["refuse", "mask", "count"])
def test_no_fault_or_count_tells_whose_study_it_is(policy, caplog):
    with caplog.at_level(logging.DEBUG):
        result = _privacy(on_phi=policy, burned_in="refuse").apply(_load(_study()))
    told = (
        result.message if isinstance(result, StudyFault) else f"{dict(result.hits)} {result.dates} {result.burned_in}"
    )
    assert not [secret for secret in SECRETS if secret.lower() in (told + caplog.text).lower()]
