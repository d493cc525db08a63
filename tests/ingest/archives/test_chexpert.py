from dataclasses import replace

import pytest

from tests.ingest.archives.replicas import chexpert as small
from tests.ingest.archives.replicas import chexpert_full as full
from vlp.errors import DataError
from vlp.ingest.archives.chexpert import CheXpertSource, age_of, labels_of, place_of, view_of
from vlp.ingest.source import StudyFault
from vlp.records import Certainty


def _load(source):
    return [item for unit in source.units() for item in source.load(unit)]


def _studies(source):
    return {item.study.id: item.study for item in _load(source) if not isinstance(item, StudyFault)}


def test_a_study_has_both_its_views_and_the_labelers_labels(tmp_path):
    small.build(tmp_path)
    study = _studies(CheXpertSource(path=tmp_path))["patient00011_study1"]
    assert [(image.id, image.view) for image in study.images] == [
        ("patient00011_study1_view1_frontal", "AP"),
        ("patient00011_study1_view2_lateral", "lateral"),
    ]
    assert study.labels == {
        "pleural effusion": Certainty.PRESENT,
        "edema": Certainty.UNCERTAIN,
        "fracture": Certainty.ABSENT,
    }
    assert (study.person.id, study.person.age, study.person.sex, study.split) == ("patient00011", 68.0, "F", "train")
    assert dict(study.person.groups) == {"labels": "labeler"}
    assert study.report is None
    assert study.earlier == ()


def test_the_validation_set_is_the_radiologists(tmp_path):
    small.build(tmp_path)
    study = _studies(CheXpertSource(path=tmp_path))["patient64541_study1"]
    assert (study.split, study.person.groups["labels"]) == ("val", "radiologists")
    assert study.labels["cardiomegaly"] is Certainty.PRESENT
    assert len(study.labels) == 14


def test_unknown_sex_and_age_and_odd_views_are_nothing_made_up(tmp_path):
    small.build(tmp_path)
    studies = _studies(CheXpertSource(path=tmp_path))
    assert (studies["patient00012_study1"].person.age, studies["patient00012_study1"].person.sex) == (None, None)
    assert studies["patient00011_study2"].images[0].view == "AP"
    other = _studies(CheXpertSource(path=tmp_path, unstated_frontal="other"))
    assert other["patient00011_study2"].images[0].view == "other"


def test_faults_name_the_line_and_the_column(tmp_path):
    small.build(tmp_path)
    faults = {item.code: item.message for item in _load(CheXpertSource(path=tmp_path)) if isinstance(item, StudyFault)}
    assert faults["bad_row"] == f"{tmp_path / 'train.csv'}: line 6: column 'Edema' holds neither 1, 0, -1 nor a blank"
    assert faults["missing_image"].startswith(f"{tmp_path / 'train.csv'}: line 7: ")


def test_the_test_set_has_a_line_per_study(tmp_path):
    full.build(tmp_path)
    studies = _studies(CheXpertSource(path=tmp_path, tables=("test",)))
    study = studies["patient64741_study1"]
    assert [image.view for image in study.images] == ["AP", "lateral"]
    assert (study.split, study.labels["lung opacity"], study.person.age) == ("test", Certainty.PRESENT, None)


def test_another_table_is_no_test_set(tmp_path):
    full.build(tmp_path)
    text = (tmp_path / "groundtruth.csv").read_text()
    (tmp_path / "groundtruth.csv").write_text(text.replace("Study,", "Name,"))
    with pytest.raises(DataError, match="column 'Path' is missing"):
        CheXpertSource(path=tmp_path, tables=("test",)).units()


@pytest.mark.parametrize("top", ["CheXpert-v1.0/", "CheXpert-v1.0-small/", ""])
def test_the_first_folder_of_a_name_is_the_archive(top):
    place = place_of(f"{top}valid/patient00001/study3/view1_frontal.jpg")
    assert (place.name, place.split, place.person) == (
        "valid/patient00001/study3/view1_frontal.jpg",
        "val",
        "patient00001",
    )
    assert replace(place, name="", image="") == replace(place_of(f"{top}valid/patient00001/study3"), name="", image="")


@pytest.mark.parametrize("name", ["a/b/train/patient1/study1", "train/../patient1/study1", "train/patient1", "", "x"])
def test_other_names_are_refused(name):
    with pytest.raises(DataError, match="the path is not like"):
        place_of(name)


def test_label_cells():
    row = {"Edema": " -1 ", "Fracture": "0", "Pneumonia": "1.0", "Pneumothorax": "", "Path": "x"}
    assert labels_of(row) == {
        "edema": Certainty.UNCERTAIN,
        "fracture": Certainty.ABSENT,
        "pneumonia": Certainty.PRESENT,
    }
    for cell in ("nan", "True", "0.5", "10", "1.0.0"):
        with pytest.raises(DataError, match="'Edema'"):
            labels_of({"Edema": cell})


def test_ages_and_views():
    assert [age_of(cell) for cell in ("0", "18", "90.0", "", "x")] == [None, 18.0, 90.0, None, None]
    assert view_of("Lateral", "AP", unstated_frontal="AP") == "lateral"
    assert view_of("Frontal", "pa", unstated_frontal="AP") == "PA"
    assert view_of("", "", unstated_frontal="AP") == "other"
