import json

import pytest

from tests.ingest.annotations.replicas import ms_cxr as replica
from tests.ingest.annotations.replicas.ms_cxr import FIRST, image, study
from vlp.errors import DataError
from vlp.ingest.annotations.ms_cxr import MsCxrAnnotation
from vlp.records import Region


@pytest.fixture
def folder(tmp_path):
    replica.build(tmp_path)
    return tmp_path


def test_persons_of_the_set_are_marked_and_moved_to_test_with_all_their_studies(folder):
    annotation = MsCxrAnnotation(path=folder)
    for before in (study("1", "10000032", image(FIRST)), study("2", "10000032", image("of no box"))):
        after = annotation.apply(before)
        assert after.split == "test"
        assert after.person.groups["ms_cxr"] == "yes"
    other = study("3", "10000099", image("of no box"))
    assert annotation.apply(other) is other


def test_the_split_may_stay(folder):
    after = MsCxrAnnotation(path=folder, persons_to=None).apply(study("1", "10000032", image(FIRST)))
    assert (after.split, after.person.groups["ms_cxr"]) == ("train", "yes")


def test_an_image_of_another_shape_is_refused(folder):
    with pytest.raises(DataError, match=r"line 2: .*another shape"):
        MsCxrAnnotation(path=folder).apply(study("1", "10000032", image(FIRST, rows=2544, columns=2544)))


def test_a_box_outside_names_its_line_and_harms_no_other_study(folder):
    annotation = MsCxrAnnotation(path=folder)
    with pytest.raises(DataError, match=r"line 5: a box lies outside its image"):
        annotation.apply(study("1", "11000011", image(replica.OUTSIDE)))
    assert len(annotation.apply(study("2", "10000032", image(FIRST))).regions) == 2


def test_rounding_at_the_border_is_cut(tmp_path):
    row = replica.row(FIRST, "10000032", "Edema", 0, 0, 2545, 3056)
    replica.write_csv(tmp_path / "boxes.csv", [row])
    after = MsCxrAnnotation(path=tmp_path / "boxes.csv").apply(study("1", "10000032", image(FIRST)))
    assert after.regions == (Region(finding="edema", image=FIRST, geometry=(0.0, 0.0, 2544.0, 3056.0)),)


def test_the_coco_style_form_says_the_same(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("json")
    content = {
        "info": {},
        "categories": [{"id": 7, "name": "Pleural Effusion", "supercategory": "disease"}],
        "images": [
            {"id": 3, "file_name": f"{FIRST}.jpg", "path": f"files/p10/p10000032/s50414267/{FIRST}.jpg",
             "width": 2544, "height": 3056, "num_annotations": 2},
        ],
        "annotations": [
            {"id": 1, "image_id": 3, "category_id": 7, "bbox": [100, 200, 300, 400], "label_text": ["x"]},
            {"id": 2, "image_id": 3, "category_id": 7, "bbox": [1500, 200, 301, 400], "label_text": ["x"]},
        ],
    }  # fmt: skip
    (other / "MS_CXR_Local_Alignment_v1.0.0.json").write_text(json.dumps(content))
    before = study("50414267", "10000032", image(FIRST))
    assert MsCxrAnnotation(path=other).apply(before) == MsCxrAnnotation(path=folder).apply(before)
    content["images"][0].pop("path")
    (other / "MS_CXR_Local_Alignment_v1.0.0.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="not the COCO-style form"):
        MsCxrAnnotation(path=other).apply(before)


def test_an_empty_folder_and_another_table_are_named(tmp_path):
    before = study("1", "10000032", image(FIRST))
    with pytest.raises(DataError, match="is this the folder of MS-CXR"):
        MsCxrAnnotation(path=tmp_path).apply(before)
    (tmp_path / "x.csv").write_text("dicom_id,path\na,b\n")
    with pytest.raises(DataError, match="column 'category_name'"):
        MsCxrAnnotation(path=tmp_path / "x.csv").apply(before)
