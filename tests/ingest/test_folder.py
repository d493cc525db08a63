import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlp.errors import DataError
from vlp.ingest.folder import FolderSource
from vlp.ingest.source import StudyFault
from vlp.records import Certainty, LoadedStudy, Mask

SHARED = "VLP_SHARED_DATA"


def _archive(folder: Path, *rows: dict | str) -> FolderSource:
    lines = []
    for row in rows:
        if isinstance(row, dict):
            row = {"study_id": "s1", "patient_id": "p1", "file": "images/a.png"} | row
            outside = ".." in row["file"] or Path(row["file"]).is_absolute()
            path = folder / row["file"]
            if not row.pop("absent", False) and not outside and not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = np.random.default_rng(len(lines)).integers(0, 256, (40, 50), dtype=np.uint8)
                Image.fromarray(pixels).save(path, format="PNG")
            row = json.dumps(row)
        lines.append(row)
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return FolderSource(path=folder)


def _load(source: FolderSource) -> list[LoadedStudy | StudyFault]:
    return [item for unit in source.units() for item in source.load(unit)]


def test_rows_of_a_study_become_one_study(tmp_path):
    source = _archive(
        tmp_path,
        {"id": "i1", "view": "AP Supine", "sex": "F", "age": 61, "source": "nih", "license": "CC0", "split": "val",
         "labels": {"Effusion": 1, "Pleural_Thickening": 0, "Mass": -1, "COVID-19": 1},
         "boxes": [{"label": "Effusion", "x": 10, "y": 20, "w": 5.5, "h": 30}]},
        {"id": "i2", "view": "L", "file": "images/b.png"},
        {"id": "i3", "study_id": "s2", "file": "images/c.png"},
    )  # fmt: skip
    first, second = _load(source)
    study = first.study
    assert [(image.id, image.view, image.rows, image.columns) for image in study.images] == [
        ("i1", "AP", 40, 50),
        ("i2", "lateral", 40, 50),
    ]
    assert len(first.pixels) == 2
    assert study.labels == {
        "pleural effusion": Certainty.PRESENT,
        "pleural thickening": Certainty.ABSENT,
        "mass": Certainty.UNCERTAIN,
    }
    assert dict(study.person.groups) == {"source": "nih", "diagnosis": "COVID-19"}
    assert (study.person.id, study.person.sex, study.person.age) == ("p1", "F", 61.0)
    assert (study.split, study.license, study.source, study.report) == ("val", "CC0", "nih", None)
    # the box reaches below the image and is cut there
    assert [(region.finding, region.image, region.geometry) for region in study.regions] == [
        ("pleural effusion", "i1", (10.0, 20.0, 15.5, 40.0))
    ]
    assert second.study.id == "s2"


@pytest.mark.parametrize(
    ("facts", "view"),
    [
        ({"view": "PA"}, "PA"),
        ({"view": "frontal", "frontal": True}, "PA"),
        ({"view": None, "frontal": True}, "PA"),
        ({"view": None, "frontal": False}, "other"),
        ({}, "other"),
    ],
)
def test_views(tmp_path, facts, view):
    assert _load(_archive(tmp_path, facts))[0].study.images[0].view == view


def test_what_an_unstated_frontal_counts_as_is_a_setting(tmp_path):
    _archive(tmp_path, {"frontal": True})
    assert _load(FolderSource(path=tmp_path, unstated_frontal="other"))[0].study.images[0].view == "other"


def test_reports_keep_their_sections_or_stay_as_they_are(tmp_path):
    source = _archive(
        tmp_path,
        {"findings": "Clear lungs.", "impression": "Normal.", "indication": None, "text": "Clear lungs. Normal."},
        {"study_id": "s2", "file": "images/b.png", "text": "  Free text\n"},
        {"study_id": "s3", "file": "images/c.png", "text": "  "},
    )
    texts = [item.study.report and item.study.report.text for item in _load(source)]
    assert texts == ["FINDINGS: Clear lungs.\nIMPRESSION: Normal.", "  Free text\n", None]


def test_studies_come_oldest_first_and_know_the_earlier_ones(tmp_path):
    rows = [{"study_id": f"s{order}", "file": f"images/{order}.png", "study_order": order} for order in (2, 0, 1)]
    source = _archive(tmp_path, *rows, {"study_id": "s?", "file": "images/x.png"})
    assert [(item.study.id, item.study.earlier) for item in _load(source)] == [
        ("s0", ()),
        ("s1", ("s0",)),
        ("s2", ("s0", "s1")),
        ("s?", ()),
    ]


def test_lung_masks_become_regions(tmp_path):
    lungs = np.zeros((40, 50), dtype=bool)
    lungs[5:20, 10:30] = True
    Image.fromarray(lungs).save(tmp_path / "lungs.png")
    region = _load(_archive(tmp_path, {"mask": "lungs.png"}))[0].study.regions[0]
    assert region.finding == "lungs"
    assert isinstance(region.geometry, Mask)
    assert np.array_equal(region.geometry.decode(), lungs)


def test_a_damaged_study_leaves_the_others_of_the_patient_alone(tmp_path):
    source = _archive(
        tmp_path,
        {},
        {"study_id": "s2", "file": "images/missing-Jane-Doe.png", "absent": True},
        {"study_id": "s3", "file": "images/c.png", "labels": {"Mass": 2}},
        {"study_id": "s4", "file": "images/d.png"},
    )
    items = _load(source)
    assert [item.study.id for item in items if isinstance(item, LoadedStudy)] == ["s1", "s4"]
    faults = {fault.code: fault.message for fault in items if isinstance(fault, StudyFault)}
    assert "line 2: cannot be read: No such file" in faults["unreadable_image"]
    assert "line 3: labels.Mass" in faults["bad_line"]
    assert "Jane" not in str(faults)


@pytest.mark.parametrize("file", ["../secret.png", "images/../../secret.png", "/etc/passwd", "..\\secret.png"])
def test_names_that_lead_out_are_refused(tmp_path, file):
    inside = tmp_path / "archive"
    inside.mkdir()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "secret.png")
    (fault,) = _load(_archive(inside, {"file": file}))
    assert "leads out of the archive" in fault.message
    (fault,) = _load(_archive(inside, {"mask": file}))
    assert "leads out of the archive" in fault.message


@pytest.mark.parametrize(
    "box",
    [
        {"label": "Mass", "x": 60, "y": 0, "w": 5, "h": 5},
        {"label": "Mass", "x": 1, "y": 1, "w": -3, "h": 5},
        {"label": "Mass", "x": float("nan"), "y": 0, "w": 5, "h": 5},
    ],
)
def test_impossible_boxes_are_faults(tmp_path, box):
    (fault,) = _load(_archive(tmp_path, {"boxes": [box]}))
    assert isinstance(fault, StudyFault)


@pytest.mark.parametrize(
    "line", ["{", "[]", "7", '{"file": "a.png", "study_id": 12, "patient_id": "p"}', '{"a": "\\ud800"}']
)
def test_broken_lines_are_faults_with_their_number(tmp_path, line):
    items = _load(_archive(tmp_path, {}, "", line))
    assert isinstance(items[0], LoadedStudy)
    assert items[1].code == "bad_line"
    assert "line 3" in items[1].message
    assert ("not a JSON object" in items[1].message) == (line in {"{", "[]", "7"})


def test_a_name_with_a_null_character_is_a_fault(tmp_path):
    (fault,) = _load(_archive(tmp_path, {"file": "a\0.png", "absent": True}))
    assert "null character" in fault.message


def test_filters(tmp_path):
    rows = [
        {"source": "a", "license": "CC BY-NC-SA 4.0", "file": "1.png", "study_id": "1"},
        {"source": "a", "license": "CC BY 4.0", "file": "2.png", "study_id": "2"},
        {"source": "b", "license": "Princeton, no conditions", "file": "3.png", "study_id": "3"},
    ]
    _archive(tmp_path, *rows)

    def ids(**settings):
        return [item.study.id for item in _load(FolderSource(path=tmp_path, **settings))]

    assert ids(licenses_excluded=("nc",)) == ["2", "3"]
    assert ids(sources=("a",)) == ["1", "2"]
    with pytest.raises(DataError, match="no image to use"):
        ids(sources=("c",))


def test_missing_and_empty_archives(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        FolderSource(path=tmp_path).units()
    (tmp_path / "manifest.jsonl").write_text("\n\n")
    with pytest.raises(DataError, match="no image to use"):
        FolderSource(path=tmp_path).units()


def test_the_fingerprint_follows_the_manifest(tmp_path):
    before = _archive(tmp_path, {}).fingerprint()
    assert _archive(tmp_path, {}).fingerprint() == before
    assert _archive(tmp_path, {"age": 7}).fingerprint() != before


@pytest.mark.real_data
def test_the_real_sample_is_whole():
    import os

    folder = Path(os.environ.get(SHARED, "../shared/data"))
    if not (folder / "manifest.jsonl").is_file():
        pytest.skip(f"no real radiographs at {folder}; name their folder with {SHARED}")
    source = FolderSource(path=folder, sources=("iu-xray", "mhh-covid19"))
    items = _load(source)
    assert not [item for item in items if isinstance(item, StudyFault)]
    assert sum(len(item.pixels) for item in items) == 101
    assert Counter(len(item.pixels) for item in items) == {1: 91, 2: 5}
    assert sum(region.kind == "mask" for item in items for region in item.study.regions) == 7
    assert sum(item.study.report is not None for item in items) == 6
