import pytest

from tests.ingest.archives.replicas import coco as replica
from vlp.config import validate
from vlp.errors import ConfigError, DataError
from vlp.ingest.archives.coco import CocoSource
from vlp.ingest.source import StudyFault
from vlp.records import Certainty


def _source(folder, **settings):
    values = {**replica.build(folder).source, **settings}
    return CocoSource(**values)


def _studies(source):
    items = [item for unit in source.units() for item in source.load(unit)]
    return {item.study.id: item.study for item in items if not isinstance(item, StudyFault)}


def test_regions_and_labels_of_what_is_drawn(tmp_path):
    study = _studies(_source(tmp_path))["k7312_1"]
    assert [(region.finding, region.kind) for region in study.regions] == [
        ("pneumonia", "box"),
        ("pleural effusion", "mask"),
        ("pleural effusion", "mask"),
        ("pneumonia", "mask"),
    ]
    assert study.regions[0].geometry == (8.5, 4.0, 24.5, 24.25)
    assert study.labels == {"pneumonia": Certainty.PRESENT, "pleural effusion": Certainty.PRESENT}


def test_crowds_are_kept_when_asked_for(tmp_path):
    assert len(_studies(_source(tmp_path, crowds="keep"))["k7312_1"].regions) == 5


def test_a_smaller_copy_has_smaller_boxes(tmp_path):
    study = _studies(_source(tmp_path))["k7313_1"]
    assert study.regions[0].geometry == (16.0, 8.0, 32.0, 32.0)  # half a pixel over the border, cut off


def test_where_everything_was_searched_for_what_is_not_drawn_is_absent(tmp_path):
    studies = _studies(_source(tmp_path, unannotated="absent"))
    absent = Certainty.ABSENT
    assert studies["k7311_1"].labels == {
        "pneumonia": absent, "pleural effusion": absent, "no finding": Certainty.PRESENT,
    }  # fmt: skip
    assert studies["k7312_1"].labels["no finding"] is absent
    assert _studies(_source(tmp_path))["k7311_1"].labels == {}


def test_persons_come_out_of_file_names(tmp_path):
    source = _source(tmp_path)
    assert len(source.units()) == 7
    studies = _studies(source)
    assert studies["k7312_1"].person.id == studies["k7312_2"].person.id == "k7312"
    alone = _studies(_source(tmp_path, person=None))
    assert alone["k7312_1"].person.id == "k7312_1"


def test_facts_that_the_file_lacks_come_from_the_configuration(tmp_path):
    study = _studies(_source(tmp_path, split="val", view="AP", license="CC0", source="tb"))["k7311_1"]
    assert (study.split, study.images[0].view, study.license, study.source) == ("val", "AP", "CC0", "tb")
    assert _studies(_source(tmp_path))["k7311_1"].split is None


def test_what_is_not_taken_is_counted(tmp_path, caplog):
    source = _source(tmp_path, categories={"Marker": None})
    with caplog.at_level("INFO", logger="vlp"):
        source.units()
    assert "1 annotations are of images that the file does not name" in caplog.text
    assert "ActiveTuberculosis (3)" in caplog.text
    assert "Marker" not in caplog.text


@pytest.mark.parametrize("person", ["(", "p[0-9]+", "(p)([0-9]+)"])
def test_patterns_that_find_no_person_are_refused(tmp_path, person):
    with pytest.raises(ConfigError, match="person"):
        validate(CocoSource, {"path": "a.json", "images": "b", "person": person}, where="c.yaml")


def test_unknown_categories_and_missing_images_stop_the_archive(tmp_path):
    with pytest.raises(DataError, match="no category 'TB'"):
        _source(tmp_path, categories={"TB": "pneumonia"}).units()
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="none of the images"):
        _source(tmp_path, images=tmp_path / "none").units()


def test_a_part_of_the_archive_is_taken_when_asked_for(tmp_path):
    source = _source(tmp_path, absent_images="leave_out")
    items = [item for unit in source.units() for item in source.load(unit)]
    assert "excluded_absent" in {item.code for item in items if isinstance(item, StudyFault)}
