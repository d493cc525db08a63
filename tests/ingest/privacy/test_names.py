import pytest

from vlp.ingest.privacy.names import find_names
from vlp.ingest.privacy.phi import merged, without_tokens


def _found(text: str) -> list[str]:
    return [text[hit.start : hit.end] for hit in merged(find_names(without_tokens(text)))]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Seen by Dr. A. van der Berg today.", ["Dr. A. van der Berg"]),
        ("Discussed with Drs. Adler and Brownlow.", ["Drs. Adler", "Brownlow"]),
        ("Dr. Long and Dr. Wall agree.", ["Dr. Long", "Dr. Wall"]),
        ("Patient: Abigail Long. History", ["Abigail Long"]),
        ("PATIENT NAME: STROUD, WILHELMINA J", ["STROUD, WILHELMINA J"]),
        ("Report by Ortega, MD and others", ["Ortega, MD"]),
        ("Read by: d. clarke", ["d. clarke"]),
        ("DR. HARRISON FENWICK WAS NOTIFIED", ["DR. HARRISON FENWICK"]),
        ("Anna Cole is a 54 year old woman", ["Anna Cole"]),
        ("Wojciech Żabka, 54-year-old", ["Wojciech Żabka"]),
        ("ADLER^JANE^Q CHEST", ["ADLER^JANE^Q"]),
        ("Clear.\nHalvorsen, Erik M.\nEnd", ["Halvorsen, Erik M."]),
        ("Clear.\nJKL/abc", ["JKL/abc"]),
        ("Ms. Adler fell.  Adler denies pain; ADLER 2.", ["Ms. Adler", "Adler"]),
        ("Mr. Foley: Foley in place.", ["Mr. Foley", "Foley"]),
    ],
)
def test_names(text, names):
    assert _found(text) == names


@pytest.mark.parametrize(
    "text",
    [
        "Dr. XXXX XXXX was told",
        "Dr. ___ agrees",
        "Discussed with the ICU team",
        "discussed with ED physician",
        "Kerley B lines",
        "PATIENT ROTATION",
        "Patient Positioning",
        "Attending: not stated",
        "Signed, but not reviewed",
        "DR CHEST 2 VIEWS",
        "St. Jude valve",
        "Glenn shunt",
        "Swan-Ganz, Foley and Dobhoff",
        "Name of procedure: chest",
        "Frank Pulmonary Edema",
        "informed consent",
        "given with contrast",
        "referring to Hampton hump",
        "Heart, Lungs: clear",
        "PLEURA, LUNGS CHEST",
        "[**First Name 12**] is a 54 year old",
        "A 54-year-old woman",
        "ETT/NGT",
        "at 5 p.m. Vessels are normal",
    ],
)
def test_no_names(text):
    assert _found(text) == []


def test_a_name_ends_at_ordinary_words_and_sentences():
    assert _found("Dr. Adler reviewed the film") == ["Dr. Adler"]
    assert _found("Dr. Adler. Normal chest.") == ["Dr. Adler"]
    assert _found("Signed by Anna Cole\nNormal chest") == ["Anna Cole"]
