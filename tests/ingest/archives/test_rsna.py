import pytest

from tests.ingest.archives.replicas import rsna as replica
from tests.ingest.archives.replicas.nih import write_image
from vlp.errors import DataError
from vlp.ingest.archives.rsna import RsnaSource
from vlp.ingest.source import StudyFault
from vlp.records import Certainty

PRESENT, ABSENT = Certainty.PRESENT, Certainty.ABSENT


def _load(source):
    return [item for unit in source.units() for item in source.load(unit)]


def _studies(source):
    return {item.study.id: item.study for item in _load(source) if not isinstance(item, StudyFault)}


def _archive(folder, *rows, classes=("Lung Opacity",)):
    (folder / "stage_2_train_labels.csv").write_text("\n".join(("patientId,x,y,width,height,Target", *rows)) + "\n")
    lines = [f"a,{name}" for name in classes]
    (folder / "stage_2_detailed_class_info.csv").write_text("\n".join(("patientId,class", *lines)) + "\n")
    write_image(folder / "images" / "a.png", seed=1)
    return RsnaSource(path=folder)


def test_all_boxes_of_an_image_are_in_its_own_pixels(tmp_path):
    replica.build(tmp_path)
    study = _studies(RsnaSource(path=tmp_path))[replica.IDS["a"]]
    assert [(region.finding, region.geometry) for region in study.regions] == [
        ("pneumonia", (264 / 16, 152 / 16, 477 / 16, 531 / 16)),
        ("pneumonia", (562 / 16, 152 / 16, 818 / 16, 605.5 / 16)),
    ]
    other = _studies(RsnaSource(path=tmp_path, finding="lung opacity"))[replica.IDS["a"]]
    assert {region.finding for region in other.regions} == {"lung opacity"}


def test_the_class_says_more_than_the_target(tmp_path):
    replica.build(tmp_path)
    studies = _studies(RsnaSource(path=tmp_path))
    assert studies[replica.IDS["a"]].labels == {"pneumonia": PRESENT, "lung opacity": PRESENT, "no finding": ABSENT}
    assert studies[replica.IDS["b"]].labels == {"pneumonia": ABSENT, "lung opacity": ABSENT, "no finding": PRESENT}
    # Something else is there, which may be an opacity that does not suggest pneumonia.
    assert studies[replica.IDS["c"]].labels == {"pneumonia": ABSENT, "no finding": ABSENT}


def test_the_header_brings_age_sex_view_and_spacing(tmp_path):
    replica.build(tmp_path)
    study = _studies(RsnaSource(path=tmp_path))[replica.IDS["a"]]
    assert (study.person.id, study.person.age, study.person.sex) == (replica.IDS["a"], 58.0, "F")
    assert (study.images[0].view, study.images[0].spacing_mm) == ("PA", (0.139, 0.139))


def test_images_without_a_label_are_counted(tmp_path, caplog):
    replica.build(tmp_path)
    with caplog.at_level("INFO", logger="vlp"):
        RsnaSource(path=tmp_path).units()
    assert "1 images have no label" in caplog.text


@pytest.mark.parametrize(
    ("rows", "classes", "message"),
    [
        (["a,1,1,5,5,2"], ["Lung Opacity"], "neither 0 nor 1"),
        (["a,,,,,0", "a,1,1,5,5,1"], ["Normal"], "or both"),
        (["a,1,1,5,5,1"], ["Normal"], "otherwise than the class"),
        (["a,,,,,0"], ["Lung Opacity"], "otherwise than the class"),
        (["a,,,,,0"], [], "no class"),
        (["a,,,,,0"], ["Normal", "No Lung Opacity / Not Normal"], "or several"),
        (["a,,,,,0"], ["Fine"], "no class"),
        (["a,1,1,5,5,0"], ["Normal"], "a box where Target is 0"),
        (["a,,,,,1"], ["Lung Opacity"], "none where it is 1"),
        (["a,1,1,5,,1"], ["Lung Opacity"], "none where it is 1"),
        (["a,1,1,5,five,1"], ["Lung Opacity"], "not four numbers"),
        (["a,1000,1,50,5,1"], ["Lung Opacity"], "outside its image"),
    ],
)
def test_rows_that_contradict_themselves_are_faults(tmp_path, rows, classes, message):
    (fault,) = _load(_archive(tmp_path, *rows, classes=classes))
    assert isinstance(fault, StudyFault)
    assert message in fault.message


def test_a_part_of_the_archive_is_taken_when_asked_for(tmp_path):
    _archive(tmp_path, "a,,,,,0", "b,,,,,0", classes=("Normal",))
    items = _load(RsnaSource(path=tmp_path, absent_images="leave_out"))
    assert [item.code for item in items if isinstance(item, StudyFault)] == ["excluded_absent"]


def test_the_table_of_classes_is_needed(tmp_path):
    source = _archive(tmp_path, "a,,,,,0", classes=("Normal",))
    (tmp_path / "stage_2_detailed_class_info.csv").unlink()
    with pytest.raises(DataError, match="detailed_class_info"):
        source.units()
