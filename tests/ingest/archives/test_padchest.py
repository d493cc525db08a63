import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ingest.archives.replicas.padchest import P1, build
from tests.ingest.archives.replicas.table import picture
from vlp.errors import DataError
from vlp.ingest.archives.padchest import NOT_FINDINGS, TABLE, PadChestSource, age_between, findings_of, parse_list
from vlp.ingest.source import StudyFault
from vlp.records import Certainty
from vlp.reports.findings import VOCABULARY


def _load(source):
    return [item for unit in source.units() for item in source.load(unit)]


def _loaded(folder, **settings):
    build(folder)
    source = PadChestSource(path=folder, images=folder / "images", **settings)
    return {item.study.id: item for item in _load(source) if not isinstance(item, StudyFault)}


def test_a_study_has_both_its_views_its_labels_and_its_spanish_report(tmp_path):
    study = _loaded(tmp_path)["90011"].study
    assert [(image.id, image.view) for image in study.images] == [("7140_front", "PA"), ("7140_side", "lateral")]
    assert dict(study.labels) == dict.fromkeys(("pleural effusion", "support device", "atelectasis"), Certainty.PRESENT)
    assert (study.report.text, study.report.language) == ("derram pleural izquierd . marcapas .", "es")
    assert (study.person.id, study.person.age, study.person.sex) == (P1, 85.0, "F")
    assert dict(study.person.groups) == {"scanner": "ImagingDynamicsCompanyLtd", "labelled by": "Physician"}
    assert (study.earlier, study.split) == (("90012",), None)
    assert study.license.startswith("PadChest Dataset Research Use Agreement")


def test_sixteen_bits_are_scaled_and_monochrome1_is_turned_over(tmp_path):
    loaded = _loaded(tmp_path)
    stored = [picture(tmp_path / f"again{seed}.png", seed=seed, bits=16) for seed in (0, 2)]
    for study, image, values in (("90011", 0, stored[0]), ("90012", 0, 65535 - stored[1])):
        assert np.abs(loaded[study].pixels[image] - values / 257.0).max() <= 0.51
    kept = _loaded(tmp_path / "kept", inverted="none") if (tmp_path / "kept").mkdir() is None else {}
    assert np.array_equal(kept["90012"].pixels[0], 255 - loaded["90012"].pixels[0])


def test_whole_labels_are_compared(tmp_path):
    study = _loaded(tmp_path)["90016"].study
    assert set(study.labels) == {"subcutaneous emphysema", "pleural effusion", "pneumothorax"}
    assert study.report is None


def test_labels_that_say_nothing_and_blanks_are_no_labels(tmp_path):
    loaded = _loaded(tmp_path)
    assert dict(loaded["90021"].study.labels) == dict(loaded["90014"].study.labels) == {}
    assert loaded["90014"].study.images[0].view == "AP"
    assert (loaded["90014"].study.person.age, loaded["90021"].study.person.sex) == (None, None)


def test_what_the_rules_leave_out_is_counted(tmp_path, caplog):
    caplog.set_level("INFO", logger="vlp")
    assert {"90013", "90015", "90022"}.isdisjoint(_loaded(tmp_path))
    assert (
        "images left out: 1 of projection COSTAL, 1 of projection EXCLUDE, 1 of studies with an excluded label"
        in caplog.text
    )
    assert "labels outside the vocabulary are not kept: breast mass (1), copd signs (2)" in caplog.text
    caplog.clear()
    by_hand = PadChestSource(path=tmp_path, images=tmp_path / "images", label_methods=("Physician",))
    assert "90014" not in {item.study.id for item in _load(by_hand) if not isinstance(item, StudyFault)}
    assert "1 of studies labelled by others" in caplog.text


def test_rules_may_be_relaxed(tmp_path):
    loaded = _loaded(tmp_path, projections=("PA", "COSTAL"), labels_excluded=())
    assert [image.view for image in loaded["90011"].study.images] == ["PA"]


def test_faults_name_the_line(tmp_path):
    build(tmp_path)
    items = _load(PadChestSource(path=tmp_path, images=tmp_path / "images"))
    faults = {item.message for item in items if isinstance(item, StudyFault)}
    table = tmp_path / TABLE
    assert faults == {
        f"{table}: line 9: the file is empty",
        f"{table}: line 10: the image is not there",
        f"{table}: line 11: the cell of the labels is not a list of names in quotes",
        f"{table}: line 12: the cell of the patient or of the study is blank",
    }


def test_a_folder_without_the_table_says_so(tmp_path):
    with pytest.raises(DataError, match="the table cannot be read: No such file"):
        PadChestSource(path=tmp_path).units()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("['pleural effusion', ' COPD  signs', '']", ["pleural effusion", "copd signs"]),
        ("[\"one\", 'two',]", ["one", "two"]),
        ("['a, b', 'c]']", ["a, b", "c]"]),
        ("[]", []),
        ("", []),
        ("nan", []),
    ],
)
def test_lists_in_quotes(text, names):
    assert parse_list(text) == names


@pytest.mark.parametrize(
    "text",
    [
        "normal",
        "['a'",
        "['a' 'b']",
        "[__import__('os')]",
        "['a', 1]",
        "['a\\'b']",
        "[['a']]",
        "(" * 5000,
        "['a'] + ['b']",
    ],
)
def test_nothing_but_lists_of_names_is_read(text):
    with pytest.raises(DataError, match="not a list of names"):
        parse_list(text)


_NAMES = st.text(st.characters(codec="latin-1", exclude_characters="'\"\\", exclude_categories=["Cc", "Cf", "Zs"]))


@given(st.lists(_NAMES))
def test_lists_as_python_writes_them(names):
    assert parse_list(repr(names)) == [" ".join(name.lower().split()) for name in names if name.split()]


def test_the_tree_is_rolled_up_to_findings_of_the_vocabulary():
    assert findings_of("Laminar  atelectasis") == ("atelectasis",)
    assert findings_of("hydropneumothorax") == ("pleural effusion", "pneumothorax")
    assert findings_of("Pleural effusion") == ("pleural effusion",)
    assert findings_of("normal") == ("no finding",)
    assert findings_of("central venous catheter via subclavian vein") == ("support device",)
    for label in ("breast mass", "soft tissue mass", "pseudonodule", "tuberculosis", "bronchiectasis", *NOT_FINDINGS):
        assert findings_of(label) == (), label
    for label in ("subcutaneous emphysema", "pericardial effusion", "aortic elongation", "pneumoperitoneo"):
        assert set(findings_of(label)) <= set(VOCABULARY) - {"emphysema", "pleural effusion", "mass"}


def test_ages_are_differences_of_years():
    assert age_between("1930.0", "20150622") == 85.0
    assert [age_between(*years) for years in (("None", "2015"), ("1850", "2015"), ("2016", "2015"), ("1930", ""))] == [
        None
    ] * 4
