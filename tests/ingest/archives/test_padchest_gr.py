import json

import pytest

from tests.ingest.archives.replicas.padchest_gr import build
from vlp.errors import DataError
from vlp.ingest.archives.padchest_gr import UNNAMED, PadChestGrSource
from vlp.ingest.source import StudyFault
from vlp.records import Certainty
from vlp.reports import read


def _load(folder, **settings):
    build(folder)
    source = PadChestGrSource(path=folder, images=folder / "Padchest_GR_files/PadChest_GR", **settings)
    return [item for unit in source.units() for item in source.load(unit)]


def _studies(folder, **settings):
    return {item.study.id: item.study for item in _load(folder, **settings) if not isinstance(item, StudyFault)}


def test_sentences_labels_and_boxes_of_a_study(tmp_path):
    study = _studies(tmp_path)["70011"]
    assert study.report.text == "Left pleural effusion with laminar atelectasis.\nNo pneumothorax."
    assert study.report.language == "en"
    assert {sentence.finding for sentence in read(study.report.text)} >= {"pleural effusion", "pneumothorax"}
    assert study.labels == {"pleural effusion": Certainty.PRESENT, "atelectasis": Certainty.PRESENT}
    # fractions of 60 rows and 48 columns; a sentence about two findings gives each of them its boxes
    boxes = [(24.0, 36.0, 45.6, 60.0), (26.4, 30.0, 43.2, 36.0)]
    for finding in ("pleural effusion", "atelectasis"):
        found = [region.geometry for region in study.regions if region.finding == finding]
        assert [pytest.approx(box) for box in boxes] == found
    assert len(study.regions) == 4
    assert (study.person.id, study.person.sex, study.split, study.images[0].view) == ("3145", "F", "train", "PA")


def test_the_official_splits(tmp_path):
    assert {id_: study.split for id_, study in _studies(tmp_path).items()} == {
        "70011": "train", "70012": "train", "70013": "val",
    }  # fmt: skip


def test_spanish_sentences_on_request(tmp_path):
    study = _studies(tmp_path, language="es")["70011"]
    assert study.report.text.startswith("Derrame pleural izquierdo")
    assert study.report.language == "es"


def test_boxes_of_one_annotator_alone_on_request(tmp_path):
    assert len(_studies(tmp_path, extra_boxes=True)["70011"].regions) == 6


def test_normal_studies_and_boxes_without_a_name(tmp_path):
    studies = _studies(tmp_path, unstated_view="other")
    assert (dict(studies["70012"].labels), studies["70012"].regions) == ({}, ())
    assert {region.finding for region in studies["70013"].regions} == {UNNAMED}
    assert studies["70012"].images[0].view == "other"


def test_faults_name_the_report_and_what_is_wrong(tmp_path):
    file = tmp_path / "grounded_reports_20240819.json"
    assert {item.message for item in _load(tmp_path) if isinstance(item, StudyFault)} == {
        f"{file}: report 4: a box lies outside its image",
        f"{file}: report 5: the image is not there",
        f"{file}: report 6: master_table.csv does not know its image",
        f"{file}: report 7: findings.0.boxes.0.2: Field required",
    }


def test_a_split_that_is_none_is_a_fault(tmp_path):
    build(tmp_path)
    table = tmp_path / "master_table.csv"
    table.write_text(table.read_text().replace("validation", "fold7"))
    source = PadChestGrSource(path=tmp_path, images=tmp_path / "Padchest_GR_files/PadChest_GR")
    faults = [item for unit in source.units() for item in source.load(unit) if isinstance(item, StudyFault)]
    assert "master_table.csv: line 5: no patient, or a split that is none" in faults[0].message


@pytest.mark.parametrize(
    ("content", "word"), [("{}", "not a list of reports"), ("[]", "it holds no report"), ("[", "not JSON")]
)
def test_a_file_that_is_none(tmp_path, content, word):
    build(tmp_path)
    (tmp_path / "grounded_reports_20240819.json").write_text(content)
    with pytest.raises(DataError, match=word):
        PadChestGrSource(path=tmp_path).units()


def test_entries_of_any_form_are_faults_and_never_crash(tmp_path):
    build(tmp_path)
    odd = [None, 7, "text", [], {}, {"ImageID": 5}, {"ImageID": "x", "StudyID": "y", "findings": {"a": 1}}]
    odd += [{"ImageID": "2168_a.png", "StudyID": "y", "findings": [{"labels": "mass"}, None]}]
    (tmp_path / "grounded_reports_20240819.json").write_text(json.dumps(odd))
    source = PadChestGrSource(path=tmp_path, images=tmp_path)
    items = [item for unit in source.units() for item in source.load(unit)]
    assert [item.code for item in items] == ["bad_row"] * len(odd)
