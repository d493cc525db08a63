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
