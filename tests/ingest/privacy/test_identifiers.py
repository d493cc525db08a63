import pytest

from vlp.ingest.privacy.identifiers import find_identifiers
from vlp.ingest.privacy.phi import merged


def _found(text: str) -> list[tuple[str, str]]:
    return [(hit.kind, text[hit.start : hit.end]) for hit in merged(find_identifiers(text))]


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("Call (312) 555-0187 now", "phone", "(312) 555-0187"),
        ("ext. 77213", "phone", "77213"),
        ("+44 20 7946 0958", "phone", "+44 20 7946 0958"),
        ("mail k.tanaka+cxr@st-example.ac.uk.", "email", "k.tanaka+cxr@st-example.ac.uk"),
        ("see https://a.example.org/x?y=1, then", "web", "https://a.example.org/x?y=1"),
        ("host 192.168.14.22 sent", "web", "192.168.14.22"),
        ("MRN: 00482913", "number", "00482913"),
        ("SSN 123-45-6789", "number", "123-45-6789"),
        ("Accession XR-2019-004532", "number", "XR-2019-004532"),
        ("image 12345678 shows", "number", "12345678"),
        ("lives at 221 Baker Street, Springfield, IL 62704.", "address", "221 Baker Street, Springfield, IL 62704"),
        ("from Tulsa, OK today", "address", "Tulsa, OK"),
        ("a 93-year-old man", "age", "93"),
        ("aged 101", "age", "101"),
        ("ninety-three year old", "age", "ninety-three"),
        ("92F with cough", "age", "92"),
    ],
)
def test_kinds(text, kind, words):
    assert (kind, words) in _found(text)


@pytest.mark.parametrize(
    "text",
    [
        "89-year-old",
        "92 %",
        "95 mm",
        "age 92 %",
        "O2 sat 94 %",
        "T8 and L1-L4",
        "5 mm, 2/6",
        "1.2 x 3.4 cm",
        "kV 110, mAs 2.5",
        "Findings called at 1530",
        "Paged at 1530 hrs",
        "Phone at 15:30",
        "Study 2017 showed",
        "film 14x17",
        "series 4 image 112",
        "ICD-9 786.2, V74.1",
        "CPT 71046",
        "Chest, PA and lateral",
        "from Chest, PA",
        "2 PA Views",
        "8 Fr Foley",
        "bilaterally.There",
        "version 2.3.1",
        "CT in 3-6 months",
        "lives in a nursing home",
        "case 3, visit 2",
        "120-140 kV",
        "page 2 of 3",
    ],
)
def test_radiology_is_not_an_identifier(text):
    assert _found(text) == []


def test_no_text_makes_it_slow():
    import time

    for piece in ("1-", "a@", "A-", "12 Aa ", "Aa, ", "MRN ", "address ", "(", "1 "):
        started = time.perf_counter()
        _found(piece * (5000 // len(piece)))
        assert time.perf_counter() - started < 2.0, piece
