import csv
import json

import pytest

from tests.ingest.archives.replicas import hannover as replica
from tests.ingest.real_data import real_data
from vlp.errors import DataError
from vlp.ingest.archives.hannover import HannoverSource
from vlp.ingest.source import StudyFault
from vlp.records import Certainty


def _studies(source):
    items = [item for unit in source.units() for item in source.load(unit)]
    return {item.study.id: item.study for item in items if not isinstance(item, StudyFault)}


def test_days_since_admission_put_images_in_order(tmp_path):
    replica.build(tmp_path)
    studies = _studies(HannoverSource(path=tmp_path))
    # Admitted seven days before the one image and on the day of the other.
    assert studies["fff13f3a"].earlier == ("0578e08b",)
    assert studies["0578e08b"].earlier == ()
    assert [studies[name].images[0].view for name in ("fff13f3a", "0578e08b")] == ["AP", "PA"]


def test_persons_and_their_disease(tmp_path):
    replica.build(tmp_path)
    study = _studies(HannoverSource(path=tmp_path))["b343e657"]
    assert (study.person.id, study.person.age, study.person.sex) == ("042f06a9", 71.0, "M")
    assert dict(study.person.groups) == {"diagnosis": "COVID-19"}
    assert (study.labels, study.license) == ({}, "CC BY 3.0")
    other = _studies(HannoverSource(path=tmp_path, cohort_means="uncertain pneumonia"))["b343e657"]
    assert other.labels == {"pneumonia": Certainty.UNCERTAIN}


def test_other_modalities_are_taken_when_asked_for(tmp_path):
    replica.build(tmp_path)
    assert "006f3a8a" in _studies(HannoverSource(path=tmp_path, modalities=("CT", "CR")))


def test_an_archive_without_table_or_images_says_so(tmp_path):
    with pytest.raises(DataError, match=r"data\.csv"):
        HannoverSource(path=tmp_path).units()
    replica.build(tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="none of its images"):
        HannoverSource(path=tmp_path, images=tmp_path / "none").units()


@pytest.mark.real_data
def test_the_real_rows_and_images():
    table = real_data("native", "mhh", "data.csv")
    source = HannoverSource(path=table.parent, images=real_data("images", "mhh"))
    studies = _studies(source)
    lines = map(json.loads, real_data("manifest.jsonl").read_text(encoding="utf-8").splitlines())
    manifest = {entry["id"].removeprefix("mhh-"): entry for entry in lines if entry["source"] == "mhh-covid19"}
    assert len(studies) == len(manifest) == 90
    assert len({study.person.id for study in studies.values()}) == 50
    for name, study in studies.items():
        entry = manifest[name]
        assert (study.images[0].view, study.person.sex) == (entry["view"], entry["sex"])
        earlier = {
            other
            for other, each in manifest.items()
            if each["patient_id"] == entry["patient_id"] and each["study_order"] < entry["study_order"]
        }
        assert set(study.earlier) == earlier
    with table.open(newline="") as file:
        assert set(replica.HEADER.split(",")) <= set(next(csv.reader(file)))
