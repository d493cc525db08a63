import re

import pytest

from vlp.ingest.privacy.cues import CHAINED, CUES

NAME = "Quillfeather"


@pytest.mark.parametrize(
    "before",
    [
        "Dr. ",
        "dr ",
        "Dr.",
        "DR. ",
        "Mrs. ",
        "MR. ",
        "Patient: ",
        "PATIENT NAME: ",
        "Attending:\n",
        "Dictated by ",
        "signed by: ",
        "Reviewed and electronically signed by ",
        "discussed with ",
        "was communicated by phone to ",
        "notified ",
        "/s/ ",
        "the resident ",
        "Referring physician: ",
        "I, ",
        "cc: ",
        "accompanied by his wife ",
        "Médico solicitante: ",
    ],
)
def test_a_cue_ends_where_the_name_begins(before):
    text = f"{before}{NAME}"
    assert any(match.end() == len(before) for cue in CUES for match in cue.pattern.finditer(text))


@pytest.mark.parametrize(
    "text",
    ["MR angiogram", "MS contin", "at 3 p.m. Vessels", "mm. Heart", "undr Heart", "Patients: three", "discussed. With"],
)
def test_what_only_looks_like_a_title(text):
    assert not [cue for cue in CUES if cue.inside and cue.pattern.search(text)]


def test_only_titles_are_masked_with_the_name_and_only_they_are_certain():
    assert {cue.certain for cue in CUES if not cue.inside} == {False}
    assert sum(cue.inside for cue in CUES) == 4


@pytest.mark.parametrize("joint", [" and ", ", ", " & ", ", and Dr. ", "/"])
def test_names_in_a_row(joint):
    assert re.fullmatch(CHAINED.pattern, joint)
