import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlp.reports.sections import find_sections
from vlp.reports.sentences import find_sentences


def written(text):
    return [text[span.start : span.end] for span in find_sentences(text, find_sections(text))]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("No edema. No mass.", ["No edema.", "No mass."]),
        ("A 1.5 cm nodule. Seen by Dr. Smith today.", ["A 1.5 cm nodule.", "Seen by Dr. Smith today."]),
        ("Read by Dr. J. Smith. No mass.", ["Read by Dr. J. Smith.", "No mass."]),
        ("Pneumothorax vs. skin fold.", ["Pneumothorax vs. skin fold."]),
        ("1. No edema. 2. No mass.", ["No edema.", "No mass."]),
        ("1) No edema\n2) No mass", ["No edema", "No mass"]),
        ("- No edema\n- No mass", ["No edema", "No mass"]),
        ("There is\nno edema.", ["There is\nno edema."]),
        ("Tip of the\nSwan-Ganz is high.", ["Tip of the\nSwan-Ganz is high."]),
        ("Heart size normal\nLungs clear", ["Heart size normal", "Lungs clear"]),
        ("No edema\n\nno mass", ["No edema", "no mass"]),
        ("No edema.The heart is large.", ["No edema.", "The heart is large."]),
        ("The XXXX are clear. XXXX. ___.", ["The XXXX are clear.", "XXXX."]),
        ("Compression of T12. No mass.", ["Compression of T12.", "No mass."]),
        ("no edema. the heart is large", ["no edema.", "the heart is large"]),
        ("No edema!? Mass.", ["No edema!?", "Mass."]),
        ("...", []),
        ("1) No edema 2) No mass 3) Old rib fracture", ["No edema", "No mass", "Old rib fracture"]),
        ("1.No edema.2.No mass.", ["No edema.", "No mass."]),
        ("1. Mild edema 2. No mass.", ["Mild edema", "No mass."]),
        ("1. A nodule of 2 cm. 2. No mass.", ["A nodule of 2 cm.", "No mass."]),
        ("A nodule, 2. in number. No mass.", ["A nodule, 2.", "in number.", "No mass."]),
        ("#1. No edema\n#2. No mass", ["No edema", "No mass"]),
        ("• No edema\n• No mass", ["No edema", "No mass"]),
        ("3.5 cm. above the carina. No mass.", ["3.5 cm. above the carina.", "No mass."]),
        ("It measures 3.5 cm. No mass.", ["It measures 3.5 cm.", "No mass."]),
        ("A 14 Fr. catheter. No mass.", ["A 14 Fr. catheter.", "No mass."]),
        ("Tube No. 8 is seen. No mass.", ["Tube No. 8 is seen.", "No mass."]),
        ("Pneumothorax: no. Mass: no.", ["Pneumothorax: no.", "Mass: no."]),
        ("St. Jude valve. No mass.", ["St. Jude valve.", "No mass."]),
        ("Seen, e.g. at the base, i.e. behind the heart.", ["Seen, e.g. at the base, i.e. behind the heart."]),
        ("Paged at 9:10 p.m. by phone. No mass.", ["Paged at 9:10 p.m. by phone.", "No mass."]),
        ("Paged at 9:10 P.M. No mass.", ["Paged at 9:10 P.M.", "No mass."]),
        ("Study of Jan. 5 is older. No mass.", ["Study of Jan. 5 is older.", "No mass."]),
        ("s/p R. thoracentesis. No mass.", ["s/p R. thoracentesis.", "No mass."]),
        ("Compared to ___. No mass.", ["Compared to ___.", "No mass."]),
        ("By [**First Name8 (Names) 4.**] today. No mass.", ["By [**First Name8 (Names) 4.**] today.", "No mass."]),
        ("? pneumonia. No mass.", ["? pneumonia.", "No mass."]),
        ("Pneumonia? No mass.", ["Pneumonia?", "No mass."]),
        ("NO EDEMA. BILAT. EFFUSIONS.", ["NO EDEMA.", "BILAT. EFFUSIONS."]),
        ("No edema.\r\nNo mass.\r\n", ["No edema.", "No mass."]),
    ],
)
def test_where_sentences_end(text, sentences):
    assert written(text) == sentences


def test_only_sections_about_the_study_have_sentences():
    text = "INDICATION: Pneumonia. FINDINGS: Clear. RECOMMENDATION: CT. IMPRESSION: Normal."
    assert written(text) == ["Clear.", "Normal."]


PIECES = st.lists(st.sampled_from(["No ", "edema", ". ", "\n", "1. ", "Dr. ", "2.5", "XXXX", "\r\n", "- "])).map(
    "".join
)


@given(st.text() | PIECES)
def test_sentences_are_in_order_and_apart(text):
    spans = find_sentences(text, find_sections(text))
    end = 0
    for span in spans:
        assert end <= span.start < span.end <= len(text)
        end = span.end


@given(st.lists(st.sampled_from(["edema", "Mass", "no", "2.5", ".", "\n", ",", "(x)"]), max_size=15))
def test_every_word_lies_in_a_sentence(pieces):
    text = " ".join(pieces)
    inside = "".join(written(text))
    for word in ("edema", "Mass", "no"):
        assert inside.count(word) == text.count(word)


WRAPPED = """The cardiac silhouette is at the upper limits of normal, and the new right
Swan-Ganz catheter ends in the pulmonary artery. Small effusions, followed in the
Emergency Department, persist. The large tube of yesterday was taken out by doctor
Jones at noon. Heart normal.
"""


def test_a_line_end_that_the_width_forced_ends_no_sentence():
    assert [text.split()[0] for text in written(WRAPPED)] == ["The", "Small", "The", "Heart"]


def test_short_lines_without_stops_are_a_list():
    lines = [
        "Heart size normal",
        "Lungs clear",
        "No effusion",
        "Right PICC tip in the superior vena cava, unchanged from yesterday",
    ]
    assert written("\n".join(lines)) == lines
    assert written("\n".join(reversed(lines))) == lines[::-1]
