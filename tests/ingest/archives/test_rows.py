from dataclasses import replace

import numpy as np
import pytest

from tests.ingest.archives.replicas.table import picture
from vlp.errors import DataError
from vlp.ingest.archives.rows import (
    Row,
    RowBox,
    column_names,
    finding_name,
    load_studies,
    places_of,
    read_named,
    rows_of,
    sex_of,
    strongest,
    studies_in,
    units_of,
    when,
    years,
)
from vlp.ingest.source import StudyFault
from vlp.ingest.tables import read_table
from vlp.records import Certainty, Person, Report

P, A, U = Certainty.PRESENT, Certainty.ABSENT, Certainty.UNCERTAIN


def _row(folder, name="a", **facts):
    path = folder / f"{name}.png"
    if not path.exists():
        picture(path, seed=len(name))
    usual = {"where": f"t.csv: {name}", "image": name, "path": path, "study": "s1", "person": Person(id="p1")}
    return Row(**usual | facts)


def _load(*studies):
    return list(load_studies(studies, source="export", license="none"))


def test_rows_of_one_study_become_one_study(tmp_path):
    (loaded,) = _load(
        [
            _row(tmp_path, view="PA", labels={"mass": A, "edema": U}, split="val", report=Report(text="Clear.")),
            _row(tmp_path, "bb", view="lateral", labels={"mass": P}, split="val", inverted=True),
        ]
    )
    study = loaded.study
    assert [(image.id, image.view, image.rows, image.columns) for image in study.images] == [
        ("a", "PA", 40, 48),
        ("bb", "lateral", 40, 48),
    ]
    assert study.labels == {"mass": P, "edema": U}
    assert (study.report, study.split, study.source, study.license) == (Report(text="Clear."), "val", "export", "none")
    assert np.array_equal(loaded.pixels[1], 255 - picture(tmp_path / "again.png", seed=2))


def test_several_lines_of_one_image_give_one_image_with_all_boxes(tmp_path):
    boxes = [RowBox(finding="mass", edges=(1.0, 2.0, 3.0, 4.0)), RowBox(finding="mass", edges=(5.0, 6.0, 48.9, 8.0))]
    (loaded,) = _load([_row(tmp_path, boxes=(box,)) for box in (*boxes, boxes[0])])
    assert len(loaded.pixels) == 1
    # the second reaches over the edge by less than a pixel, the third repeats the first
    assert [region.geometry for region in loaded.study.regions] == [(1.0, 2.0, 3.0, 4.0), (5.0, 6.0, 48.0, 8.0)]


@pytest.mark.parametrize(
    ("frame", "edges"),
    [((1.0, 1.0), (0.25, 0.5, 0.5, 1.0)), ((80.0, 96.0), (24.0, 40.0, 48.0, 80.0)), (None, (12.0, 20.0, 24.0, 40.0))],
)
def test_boxes_count_in_the_frame_they_name(tmp_path, frame, edges):
    (loaded,) = _load([_row(tmp_path, boxes=(RowBox(finding="mass", edges=edges, frame=frame),))])
    assert loaded.study.regions[0].geometry == (12.0, 20.0, 24.0, 40.0)


@pytest.mark.parametrize("edges", [(0.0, 0.0, 50.0, 5.0), (5.0, 5.0, 5.0, 9.0), (-2.0, 0.0, 5.0, 5.0)])
def test_a_box_that_cannot_be_is_a_fault(tmp_path, edges):
    (fault,) = _load([_row(tmp_path, boxes=(RowBox(finding="mass", edges=edges),))])
    assert fault.code == "bad_box"
    assert fault.message.startswith("t.csv: a: a box ")


def test_lines_that_contradict_each_other_are_a_fault(tmp_path):
    first = _row(tmp_path, split="train", report=Report(text="Clear."))
    for other, word in (
        (replace(first, person=Person(id="p2")), "patients"),
        (replace(first, split="test"), "splits"),
        (replace(first, report=Report(text="Not clear.")), "reports"),
    ):
        (fault,) = _load([first, other])
        assert (fault.code, word in fault.message, "clear" in fault.message.lower()) == ("bad_row", True, False)
    (tmp_path / "other").mkdir()
    (fault,) = _load([first, replace(first, path=_row(tmp_path / "other").path)])
    assert "two files of this study have the same name" in fault.message


def test_an_image_that_is_not_there_costs_its_study_only(tmp_path):
    gone = _row(tmp_path, "Jane-Doe", path=tmp_path / "Jane-Doe.jpg", where="t.csv: line 7", study="s2")
    fault, loaded = _load([gone], [_row(tmp_path)])
    assert (fault.code, loaded.study.id) == ("missing_image", "s1")
    assert fault.message == "t.csv: line 7: the image is not there"


def test_studies_come_in_order_and_know_the_earlier_ones(tmp_path):
    rows = [
        [_row(tmp_path, f"i{place}", study=f"s{place}", order=order)] for place, order in enumerate((3, None, 1, 3))
    ]
    assert [(loaded.study.id, loaded.study.earlier) for loaded in _load(*rows)] == [
        ("s2", ()),
        ("s0", ("s2",)),
        ("s3", ("s2",)),
        ("s1", ()),
    ]


def test_a_bad_row_spoils_its_whole_study(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("study,image\ns1,a\ns2,b\ns1,bad\n")

    def read(row, where):
        if row["image"] == "bad":
            raise DataError("it is bad")
        return _row(tmp_path, row["image"], study=row["study"], where=where)

    table = read_table(path, columns=("study", "image"))
    fault, rows = studies_in(table, [0, 1, 2], study=lambda row: row["study"], read=read)
    assert fault == StudyFault(code="bad_row", message=f"{path}: line 4: it is bad")
    assert [row.study for row in rows] == ["s2"]


def test_the_strongest_label_wins_whatever_the_order():
    assert strongest([{"mass": P}, {"mass": A}, {"edema": A}, {"edema": U}, {}]) == {"mass": P, "edema": U}


def test_names_are_canonical_or_the_archives_own():
    assert [finding_name(name) for name in ("Effusion", " Goitre \n left")] == ["pleural effusion", "goitre left"]


@pytest.mark.parametrize(
    ("text", "age"),
    [("63", 63.0), ("063Y", 63.0), ("63.0", 63.0), ("008M", 8 / 12), ("8 months", 8 / 12), ("014D", 14 / 365.25),
     ("026W", 26 * 7 / 365.25), ("411", None), ("", None), ("-3", None), ("old", None), ("nan", None)],
)  # fmt: skip
def test_ages(text, age):
    assert years(text) == (None if age is None else pytest.approx(age))


def test_sexes():
    assert [sex_of(text) for text in ("f", "Female", " M ", "male", "Unknown", "O", "")] == ["F", "F", "M", "M"] + [
        None
    ] * 3


def test_times_grow():
    assert when("2015-06-22") == when("20150622") == when("2015-06-22 10:30:00") == 20150622.0
    assert when("2015-06-22") < when("2015-10-01")
    assert when(" ") is None
    for text in ("22/06/2015", "June", "inf", "nan"):
        with pytest.raises(DataError, match="neither a number nor a date"):
            when(text)


def test_units_name_rows_and_nothing_else(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("patient\nJane\nJoe\nJane\n")
    table = read_table(path, columns=("patient",))
    units = units_of(table.groups("patient"))
    assert units == ["0,2", "1"]
    assert [rows_of(unit, table) for unit in units] == [[0, 2], [1]]
    for unit in ("", "3", "0,", "a", "-1", "0;1"):
        with pytest.raises(DataError, match="not a unit"):
            rows_of(unit, table)
    assert places_of("4", 5, where=path) == [4]


@pytest.mark.parametrize(
    ("name", "content"),
    [("t.csv", "File,Report text\na,b\n"), ("t.tsv", "File\tReport text\na\tb\n"),
     ("t.jsonl", '{"File": "a", "Report text": "b"}\n')],
)  # fmt: skip
def test_a_missing_column_is_explained(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content)
    assert column_names(path) == ["File", "Report text"]
    assert read_named(path, {"columns.image": "File"}).rows[0] == {"File": "a"}
    with pytest.raises(DataError) as error:
        read_named(path, {"columns.image": "File", "columns.report": "report_text"})
    assert str(error.value) == (
        f"{path}: columns.report: there is no column 'report_text'; did you mean 'Report text'? "
        "The table has: 'File', 'Report text'"
    )


def test_a_long_table_is_not_listed_whole(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(",".join(f"c{place}" for place in range(20)) + "\n")
    with pytest.raises(DataError, match=r"'c7' and 12 more$"):
        read_named(path, {"columns.image": "zzz"})
