import pytest

from tests.ingest.archives.replicas.synthetic import build
from tests.ingest.archives.replicas.table import build as build_table
from tests.ingest.archives.replicas.table import picture
from vlp.config import validate
from vlp.errors import DataError
from vlp.ingest.archives.synthetic import LABELS, DrrRate, SyntheticSource
from vlp.ingest.source import StudyFault
from vlp.records import Certainty
from vlp.reports import read
from vlp.reports.findings import VOCABULARY

P, A = Certainty.PRESENT, Certainty.ABSENT


def _source(folder, **settings):
    build(folder)
    return SyntheticSource(archive=DrrRate(path=folder, ct_rate=folder / "ct_rate", **settings))


def _load(source):
    return [item for unit in source.units() for item in source.load(unit)]


def _studies(source):
    return {item.study.id: item.study for item in _load(source) if not isinstance(item, StudyFault)}


def test_a_scan_is_a_study_of_its_reconstructions_and_marked_synthetic(tmp_path):
    study = _studies(_source(tmp_path))["train_41_a"]
    assert [(image.id, image.view) for image in study.images] == [("train_41_a_1", "AP"), ("train_41_a_2", "AP")]
    assert (study.synthetic, study.person.id, study.split) == (True, "train_41", "train")
    assert dict(study.person.groups) == {"made from": "CT"}
    assert (study.labels["pleural effusion"], study.labels["nodule"], study.labels["emphysema"]) == (P, P, A)
    assert "CC BY-NC-SA 4.0" in study.license
    assert SyntheticSource.synthetic


def test_what_a_projection_cannot_show_is_neither_label_nor_sentence(tmp_path):
    study = _studies(_source(tmp_path))["train_41_a"]
    assert "pericardial effusion" not in study.labels
    assert {sentence.finding for sentence in study.sentences} == {"pleural effusion", "cardiomegaly"}
    assert "Wandering azygos vein" in study.report.text  # the report itself stays as it was
    spoken = [study.report.text[sentence.start : sentence.end] for sentence in study.sentences]
    assert "left pleural effusion" in spoken[0]


def test_everything_may_be_left_in(tmp_path):
    study = _studies(_source(tmp_path, invisible=None))["train_41_a"]
    assert study.labels["pericardial effusion"] is P
    assert study.sentences == ()  # read later, as of any report
    assert "pericardial effusion" in {sentence.finding for sentence in read(study.report.text)}


def test_a_report_about_nothing_that_shows_is_no_report(tmp_path):
    assert _studies(_source(tmp_path))["train_41_b"].report is None
    assert (
        _studies(_source(tmp_path / "all", invisible=None) if not (tmp_path / "all").mkdir() else None)[
            "train_41_b"
        ].report.text
        == "FINDINGS: Thyroid gland was not examined."
    )


def test_the_second_part_with_the_names_of_ct_rate(tmp_path, caplog):
    study = _studies(_source(tmp_path))["valid_51_a"]
    assert (study.split, study.person.sex, study.person.age, study.report) == ("val", "F", 61.0, None)
    assert dict(study.person.groups) == {"made from": "CT", "scanner": "SIEMENS"}
    assert "no reports of part valid; its studies have labels only" in caplog.text


def test_further_views_are_further_images(tmp_path):
    source = _source(tmp_path, views={"AP": "AP", "LAT": "lateral"}, parts=("valid",))
    (fault,) = _load(source)
    assert fault.code == "missing_image"
    picture(tmp_path / "valid/LAT/valid_51/valid_51_a/valid_51_a_1.png")
    (loaded,) = _load(source)
    assert [(image.id, image.view) for image in loaded.study.images] == [
        ("valid_51_a_1", "AP"),
        ("valid_51_a_1_LAT", "lateral"),
    ]


def test_faults_name_the_line(tmp_path):
    messages = {item.message for item in _load(_source(tmp_path)) if isinstance(item, StudyFault)}
    table = tmp_path / "multi_abnormality_labels/train_predicted_labels.csv"
    assert messages == {
        f"{table}: line 5: column 'Emphysema' holds neither 0 nor 1",
        f"{table}: line 6: the image is not there",
        f"{table}: line 7: the name is not like train_1_a_1",
    }


def test_missing_tables_are_explained(tmp_path):
    source = _source(tmp_path)
    (tmp_path / "multi_abnormality_labels/valid_predicted_labels.csv").unlink()
    with pytest.raises(DataError, match="the table is missing; leave 'valid' out of `parts`"):
        source.units()
    with pytest.raises(DataError, match="not a unit"):
        list(source.load("test:0"))


def test_any_table_may_describe_a_synthetic_set(tmp_path):
    values = {"archive": {"layout": "table", "generator": "Sana", "source": dict(build_table(tmp_path).source)}}
    source = validate(SyntheticSource, values, where="test")
    items = _load(source)
    studies = [item.study for item in items if not isinstance(item, StudyFault)]
    assert {study.synthetic for study in studies} == {True}
    assert {study.person.groups["made by"] for study in studies} == {"Sana"}
    assert (len(studies), len(items)) == (4, 9)
    assert source.fingerprint() == source.archive.source.fingerprint()
    assert source.name == str(tmp_path / "export.csv")


def test_the_labels_are_in_the_vocabulary():
    assert {name for name in LABELS.values() if name} <= set(VOCABULARY)
    assert len(LABELS) == 18
