import pytest

from vlp.ingest.privacy.institutions import find_institutions
from vlp.ingest.privacy.phi import merged


def _found(text: str) -> list[str]:
    return [text[hit.start : hit.end] for hit in merged(find_institutions(text))]


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("CT from Mercy General Hospital, 2 views", ["Mercy General Hospital"]),
        ("The Mayo Clinic classification", ["Mayo Clinic"]),
        ("at St. Brendan's Medical Center overnight", ["St. Brendan's Medical Center"]),
        ("WESTBROOK MEMORIAL HOSPITAL RADIOLOGY", ["WESTBROOK MEMORIAL HOSPITAL"]),
        ("Children's Hospital of Eastfield records", ["Children's Hospital of Eastfield"]),
        ("Klinikum Rosenheim, Radiologie", ["Klinikum Rosenheim"]),
        ("Thornbury NHS Trust", ["Thornbury NHS Trust"]),
    ],
)
def test_places_with_a_name(text, places):
    assert _found(text) == places


@pytest.mark.parametrize(
    "text",
    [
        "An outside hospital CT",
        "Outside Hospital CT",
        "Hospital day 3",
        "General Hospital",
        "the Pain Clinic",
        "Emergency Clinic",
        "University Hospital",
        "Level I Trauma Center",
        "Children's Hospital",
        "the center of the lung",
        "Home oxygen",
    ],
)
def test_places_without_one(text):
    assert _found(text) == []
