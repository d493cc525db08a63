import json
from collections import Counter

import numpy as np
import pytest
from matplotlib.path import Path as Outline

from tests.ingest.archives.replicas import chestx_det as replica
from tests.ingest.archives.replicas.nih import write_image
from tests.ingest.real_data import real_data
from vlp.errors import DataError
from vlp.ingest.archives.chestx_det import FINDINGS_10, ChestXDetSource
from vlp.ingest.source import StudyFault
from vlp.ingest.tables import read_json
from vlp.records import Certainty, Mask


def _load(source):
    return [item for unit in source.units() for item in source.load(unit)]


def _studies(source):
    return {item.study.id: item.study for item in _load(source) if not isinstance(item, StudyFault)}


def test_outlines_become_masks_in_pixels_of_the_image_as_read(tmp_path):
    replica.build(tmp_path)
    study = _studies(ChestXDetSource(path=tmp_path))["61002"]
    assert [region.finding for region in study.regions] == [
        "pleural effusion", "pleural effusion", "diffuse nodule", "calcification",
    ]  # fmt: skip
    first, second = study.regions[0].geometry, study.regions[1].geometry
    assert isinstance(first, Mask)
    assert first.box() == (32.0, 16.0, 48.0, 32.0)  # 1024 pixels became 64
    assert first.decode().sum() == 16 * 16
    assert second.decode().sum() == pytest.approx(64 * 64 / 2, rel=0.02)


def test_boxes_instead_when_asked(tmp_path):
    replica.build(tmp_path)
    study = _studies(ChestXDetSource(path=tmp_path, regions="boxes"))["61002"]
    assert study.regions[0].geometry == (32.0, 16.0, 48.0, 32.0)
    assert study.regions[1].geometry == (0.0, 0.0, 1023 / 16, 1023 / 16)


def test_everything_searched_for_has_a_label(tmp_path):
    replica.build(tmp_path)
    studies = _studies(ChestXDetSource(path=tmp_path))
    healthy, ill = studies["61001"].labels, studies["61002"].labels
    assert [name for name, certainty in healthy.items() if certainty is Certainty.PRESENT] == ["no finding"]
    # A diffuse nodule is a nodule; calcification is no finding of the vocabulary.
    present = {name for name, certainty in ill.items() if certainty is Certainty.PRESENT}
    assert present == {"pleural effusion", "nodule"}
    assert ill["cardiomegaly"] is Certainty.ABSENT
    assert set(healthy) == set(ill)
    assert studies["61001"].regions == ()


def test_what_the_vocabulary_lacks_is_counted_once(tmp_path, caplog):
    replica.build(tmp_path)
    with caplog.at_level("INFO", logger="vlp"):
        ChestXDetSource(path=tmp_path).units()
    assert "Calcification (1)" in caplog.text
    assert "Diffuse" not in caplog.text


def test_the_test_file_is_the_test_split(tmp_path):
    replica.build(tmp_path)
    assert _studies(ChestXDetSource(path=tmp_path))["36199"].split == "test"
    assert {study.split for study in _studies(ChestXDetSource(path=tmp_path, val_fraction=1.0)).values()} == {
        "val", "test",
    }  # fmt: skip


def test_chestx_det10_has_boxes_only_and_ten_findings(tmp_path):
    records = [
        {"file_name": "1.png", "syms": ["Fibrosis"], "boxes": [[512, 256, 768, 512]]},
        {"file_name": "2.png", "syms": [], "boxes": []},
    ]
    (tmp_path / "train.json").write_text(json.dumps(records))
    for number in (1, 2):
        write_image(tmp_path / "train_data" / f"{number}.png", seed=number)
    source = ChestXDetSource(path=tmp_path, parts=("train",))
    studies = _studies(source)
    assert studies["1"].regions[0].geometry == (32.0, 16.0, 48.0, 32.0)
    assert len(studies["2"].labels) == len(FINDINGS_10) - 1 + 1  # calcification is none of ours, "no finding" is
    with pytest.raises(DataError, match=r"neither ChestX_Det_test\.json nor test\.json"):
        ChestXDetSource(path=tmp_path).units()


def test_faults_name_the_record(tmp_path):
    replica.build(tmp_path)
    faults = [item for item in _load(ChestXDetSource(path=tmp_path)) if isinstance(item, StudyFault)]
    assert [(fault.code, fault.message.split(": ")[1]) for fault in faults] == [
        ("bad_row", "record 3"), ("bad_box", "record 4"), ("missing_image", "record 5"), ("bad_row", "record 6"),
    ]  # fmt: skip


@pytest.mark.parametrize("content", ["{}", "[]", "7"])
def test_a_file_that_is_no_list_is_refused(tmp_path, content):
    replica.build(tmp_path)
    (tmp_path / "ChestX_Det_train.json").write_text(content)
    with pytest.raises(DataError, match="not a list of images"):
        ChestXDetSource(path=tmp_path).units()


def test_one_image_in_both_files_stops_the_archive(tmp_path):
    replica.build(tmp_path)
    (tmp_path / "ChestX_Det_test.json").write_text(json.dumps(replica.TRAIN))
    with pytest.raises(DataError, match="6 images are in the files more than once"):
        ChestXDetSource(path=tmp_path).units()


@pytest.mark.real_data
def test_the_real_records(tmp_path):
    """The images are not there, so made ones stand in; every number comes from the file, read a second time."""
    folder = real_data("native", "chestx_det")
    records = read_json(folder / "ChestX_Det_test.json.gz")
    for record in records:
        if not (tmp_path / "base.png").exists():
            write_image(tmp_path / "base.png", seed=1, side_px=128)
        (tmp_path / "images" / record["file_name"]).parent.mkdir(exist_ok=True)
        (tmp_path / "images" / record["file_name"]).hardlink_to(tmp_path / "base.png")
    source = ChestXDetSource(path=folder, images=tmp_path / "images", parts=("test",))
    items = _load(source)
    studies = [item.study for item in items if not isinstance(item, StudyFault)]
    faults = [item for item in items if isinstance(item, StudyFault)]
    assert len(studies) + len(faults) == 553
    assert len(faults) == 0, faults[:3]
    assert sum(not study.regions for study in studies) == 64
    assert sum(study.labels["no finding"] is Certainty.PRESENT for study in studies) == 64
    assert {study.split for study in studies} == {"test"}
    counts = Counter(region.finding for study in studies for region in study.regions)
    assert counts["consolidation"] == 453
    assert counts["diffuse nodule"] == 63
    assert counts.total() == 1734
    by_id = {study.id: study for study in studies}
    for record in records[:60]:
        regions = by_id[record["file_name"][:-4]].regions
        for polygon, region in zip(record["polygons"], regions, strict=True):
            assert np.mean(_raster(polygon, 128) != region.geometry.decode()) < 0.004


def _raster(polygon, side):
    centres = np.stack(np.meshgrid(np.arange(side) + 0.5, np.arange(side) + 0.5), axis=-1).reshape(-1, 2)
    corners = np.asarray(polygon, dtype=float) * side / 1024
    return Outline(corners).contains_points(centres).reshape(side, side)
