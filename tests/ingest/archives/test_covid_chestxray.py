import csv
import gzip
import json
from collections import Counter

import pytest

from tests.ingest.archives.replicas import covid_chestxray as replica
from tests.ingest.real_data import real_data
from vlp.errors import DataError
from vlp.ingest.archives.covid_chestxray import CovidChestXraySource, diagnoses
from vlp.ingest.source import StudyFault
from vlp.records import Certainty


def _load(source):
    return [item for unit in source.units() for item in source.load(unit)]


def _studies(source):
    return {item.study.id: item.study for item in _load(source) if not isinstance(item, StudyFault)}


@pytest.mark.parametrize(
    ("cell", "names"),
    [
        ("COVID-19, ARDS", ("COVID-19", "ARDS")),
        ("Pneumonia/Viral/COVID-19", ("Pneumonia", "Viral", "COVID-19")),
        ("todo", ()),
        ("", ()),
        ("Unknown", ()),
    ],
)
def test_both_ways_to_name_a_diagnosis(cell, names):
    assert diagnoses(cell) == names


def test_a_case_is_a_person_with_images_by_day(tmp_path):
    replica.build(tmp_path)
    studies = _studies(CovidChestXraySource(path=tmp_path))
    later = studies["jkms-35-e79-g001.jpg"]
    assert later.earlier == ("jkms-35-e79-g000.jpg",)
    assert (later.person.id, later.person.age, later.person.sex) == ("p417", 54.0, "M")
    assert dict(later.person.groups) == {"diagnosis": "COVID-19, ARDS"}
    assert later.report.text == 'Opacity of the right lung,\n"per Brackwater".'
    assert [study.images[0].view for study in studies.values()] == ["AP", "PA", "lateral", "PA"]


def test_only_findings_become_labels(tmp_path):
    replica.build(tmp_path)
    studies = _studies(CovidChestXraySource(path=tmp_path))
    assert studies["1-s2.0-main.pdf-001.png"].labels == {"pneumonia": Certainty.PRESENT}
    assert studies["jkms-35-e79-g001.jpg"].labels == {}
    assert dict(studies["todo.png"].person.groups) == {}


def test_every_image_has_its_own_licence(tmp_path):
    replica.build(tmp_path)
    studies = _studies(CovidChestXraySource(path=tmp_path))
    assert [study.license for study in studies.values()] == [
        "CC BY-NC-SA 4.0", "CC BY-SA", "CC BY-NC-ND 4.0", "CC BY-NC-SA 4.0",
    ]  # fmt: skip
    free = CovidChestXraySource(path=tmp_path, licenses_excluded=("nc",))
    assert list(_studies(free)) == ["jkms-35-e79-g001.jpg"]
    codes = Counter(item.code for item in _load(free) if isinstance(item, StudyFault))
    assert codes == {"excluded_license": 6, "excluded_modality": 1}


def test_notes_can_be_left_out(tmp_path):
    replica.build(tmp_path)
    source = CovidChestXraySource(path=tmp_path, notes="leave_out")
    assert not any(study.report for study in _studies(source).values())


def test_no_table_no_archive(tmp_path):
    with pytest.raises(DataError, match=r"metadata\.csv"):
        CovidChestXraySource(path=tmp_path).units()


@pytest.mark.real_data
def test_the_real_rows_and_images(tmp_path):
    """The images have other names here; links give them back the names the rows know."""
    with real_data("native", "covid", "filename_map.csv").open(newline="") as file:
        names = {row["original_filename"]: row["id"].removeprefix("covid-") for row in csv.DictReader(file)}
    images = real_data("images", "covid")
    for name, number in names.items():
        (tmp_path / name).symlink_to(images / f"{number}.jpg")
    source = CovidChestXraySource(path=real_data("native", "covid"), images=tmp_path)
    items = _load(source)
    studies = [item.study for item in items if not isinstance(item, StudyFault)]
    with gzip.open(real_data("native", "covid", "metadata.csv.gz"), "rt", encoding="utf-8", newline="") as file:
        rows = {row["filename"]: row for row in csv.DictReader(file)}
    assert len(items) == len(rows) == 195
    assert len(source.units()) == len({row["patientid"] for row in rows.values()}) == 96
    assert [item for item in items if isinstance(item, StudyFault)] == []
    assert Counter(study.license for study in studies) == Counter(row["license"].strip() for row in rows.values())
    assert Counter(study.images[0].view for study in studies) == {"PA": 91, "AP": 51, "lateral": 32, "other": 21}
    lines = map(json.loads, real_data("manifest.jsonl").read_text(encoding="utf-8").splitlines())
    manifest = {entry["id"].removeprefix("covid-"): entry for entry in lines if entry["source"] == "covid-chestxray"}
    for study in studies:
        entry = manifest[names[study.id]]
        assert (study.person.sex, study.person.age) == (entry["sex"], entry["age"])
        assert study.report.text == entry["text"].strip()
