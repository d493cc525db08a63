from dataclasses import replace

import pytest

from tests.ingest.annotations.replicas import google_nih as replica
from vlp.errors import DataError
from vlp.ingest.annotations.google_nih import GROUP, GoogleNihAnnotation
from vlp.records import Certainty

PRESENT, ABSENT, UNCERTAIN = Certainty.PRESENT, Certainty.ABSENT, Certainty.UNCERTAIN


def _four(folder, *rows, **settings):
    path = folder / "labels.csv"
    path.write_text("\n".join((replica.FOUR_HEADER, *rows)) + "\n")
    return GoogleNihAnnotation(paths=(path,), **settings)


def _labels(annotation, labels=replica.MINED):
    return annotation.apply(replace(replica.study("a"), labels=labels)).labels


def test_a_radiologist_overrules_the_miner(tmp_path):
    labels = _labels(_four(tmp_path, "a.png,1,YES,NO,NO,NO"), {"fracture": ABSENT, "pneumothorax": PRESENT})
    assert (labels["fracture"], labels["pneumothorax"]) == (PRESENT, ABSENT)


def test_a_hedge_is_uncertain_and_a_blank_says_nothing(tmp_path):
    labels = _labels(_four(tmp_path, "a.png,1,,HEDGE,,"), {})
    assert labels == {"pneumothorax": UNCERTAIN}
    assert _labels(_four(tmp_path, "a.png,1,,,,"), {"edema": PRESENT}) == {"edema": PRESENT}


def test_a_nodule_or_mass_leaves_open_which(tmp_path):
    labels = _labels(_four(tmp_path, "a.png,1,NO,NO,NO,YES"), {"nodule": ABSENT, "mass": PRESENT})
    assert labels["lung lesion"] is PRESENT
    assert labels["mass"] is PRESENT
    assert "nodule" not in labels


def test_a_finding_rules_no_finding_out(tmp_path):
    assert _labels(_four(tmp_path, "a.png,1,YES,NO,NO,NO"), {"no finding": PRESENT})["no finding"] is ABSENT
    assert _labels(_four(tmp_path, "a.png,1,NO,NO,NO,NO"), {"no finding": PRESENT})["no finding"] is PRESENT


def test_what_was_only_mined_can_be_dropped(tmp_path):
    labels = _labels(_four(tmp_path, "a.png,1,NO,NO,NO,NO", unread="drop"))
    assert "edema" not in labels
    assert set(labels) == {"fracture", "pneumothorax", "lung opacity", "lung lesion", "nodule", "mass"}


def test_who_was_read_can_be_told_from_who_was_not(tmp_path):
    annotation = _four(tmp_path, "a.png,1,NO,NO,NO,NO")
    assert annotation.apply(replica.study("a")).person.groups[GROUP] == "yes"
    other = replica.study("b")
    assert annotation.apply(other) is other


def test_abnormal_is_the_contrary_of_no_finding(tmp_path):
    path = tmp_path / "all.csv"
    cells = ",".join(["NO"] * 15)
    path.write_text(f"{replica.ALL_HEADER}\na.png,1,YES,{cells}\nb.png,1,NO,{cells}\nc.png,1,HEDGE,{cells}\n")
    annotation = GoogleNihAnnotation(paths=(path,))
    said = [annotation.apply(replica.study(name)).labels["no finding"] for name in "abc"]
    assert said == [ABSENT, PRESENT, UNCERTAIN]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f"{replica.FOUR_HEADER}\na.png,1,NO,NO,NO,NO\na.png,1,YES,NO,NO,NO\n", "line 3: an image has several rows"),
        (f"{replica.FOUR_HEADER}\na.png,1,NO,NO,NO,1\n", "line 2: 'Nodule or mass' is neither"),
        ("Image,Fracture\na.png,NO\n", "column 'Image Index' is missing"),
        ("Image Index,Nodule or mass\na.png,NO\n", "column 'Fracture' is missing"),
        ("Image ID,Atelectasis\na.png,NO\n", "column 'Cardiomegaly' is missing"),
    ],
)
def test_other_tables_are_refused(tmp_path, content, message):
    path = tmp_path / "labels.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        GoogleNihAnnotation(paths=(path,)).apply(replica.study("a"))
