import json

import pytest

from tests.ingest.annotations.replicas import chest_imagenome as replica
from tests.ingest.annotations.replicas.chest_imagenome import COLUMNS, FIRST, ROWS
from tests.ingest.annotations.replicas.ms_cxr import image, study
from vlp.errors import DataError
from vlp.ingest.annotations.chest_imagenome import ChestImaGenomeAnnotation
from vlp.records import Certainty
from vlp.reports.findings import canonical

ANATOMY = (
    "right lung", "right upper lung zone", "right mid lung zone", "right lower lung zone", "right hilar structures",
    "right apical zone", "right costophrenic angle", "right hemidiaphragm", "left lung", "left upper lung zone",
    "left mid lung zone", "left lower lung zone", "left hilar structures", "left apical zone",
    "left costophrenic angle", "left hemidiaphragm", "trachea", "spine", "right clavicle", "left clavicle",
    "aortic arch", "mediastinum", "upper mediastinum", "svc", "cardiac silhouette", "cavoatrial junction",
    "right atrium", "carina", "abdomen",
)  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    replica.build(tmp_path)
    return tmp_path


def _study(**changes):
    return study("50414267", "10000032", image(FIRST, **{"rows": ROWS, "columns": COLUMNS} | changes))


def test_no_anatomical_part_is_taken_for_a_finding():
    assert not [name for name in ANATOMY if canonical(name)]


def test_only_anatomy_or_only_findings(folder):
    anatomy = ChestImaGenomeAnnotation(path=folder, regions=("anatomy",)).apply(_study()).regions
    findings = ChestImaGenomeAnnotation(path=folder, regions=("findings",)).apply(_study()).regions
    assert [region.finding for region in anatomy] == ["right lung", "left lung", "left costophrenic angle"]
    assert [region.finding for region in findings] == ["lung opacity", "pneumonia", "costophrenic angle blunting"]
    # A finding lies where its part lies; what is only denied, or said of a part without a box, lies nowhere.
    assert findings[0].geometry == anatomy[1].geometry


def test_labels_complete_those_of_the_study_and_never_change_them(folder):
    annotation = ChestImaGenomeAnnotation(path=folder, labels="complete")
    labels = annotation.apply(_study()).labels
    assert labels == {
        "pneumothorax": Certainty.ABSENT,
        "lung opacity": Certainty.PRESENT,
        "pneumonia": Certainty.PRESENT,
        "scoliosis": Certainty.PRESENT,
    }
    before = study("50414267", "10000032", *_study().images)
    object.__setattr__(before, "labels", {"pneumonia": Certainty.ABSENT})
    assert annotation.apply(before).labels["pneumonia"] is Certainty.ABSENT
    assert not ChestImaGenomeAnnotation(path=folder).apply(_study()).labels


def test_persons_are_marked_with_the_sets_own_split_and_a_warning_names_leaks(folder, caplog):
    assert ChestImaGenomeAnnotation(path=folder).apply(_study()).person.groups["chest_imagenome"] == "valid"
    assert not caplog.records
    (folder / "silver_dataset/splits/images_to_avoid.csv").write_text(f",study_id,dicom_id\n0,50414267,{FIRST}\n")
    with caplog.at_level("WARNING", logger="vlp"):
        for _ in range(2):
            after = ChestImaGenomeAnnotation(path=folder).apply(_study())
    assert after.person.groups["chest_imagenome"] == "gold"
    assert after.split == "train"
    assert [record.getMessage().count("gold split are in the train split") for record in caplog.records] == [1]


def test_images_of_another_size_are_refused_because_their_boxes_would_be_wrong(folder):
    with pytest.raises(DataError, match="original images"):
        ChestImaGenomeAnnotation(path=folder).apply(_study(rows=ROWS // 2, columns=COLUMNS // 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": "x"}, "not that of the image"),
        ({"objects": None}, "has not the form"),
        ({"objects": [{"bbox_name": "spine", "original_x1": "a"}]}, "has not the form"),
        ({"attributes": [{"bbox_name": "spine", "attributes": [["anatomicalfinding"]]}]}, "has not the form"),
        ({"objects": [replica.part("spine", 0, 0, 9, 9) | {"original_x2": float("nan")}]}, "has not the form"),
        ({"objects": [replica.part("spine", 0, 0, 9, 9) | {"original_x2": 10**400}]}, "has not the form"),
    ],
)
def test_damaged_graphs_are_refused_without_saying_whose_they_are(change, message, folder):
    path = folder / f"silver_dataset/scene_graph/{FIRST}_SceneGraph.json"
    path.write_text(json.dumps(replica.graph(FIRST) | change))
    with pytest.raises(DataError, match=message) as caught:
        ChestImaGenomeAnnotation(path=folder).apply(_study())
    assert FIRST not in str(caught.value)


def test_the_folder_of_graphs_itself_will_do_and_another_is_named(folder, tmp_path):
    graphs = folder / "silver_dataset/scene_graph"
    assert len(ChestImaGenomeAnnotation(path=graphs).apply(_study()).regions) == 6
    with pytest.raises(DataError, match="no scene graphs are here"):
        ChestImaGenomeAnnotation(path=folder / "silver_dataset/splits").apply(_study())
