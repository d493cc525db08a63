import json

import pytest

from tests.ingest.annotations.replicas import coco_boxes as replica
from tests.ingest.archives.replicas.coco import mark
from vlp.errors import DataError
from vlp.ingest.annotations.coco_boxes import CocoBoxesAnnotation
from vlp.records import Certainty


def _set(folder, *marks, file_name="a.png", **settings):
    path = folder / "boxes.json"
    content = {
        "images": [{"id": 1, "file_name": file_name, "width": 96, "height": 64}],
        "annotations": list(marks),
        "categories": [{"id": 1, "name": "Mass"}, {"id": 2, "name": "letter"}],
    }
    path.write_text(json.dumps(content))
    return CocoBoxesAnnotation(path=path, **settings)


@pytest.mark.parametrize("file_name", ["a.png", "files/p10/a.jpg", "a.dcm", "a"])
def test_images_are_matched_by_the_archives_own_name(tmp_path, file_name):
    study = _set(tmp_path, mark(1, 1, bbox=[0, 0, 96, 64]), file_name=file_name).apply(replica.study("s", "b", "a"))
    assert [(region.image, region.geometry) for region in study.regions] == [("a", (0.0, 0.0, 48.0, 32.0))]
    assert study.labels == {"mass": Certainty.ABSENT}


def test_what_is_drawn_becomes_a_label_when_asked_for(tmp_path):
    marks = (mark(1, 1, bbox=[0, 0, 9, 9]), mark(1, 2, bbox=[0, 0, 9, 9]))
    study = _set(tmp_path, *marks, labels="add").apply(replica.study("s", "a"))
    assert study.labels == {"mass": Certainty.PRESENT}
    assert [region.finding for region in study.regions] == ["mass", "letter"]


def test_crowds_and_unwanted_categories_stay_away(tmp_path):
    marks = (mark(1, 1, bbox=[0, 0, 9, 9], iscrowd=1), mark(1, 2, bbox=[0, 0, 9, 9]))
    study = replica.study("s", "a")
    assert _set(tmp_path, *marks, categories={"letter": None}).apply(study) is study
    assert len(_set(tmp_path, *marks, crowds="keep").apply(study).regions) == 2


def test_the_same_box_twice_is_one_region(tmp_path):
    annotation = _set(tmp_path, mark(1, 1, bbox=[0, 0, 9, 9]), mark(1, 1, bbox=[0, 0, 9, 9]))
    study = annotation.apply(replica.study("s", "a"))
    assert len(study.regions) == 1
    assert annotation.apply(study) == study


def test_a_category_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match="no category 'Nodule'"):
        _set(tmp_path, categories={"Nodule": "nodule"}).apply(replica.study("s", "b"))
