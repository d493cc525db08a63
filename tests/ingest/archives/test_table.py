import gzip
import json

import numpy as np
import pandas as pd
import pytest

from tests.ingest.archives.replicas.table import build, picture
from tests.ingest.real_data import real_data
from vlp.config import validate
from vlp.errors import ConfigError, DataError
from vlp.ingest.archives.table import Boxes, Columns, Labels, TableSource
from vlp.ingest.source import StudyFault
from vlp.records import Certainty

P, A, U = Certainty.PRESENT, Certainty.ABSENT, Certainty.UNCERTAIN


def _load(source):
    return [item for unit in source.units() for item in source.load(unit)]


def _studies(source):
    return {item.study.id: item.study for item in _load(source) if not isinstance(item, StudyFault)}


def _replica(folder, **changes):
    return validate(TableSource, {**build(folder).source, **changes}, where="test")


def _table(folder, *lines, **facts):
    """A small export; every image it names is there."""
    path = folder / "t.csv"
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")
    for seed, line in enumerate(lines[1:]):
        name = line.split(",")[0]
        if name and not facts.get("ending") and not (folder / name).exists():
            picture(folder / name, seed=seed)
    columns = {"image": "image", "patient": "patient"} | facts.pop("columns", {})
    return TableSource(table=path, columns=Columns(**columns), **facts)


def test_an_export_becomes_studies(tmp_path):
    studies = _studies(_replica(tmp_path))
    study = studies["A2"]
    assert [(image.id, image.view) for image in study.images] == [("a2/front", "PA"), ("a2/side", "lateral")]
    assert study.report.text == 'Small left effusion, new.\n"Zebrafish"'
    assert study.labels == {"pneumothorax": P, "pleural effusion": U}
    assert (study.person.id, study.person.age, study.person.sex) == ("MRN-0071", 63.0, "F")
    assert dict(study.person.groups) == {"scanner": "X1"}
    assert (study.split, study.license, study.source, study.earlier) == ("train", "internal", "export", ("A1",))
    assert [(region.finding, region.image, region.geometry) for region in study.regions] == [
        ("pleural effusion", "a2/front", (24.0, 10.0, 36.0, 30.0))
    ]
    assert studies["A1"].images[0].view == "PA"  # written "pa"
    other = studies["B1"]
    assert other.labels == {"pneumothorax": U, "pleural effusion": A, "mass": P}
    assert (other.images[0].view, other.person.age, other.person.sex) == ("AP", 0.5, "M")
    assert [region.finding for region in other.regions] == ["goitre"]
    assert (studies["B2"].images[0].view, studies["B2"].regions, dict(studies["B2"].labels)) == ("other", (), {})


def test_faults_name_the_line_and_what_is_wrong(tmp_path):
    faults = {item.code: item.message for item in _load(_replica(tmp_path)) if isinstance(item, StudyFault)}
    table = tmp_path / "export.csv"
    assert faults["missing_image"] == f"{table}: line 8: the image is not there"
    assert faults["bad_box"] == f"{table}: line 12: a box lies outside its image"
    assert faults["bad_row"] == f"{table}: line 13: the cell of the patient or of the study is blank"


def test_what_is_left_out_or_unknown_is_told_once(tmp_path, caplog):
    caplog.set_level("INFO", logger="vlp")
    _replica(tmp_path).units()
    text = caplog.text
    assert "1 of 11 lines left out by `only`" in text
    assert "labels outside the vocabulary are not kept: Goitre (2)" in text
    assert "views that `views` does not know count as other: 1 others" in text
    assert "1 boxes name an image that" in text


def test_the_missing_column_and_what_is_there_instead(tmp_path):
    source = _table(tmp_path, "image,patient,reports", "a.png,p1,Clear.", columns={"report": "Report"})
    with pytest.raises(DataError) as error:
        source.units()
    assert str(error.value) == (
        f"{tmp_path / 't.csv'}: columns.report: there is no column 'Report'; did you mean 'reports'? "
        "The table has: 'image', 'patient', 'reports'"
    )


@pytest.mark.parametrize(
    ("key", "facts"),
    [
        ("labels.columns.PTX", {"labels": Labels(columns={"PTX": "pneumothorax"})}),
        ("labels.names", {"labels": Labels(names="findings")}),
        ("only.Modality", {"only": {"Modality": ("DX",)}}),
        ("columns.groups.site", {"columns": {"groups": {"site": "Site"}}}),
        ("columns.sections.findings", {"columns": {"sections": {"findings": "Findings"}}}),
        ("boxes.edges.2", {"boxes": Boxes(edges=("image", "patient", "w", "h"), always="mass")}),
    ],
)
def test_every_column_of_the_configuration_is_asked_for(tmp_path, key, facts):
    with pytest.raises(DataError, match=key.replace(".", r"\.") + ": there is no column"):
        _table(tmp_path, "image,patient", "a.png,p1", **facts).units()


def test_csv_jsonl_and_parquet_say_the_same(tmp_path):
    rows = [
        {"image": "a.png", "patient": "007", "age": 61, "findings": ["Effusion", "Goitre"], "Mass": 0, "split": "dev"},
        {"image": "b.png", "patient": "007", "age": None, "findings": [], "Mass": 1, "split": "dev"},
    ]
    for seed, row in enumerate(rows):
        picture(tmp_path / str(row["image"]), seed=seed)
    csv = [{**row, "findings": json.dumps(row["findings"])} for row in rows]
    pd.DataFrame(csv).to_csv(tmp_path / "t.csv", index=False)
    (tmp_path / "t.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    pd.DataFrame(rows).to_parquet(tmp_path / "t.parquet")
    said = []
    for name in ("t.csv", "t.jsonl.gz", "t.parquet"):
        source = TableSource(
            table=tmp_path / name,
            columns=Columns(image="image", patient="patient", age="age", split="split"),
            labels=Labels(names="findings", columns={"Mass": "mass"}),
            title="export",
        )
        said.append(_studies(source))
    assert said[0] == said[1] == said[2]
    assert said[0]["a"].labels == {"pleural effusion": P, "mass": A}
    assert (said[0]["a"].person.id, said[0]["a"].person.age, said[0]["a"].split) == ("007", 61.0, "val")
    assert said[0]["b"].labels == {"mass": P}


def test_sections_become_one_report(tmp_path):
    source = _table(
        tmp_path,
        "image,patient,f,i",
        "a.png,p1,Clear lungs.,Normal.",
        "b.png,p2,,Normal.",
        "c.png,p3,,",
        columns={"sections": {"findings": "f", "impression": "i"}},
        language="de",
    )
    reports = [study.report for study in _studies(source).values()]
    assert [report and report.text for report in reports] == [
        "FINDINGS: Clear lungs.\nIMPRESSION: Normal.", "IMPRESSION: Normal.", None,
    ]  # fmt: skip
    assert reports[0].language == "de"


def test_boxes_in_the_main_table_are_lines_of_their_image(tmp_path):
    source = _table(
        tmp_path,
        "image,patient,x,y,w,h,Target",
        "a.png,p1,0,0,512,256,1",
        "a.png,p1,512,512,512,512,1",
        "b.png,p2,,,,,0",
        "c.png,p3,1,2,,,1",
        labels=Labels(columns={"Target": "pneumonia"}),
        boxes=Boxes(edges=("x", "y", "w", "h"), form="size", drawn_on=(1024, 1024), always="pneumonia"),
    )
    first, second, fault = _load(source)
    assert [region.geometry for region in first.study.regions] == [(0.0, 0.0, 24.0, 10.0), (24.0, 20.0, 48.0, 40.0)]
    assert (first.study.labels, second.study.labels) == ({"pneumonia": P}, {"pneumonia": A})
    assert second.study.regions == ()
    assert (fault.code, fault.message) == ("bad_row", f"{tmp_path / 't.csv'}: line 5: a box is not four numbers")


def test_a_patient_is_in_one_split_and_every_split_is_known(tmp_path):
    lines = ["image,patient,fold", "a.png,p1,train", "b.png,p1,test", "c.png,p2,fold3", "d.png,p3,fold3"]
    with pytest.raises(DataError, match=r"splits that `splits` does not know: 'fold3'; map them"):
        _table(tmp_path, *lines, columns={"split": "fold"}).units()
    with pytest.raises(DataError, match="1 patients are in several splits of column 'fold'"):
        _table(tmp_path, *lines, columns={"split": "fold"}, splits={"fold3": "val"}).units()
    assert {study.split for study in _studies(_table(tmp_path, *lines)).values()} == {None}


def test_a_value_seen_once_is_not_repeated(tmp_path):
    """A wrongly mapped column may hold names."""
    with pytest.raises(DataError) as error:
        _table(tmp_path, "image,patient,name", "a.png,p1,Jane Doe", columns={"split": "name"}).units()
    assert "Jane" not in str(error.value)
    assert "does not know: 1 others" in str(error.value)


def test_without_patients_every_study_is_a_person(tmp_path):
    source = _table(tmp_path, "image,exam", "a.png,1", "b.png,1", "c.png,2", columns={"patient": None, "study": "exam"})
    assert {id_: (study.person.id, len(study.images)) for id_, study in _studies(source).items()} == {
        "1": ("1", 2),
        "2": ("2", 1),
    }


def test_the_ending_of_the_files_may_be_another(tmp_path):
    source = _table(tmp_path, "image,patient", "one,p1", "1.2.840.5.dcm,p2", ending=".png")
    for name in ("one", "1.2.840.5"):
        picture(tmp_path / f"{name}.png")
    assert sorted(_studies(source)) == ["1.2.840.5", "one"]


@pytest.mark.parametrize(
    ("cell", "values", "said"),
    [("1", {}, P), ("0.0", {}, A), ("-1", {}, U), ("Yes", {}, P), ("", {}, None), ("n/a", {"N/A": "unmentioned"}, None),
     ("1", {"1": "absent"}, A)],
)  # fmt: skip
def test_what_cells_say(cell, values, said):
    labels = Labels(columns={"PTX": "ptx"}, values=values).read({"PTX": cell})
    assert labels == ({} if said is None else {"pneumothorax": said})


def test_an_unexplained_cell_is_a_fault_that_does_not_repeat_it():
    with pytest.raises(DataError, match=r"^column 'PTX' holds a value that labels.values does not explain$"):
        Labels(columns={"PTX": "ptx"}).read({"PTX": "Jane"})
    with pytest.raises(DataError, match="not a list in JSON"):
        Labels(names="all").read({"all": "[Jane"})


def test_configurations_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match=r"no finding 'pnuemothorax'; did you mean 'pneumothorax'\?"):
        validate(Labels, {"columns": {"PTX": "pnuemothorax"}}, where="c.yaml")
    for names in ({}, {"finding": "What", "always": "mass"}):
        with pytest.raises(ConfigError, match="either `finding`"):
            validate(Boxes, {"edges": ["a", "b", "c", "d"], **names}, where="c.yaml")


def test_nothing_to_read_says_so(tmp_path):
    with pytest.raises(DataError, match="no line to use"):
        _table(tmp_path, "image,patient").units()
    with pytest.raises(DataError, match="not a unit"):
        list(_table(tmp_path, "image,patient", "a.png,p1").load("7"))


@pytest.mark.real_data
def test_real_rows_of_two_archives():
    data = real_data()
    hannover = TableSource(
        table=data / "native/mhh/data.csv",
        images=data / "images/mhh",
        ending=".jpg",
        columns=Columns(
            image="image_id", patient="patient_id", view="projection", age="age", sex="sex", order="admission_offset"
        ),
    )
    items = _load(hannover)
    studies = [item.study for item in items if not isinstance(item, StudyFault)]
    assert len(studies) == len(list((data / "images/mhh").glob("*.jpg")))
    assert {item.code for item in items if isinstance(item, StudyFault)} <= {"missing_image"}
    assert {image.view for study in studies for image in study.images} <= {"PA", "AP", "other"}
    assert any(study.earlier for study in studies)
    nih = TableSource(
        table=data / "native/nih/Data_Entry_2017_v2020.csv",
        images=data / "images/nih",
        ending=".jpg",
        columns=Columns(image="Image Index", patient="Patient ID", view="View Position", age="Patient Age",
                        sex="Patient Gender", order="Follow-up #"),
        labels=Labels(names="Finding Labels"),
        boxes=Boxes(table=data / "native/nih/BBox_List_2017.csv", image="Image Index", finding="Finding Label",
                    edges=("Bbox [x", "y", "w", "h]"), form="size", drawn_on=(1024, 1024)),
    )  # fmt: skip
    units = nih.units()
    loaded = [item for unit in units[::20] for item in nih.load(unit)]
    manifest = {
        entry["id"]: entry
        for entry in map(json.loads, (data / "manifest.jsonl").read_text(encoding="utf-8").splitlines())
    }
    assert len(loaded) > 30
    for item in loaded:
        entry = manifest[f"nih-{item.study.id}"]
        assert len(item.study.regions) == len(entry["boxes"])
        for region, box in zip(item.study.regions, entry["boxes"], strict=True):
            edges = (box["x"], box["y"], box["x"] + box["w"], box["y"] + box["h"])
            assert np.allclose(region.geometry, edges, atol=0.6)
        present = {name for name, value in entry["labels"].items() if value}
        assert len(item.study.labels) == len(present)
