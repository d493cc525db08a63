import json
from itertools import permutations

import numpy as np
import pytest

from tests.ingest.archives.replicas import vindr as replica
from tests.ingest.archives.replicas.table import picture
from tests.ingest.archives.replicas.vindr import AGREED, COLUMNS, DIVIDED, NORMAL, ROWS, TESTED
from vlp.errors import DataError
from vlp.ingest.archives.vindr import VinDrSource, cluster_boxes, mean_box
from vlp.ingest.source import StudyFault
from vlp.records import Certainty

P, A, U = Certainty.PRESENT, Certainty.ABSENT, Certainty.UNCERTAIN


def _load(source):
    return [item for unit in source.units() for item in source.load(unit)]


def _loaded(source):
    return {item.study.id: item for item in _load(source) if not isinstance(item, StudyFault)}


@pytest.fixture(scope="module")
def physionet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vindr")
    replica.build(folder)
    return folder


def _boxes(study):
    return [(region.finding, region.geometry) for region in study.regions]


def test_a_majority_of_readers_makes_a_label_and_a_box(physionet):
    study = _loaded(VinDrSource(path=physionet))[AGREED].study
    assert study.labels["pleural effusion"] is P
    # one reader saw a nodule, another a tumour: both are lung lesions, so two of three saw one
    assert study.labels["lung lesion"] is P
    assert (study.labels["pneumonia"], study.labels["edema"], study.labels["no finding"]) == (U, A, A)
    assert _boxes(study) == [("pleural effusion", (11.0, 41.0, 31.0, 71.0))]
    assert (study.split, study.person.sex, study.person.age, study.images[0].view) == ("train", "F", 43.0, "PA")
    assert study.license.startswith("PhysioNet")


def test_agreement_and_minority_are_settings(physionet):
    loose = _loaded(VinDrSource(path=physionet, agreement="any"))[AGREED].study
    assert (loose.labels["pneumonia"], loose.labels["pleural effusion"]) == (P, P)
    assert [finding for finding, _ in _boxes(loose)] == ["pleural effusion", "lung lesion"]
    strict = _loaded(VinDrSource(path=physionet, agreement="all", minority="absent"))[AGREED].study
    assert {strict.labels[name] for name in ("pleural effusion", "lung lesion", "pneumonia")} == {A}
    assert strict.labels["no finding"] is U  # nobody called it normal
    assert strict.regions == ()


def test_boxes_may_be_kept_as_they_were_drawn_or_fused(physionet):
    each = _loaded(VinDrSource(path=physionet, boxes="each"))[AGREED].study
    assert sorted(_boxes(each)) == [
        ("lung lesion", (40.0, 10.0, 50.0, 20.0)),
        ("pleural effusion", (10.0, 40.0, 30.0, 70.0)),
        ("pleural effusion", (12.0, 42.0, 32.0, 72.0)),
    ]
    mean = _loaded(VinDrSource(path=physionet, boxes="mean"))[AGREED].study
    assert len(mean.regions) == 2


def test_divided_readers_make_uncertain_labels(physionet):
    study = _loaded(VinDrSource(path=physionet))[DIVIDED].study
    assert (study.labels["cardiomegaly"], study.labels["no finding"]) == (U, U)
    assert study.regions == ()
    # what the vocabulary lacks has no label, and still says that something is there
    assert "ild" not in study.labels
    sure = _loaded(VinDrSource(path=physionet, minority="absent"))[DIVIDED].study
    assert (sure.labels["cardiomegaly"], sure.labels["no finding"]) == (A, P)
    drawn = _loaded(VinDrSource(path=physionet, boxes="each"))[DIVIDED].study
    assert ("ild", (0.0, 0.0, 30.0, 30.0)) in _boxes(drawn)


def test_normal_images_and_the_consensus_of_the_test_set(physionet):
    loaded = _loaded(VinDrSource(path=physionet))
    assert loaded[NORMAL].study.labels["no finding"] is P
    assert {value for name, value in loaded[NORMAL].study.labels.items() if name != "no finding"} == {A}
    tested = loaded[TESTED].study
    assert (tested.split, tested.labels["pneumothorax"], tested.labels["fracture"]) == ("test", P, P)
    assert _boxes(tested) == [("pneumothorax", (1.0, 2.0, 33.0, 44.0))]


def test_both_polarities_show_bone_bright(physionet):
    loaded = _loaded(VinDrSource(path=physionet))
    first = replica.dicom(physionet.parent / "again.dicom", seed=0, compressed=False)
    second = replica.dicom(physionet.parent / "again.dicom", seed=1, compressed=False)
    for image, stored in ((AGREED, first), (DIVIDED, 4095 - second)):
        assert np.corrcoef(loaded[image].pixels[0].ravel(), stored.ravel())[0, 1] > 0.8


def test_labels_outside_the_vocabulary_are_told(physionet, caplog):
    caplog.set_level("INFO", logger="vlp")
    VinDrSource(path=physionet).units()
    assert "not kept: ILD (1)" in caplog.text


def _kaggle(folder, *lines, sizes=None):
    header = "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max"
    (folder / "train.csv").write_text("\n".join([header, *lines, ""]))
    for seed, image in enumerate(dict.fromkeys(line.split(",")[0] for line in lines)):
        picture(folder / "train" / f"{image}.png", rows=ROWS // 2, columns=COLUMNS // 2, seed=seed)
    if sizes:
        (folder / "train_meta.csv").write_text("\n".join(["image_id,dim0,dim1", *sizes, ""]))
    return VinDrSource(path=folder)


def test_kaggles_layout_with_a_smaller_copy_of_the_images(tmp_path):
    lines = [f"aa,Cardiomegaly,3,R{reader},10,20,{50 + reader},60" for reader in (1, 2, 3)]
    lines += [f"bb,No finding,14,R{reader},,,," for reader in (1, 2, 3)]
    loaded = _loaded(_kaggle(tmp_path, *lines, sizes=(f"aa,{ROWS},{COLUMNS}", f"bb,{ROWS},{COLUMNS}")))
    study = loaded["aa"].study
    assert _boxes(study) == [("cardiomegaly", (5.0, 10.0, 26.0, 30.0))]
    assert (study.labels["cardiomegaly"], study.labels["pneumothorax"], study.labels["no finding"]) == (P, A, A)
    assert "pneumonia" not in study.labels  # Kaggle's readers were not asked
    assert (study.split, study.person.age) == (None, None)
    assert "competition" in study.license
    assert loaded["bb"].study.labels["no finding"] is P


@pytest.mark.parametrize(
    ("line", "word"),
    [("aa,Cardiomegaly,3,R1,1,2,3,", "a box is not four numbers"), ("aa,,3,R1,1,2,3,4", "a box has no name")],
)
def test_lines_that_cannot_be_are_faults(tmp_path, line, word):
    (fault,) = _load(_kaggle(tmp_path, line))
    assert (fault.code, word in fault.message) == ("bad_row", True)


def test_sizes_that_cannot_be_are_faults(tmp_path):
    (fault,) = _load(_kaggle(tmp_path, "aa,Cardiomegaly,3,R1,1,2,3,4", sizes=("aa,0,64",)))
    assert "train_meta.csv: line 2: the size is none" in fault.message


def test_a_folder_of_something_else_is_refused(tmp_path, physionet):
    with pytest.raises(DataError, match=r"train\.csv: the table cannot be read"):
        VinDrSource(path=tmp_path).units()
    with pytest.raises(DataError, match="not a unit"):
        list(VinDrSource(path=physionet, parts=("train",)).load("test:0"))
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/annotations_train.csv").write_text("image_id,class_name,x_min,y_min,x_max,y_max\n")
    (tmp_path / "annotations/image_labels_train.csv").write_text("image_id,rad_id,Elbow\n")
    with pytest.raises(DataError, match="none of the 28 labels is a column"):
        VinDrSource(path=tmp_path, parts=("train",)).units()


def test_boxes_of_different_readers_are_one_and_of_one_reader_stay_two():
    near, shifted, far = (0.0, 0.0, 10.0, 10.0), (1.0, 0.0, 11.0, 10.0), (50.0, 50.0, 60.0, 60.0)
    assert cluster_boxes([(near, "R1"), (shifted, "R2"), (far, "R3")], overlap=0.5) == [[near, shifted], [far]]
    assert cluster_boxes([(near, "R1"), (shifted, "R1")], overlap=0.5) == [[near], [shifted]]
    # the intersection is 90 of 110
    assert len(cluster_boxes([(near, "R1"), (shifted, "R2")], overlap=0.82)) == 2
    assert len(cluster_boxes([(near, "R1"), (shifted, "R2")], overlap=0.81)) == 1
    assert mean_box([near, shifted]) == (0.5, 0.0, 10.5, 10.0)


def test_the_order_of_the_file_does_not_matter():
    generator = np.random.default_rng(0)
    boxes = []
    for reader in ("R1", "R2", "R3"):
        x, y = generator.uniform(0, 20, 2)
        boxes.append(((x, y, x + 30, y + 30), reader))
    boxes.append(((x + 4, y + 4, x + 34, y + 34), "R1"))
    found = {json.dumps(cluster_boxes(order, overlap=0.5)) for order in permutations(boxes)}
    assert len(found) == 1
