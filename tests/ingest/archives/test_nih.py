import csv
import json
from collections import Counter

import pytest

from tests.ingest.archives.replicas import nih as replica
from tests.ingest.real_data import real_data
from vlp.errors import DataError
from vlp.ingest.archives.nih import NihSource
from vlp.ingest.source import StudyFault
from vlp.records import Certainty
from vlp.reports.findings import LABEL_SETS


def _load(source):
    return [item for unit in source.units() for item in source.load(unit)]


def _studies(source):
    return {item.study.id: item.study for item in _load(source) if not isinstance(item, StudyFault)}


def _archive(folder, *rows, boxes=(), lists=None, side_px=64):
    """One image per row; `lists` maps an official list to its names."""
    replica.write_table(folder / "Data_Entry_2017.csv", rows)
    if boxes:
        replica.write_boxes(folder / "BBox_List_2017.csv", boxes)
    for name, images in (lists or {}).items():
        (folder / name).write_text("\n".join(images))
    for number, row in enumerate(rows):
        replica.write_image(folder / "images" / row.split(",")[0], seed=number, side_px=side_px)
    return NihSource(path=folder)


def _row(image, labels="Mass", follow_up=0, patient="1", age="058Y", sex="M", view="PA", rest="2048,1024,0.2,0.1"):
    return f"{image},{labels},{follow_up},{patient},{age},{sex},{view},{rest}"


def test_an_image_is_a_study_with_everything_the_table_says(tmp_path):
    (study,) = _studies(_archive(tmp_path, _row("00000001_000.png", "Effusion|Pleural_Thickening"))).values()
    assert (study.id, study.images[0].id, study.images[0].view) == ("00000001_000", "00000001_000", "PA")
    assert (study.person.id, study.person.age, study.person.sex) == ("1", 58.0, "M")
    present = {name for name, certainty in study.labels.items() if certainty is Certainty.PRESENT}
    assert present == {"pleural effusion", "pleural thickening"}
    assert set(study.labels) == {*LABEL_SETS["nih14"].values(), "no finding"}
    assert study.license.startswith("NIH Clinical Center")
    assert study.report is None


def test_a_healthy_image_has_every_label_and_none_present_but_no_finding(tmp_path):
    (study,) = _studies(_archive(tmp_path, _row("a.png", "No Finding"))).values()
    assert [name for name, certainty in study.labels.items() if certainty is Certainty.PRESENT] == ["no finding"]


def test_spacing_is_that_of_the_squeezed_image(tmp_path):
    (study,) = _studies(_archive(tmp_path, _row("a.png", rest="2048,1024,0.2,0.1"))).values()
    # 1,024 original rows of 0.1 mm are 64 rows now, 2,048 columns of 0.2 mm are 64 columns.
    assert study.images[0].spacing_mm == pytest.approx((1.6, 6.4))
    replica.write_table(tmp_path / "Data_Entry_2017.csv", [_row("a.png", rest="2048,0,,0.1")])
    assert next(iter(_studies(NihSource(path=tmp_path)).values())).images[0].spacing_mm is None


@pytest.mark.parametrize(
    ("age", "years"), [("058Y", 58.0), ("58", 58.0), ("006M", 0.5), ("411Y", None), ("148", None), ("", None)]
)
def test_ages_of_all_releases(tmp_path, age, years):
    assert next(iter(_studies(_archive(tmp_path, _row("a.png", age=age))).values())).person.age == years


def test_impossible_ages_are_counted_aloud(tmp_path, caplog):
    source = _archive(tmp_path, _row("a.png", age="411Y"), _row("b.png", age="148"), _row("c.png", age=""))
    with caplog.at_level("INFO", logger="vlp"):
        source.units()
    assert "2 impossible ages" in caplog.text


def test_the_newer_table_wins_and_has_no_trailing_comma(tmp_path):
    _archive(tmp_path, _row("a.png", age="058Y"))
    (tmp_path / "Data_Entry_2017_v2020.csv").write_text(f"{replica.HEADER}\n{_row('a.png', age='57')}\n")
    assert next(iter(_studies(NihSource(path=tmp_path)).values())).person.age == 57.0


def test_follow_ups_come_in_order_and_know_the_earlier_ones(tmp_path):
    rows = [_row(f"a_{number:03}.png", follow_up=number) for number in (10, 0, 9)]
    studies = _studies(_archive(tmp_path, *rows))
    assert list(studies) == ["a_000", "a_009", "a_010"]
    assert studies["a_010"].earlier == ("a_000", "a_009")


def test_boxes_are_in_pixels_of_the_image_as_read(tmp_path):
    boxes = ["a.png,Infiltrate,512,256,100,200", "a.png,Mass,-0.5,0,1025,512"]
    source = _archive(tmp_path, _row("a.png", "Infiltration"), boxes=boxes)
    (study,) = _studies(source).values()
    assert [(region.finding, region.geometry) for region in study.regions] == [
        ("infiltration", (32.0, 16.0, 38.25, 28.5)),
        ("mass", (0.0, 0.0, 64.0, 32.0)),
    ]


@pytest.mark.parametrize("box", ["900,10,300,20", "10,10,0,20", "10,ten,5,20", "nan,10,5,20"])
def test_impossible_boxes_are_faults(tmp_path, box):
    (fault,) = _load(_archive(tmp_path, _row("a.png"), boxes=[f"a.png,Mass,{box}"]))
    assert fault.code in ("bad_box", "bad_row")
    assert "line 2" in fault.message


def test_a_box_list_that_is_not_one_stops_the_archive(tmp_path):
    source = _archive(tmp_path, _row("a.png"), boxes=["a.png,Mass,1,1,5"])
    with pytest.raises(DataError, match=r"BBox_List_2017\.csv: line 2"):
        source.units()


def test_the_official_test_list_is_the_test_split_and_validation_comes_out_of_training(tmp_path):
    rows = [_row(f"{patient:03}_{image}.png", patient=patient) for patient in range(60) for image in range(2)]
    names = [row.split(",")[0] for row in rows]
    lists = {"train_val_list.txt": names[:100], "test_list.txt": names[100:]}
    source = _archive(tmp_path, *rows, lists=lists)
    splits = {study.id: study.split for study in _studies(source).values()}
    assert {name for name, split in splits.items() if split == "test"} == {name[:-4] for name in names[100:]}
    assert 0 < Counter(splits.values())["val"] < 30
    assert all(splits[f"{patient:03}_0"] == splits[f"{patient:03}_1"] for patient in range(60))
    assert {split for split in _splits(NihSource(path=tmp_path, val_fraction=0.0)) if split != "test"} == {"train"}
    assert _splits(NihSource(path=tmp_path, salt="other")) != list(splits.values())


def _splits(source):
    return [study.split for study in _studies(source).values()]


def test_lists_that_are_half_there_or_leak_stop_the_archive(tmp_path):
    rows = [_row("a_0.png", patient=7), _row("a_1.png", patient=7, follow_up=1)]
    source = _archive(tmp_path, *rows, lists={"test_list.txt": ["a_0.png"]})
    with pytest.raises(DataError, match=r"train_val_list\.txt: missing"):
        source.units()
    (tmp_path / "train_val_list.txt").write_text("a_1.png\n")
    with pytest.raises(DataError, match="1 patients have images in both"):
        NihSource(path=tmp_path).units()
    (tmp_path / "train_val_list.txt").write_text("a_1.png\na_0.png\nb_0.png\n")
    with pytest.raises(DataError, match="an image is in both"):
        NihSource(path=tmp_path).units()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([_row("a.png", "No Finding|Mass")], "'No Finding' and a finding"),
        ([_row("a.png", "")], "no label at all"),
        ([_row("a.png", follow_up="x")], "neither a number"),
        ([_row("a.png", patient=" ")], "the patient is blank"),
        ([_row("a.png"), _row("a.png", "Edema")], "several rows"),
    ],
)
def test_rows_that_cannot_be_are_faults_of_their_image(tmp_path, rows, message):
    faults = [item for item in _load(_archive(tmp_path, *rows, _row("b.png"))) if isinstance(item, StudyFault)]
    assert {fault.code for fault in faults} == {"bad_row"}
    assert len(faults) == 1
    assert message in faults[0].message


def test_a_part_of_the_archive_is_taken_when_asked_for(tmp_path):
    source = _archive(tmp_path, _row("a.png"), _row("b.png", patient="2"))
    (tmp_path / "images" / "b.png").unlink()
    assert [item.code for item in _load(source) if isinstance(item, StudyFault)] == ["missing_image"]
    part = _load(NihSource(path=tmp_path, absent_images="leave_out"))
    assert [item.code for item in part if isinstance(item, StudyFault)] == ["excluded_absent"]


def test_an_archive_without_table_or_images_says_so(tmp_path):
    with pytest.raises(DataError, match=r"neither Data_Entry_2017_v2020\.csv nor"):
        NihSource(path=tmp_path).units()
    replica.write_table(tmp_path / "Data_Entry_2017.csv", [_row("a.png")])
    with pytest.raises(DataError, match="none of its 1 images is there"):
        NihSource(path=tmp_path).units()


@pytest.mark.real_data
def test_the_real_rows_and_images():
    """Counts are those of the data's README; labels and boxes are compared with its own manifest."""
    source = NihSource(path=real_data("native", "nih"), images=real_data("images", "nih"))
    lines = real_data("manifest.jsonl").read_text(encoding="utf-8").splitlines()
    manifest = {entry["id"][4:]: entry for entry in map(json.loads, lines) if entry["source"] == "nih-chestxray14"}
    units = source.units()
    assert len(units) == 810
    findings = Counter()
    present = Counter()
    for unit in units:
        for item in source.load(unit):
            assert not isinstance(item, StudyFault), item
            study, entry = item.study, manifest[item.study.id]
            said = {LABEL_SETS["nih14"].get(name, "no finding"): value for name, value in entry["labels"].items()}
            assert {name: certainty is Certainty.PRESENT for name, certainty in study.labels.items()} == said
            assert (study.person.age, study.person.sex, study.images[0].view) == (
                entry["age"],
                entry["sex"],
                entry["view"],
            )
            expected = sorted((b["x"], b["y"], b["x"] + b["w"], b["y"] + b["h"]) for b in entry["boxes"])
            got = sorted(region.geometry for region in study.regions)
            assert len(got) == len(expected)
            assert all(a == pytest.approx(b, abs=0.2) for a, b in zip(got, expected, strict=True))
            findings.update(region.finding for region in study.regions)
            present.update(name for name, certainty in study.labels.items() if certainty is Certainty.PRESENT)
    assert findings == {
        "atelectasis": 131, "cardiomegaly": 105, "pleural effusion": 104, "infiltration": 96, "pneumonia": 87,
        "pneumothorax": 78, "mass": 64, "nodule": 62,
    }  # fmt: skip
    assert (present["infiltration"], present["hernia"], present["no finding"]) == (239, 2, 393)


@pytest.mark.real_data
def test_every_real_row_is_accounted_for():
    table = real_data("native", "nih", "Data_Entry_2017_v2020.csv")
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    source = NihSource(path=table.parent, images=real_data("images", "nih"))
    units = source.units()
    assert sum(unit.count(",") + 1 for unit in units) == len(rows) == 1042
