import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlp.errors import DataError
from vlp.prompts.descriptors import load_descriptors
from vlp.prompts.templates import paraphrases
from vlp.prompts.understanding import MAX_CHARACTERS, understand
from vlp.records import Certainty
from vlp.reports.findings import VOCABULARY, sentence_text


def codes(text: str) -> list[str]:
    return [note.code for note in understand(text).notes]


def refused(text: str) -> bool:
    try:
        understand(text).refuse()
    except DataError:
        return True
    return False


@pytest.mark.parametrize("text", ["", " \n\t", "...", "\u200b\u202e", "\x1b[31m\x1b[0m", "?!"])
def test_nothing_is_refused(text: str) -> None:
    with pytest.raises(DataError, match=r"^empty_prompt: nothing to look for; write a sentence"):
        understand(text).refuse()


def test_ten_thousand_characters_are_refused_before_anything_counts_them() -> None:
    def never(_: str) -> int:
        raise AssertionError("a tokenizer must not see this")

    understood = understand("effusion " * 1200, tokenizer_count=never, limit=8)
    with pytest.raises(DataError, match=rf"^prompt_too_long: 10800 characters, the most is {MAX_CHARACTERS}"):
        understood.refuse()
    assert len(understood.text) <= MAX_CHARACTERS


def test_too_many_tokens_are_refused_with_count_and_limit() -> None:
    def count(text: str) -> int:
        return len(text.split()) + 2

    text = "There is pleural effusion."
    understand(text, tokenizer_count=count, limit=6).refuse()
    with pytest.raises(DataError, match=r"^prompt_too_long: 6 tokens, the model reads at most 5"):
        understand(text, tokenizer_count=count, limit=5).refuse()


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("胸水があります", "refuse"),
        ("Есть плевральный выпот", "refuse"),
        ("الانصباب الجنبي", "refuse"),
        ("mass 肺", "warning"),
        ("There is \u0435ffusion of the pleura", "warning"),
    ],
)
def test_another_script(text: str, answer: str) -> None:
    assert ("other_script", answer) in [(note.code, note.severity) for note in understand(text).notes]
    assert refused(text) == (answer == "refuse")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("xyzzy plugh", ["out_of_vocabulary"]),
        ("There is xyzzy.", ["out_of_vocabulary"]),
        ("12345", ["out_of_vocabulary"]),
        ("😀", ["empty_prompt"]),
        ("There is a flurb quux in the lung", ["out_of_vocabulary"]),
        ("a kitten beside the heart of the left lung base", []),  # one unknown word among many known ones
        ("<script>alert(1)</script>", ["out_of_vocabulary"]),
        ("left right lung", ["contradiction"]),
        ("There is no and there is effusion", ["contradiction"]),
        ("There is effusion. There is no effusion.", ["contradiction", "negated"]),
        ("normal heart with cardiomegaly", ["contradiction", "negated"]),
        ("no no effusion", ["contradiction", "negated"]),
        ("not without effusion", ["contradiction", "negated"]),
        ("no left effusion, right effusion", ["negated"]),  # the sides differ
        ("There is no effusion of the left lung. There is a mass.", ["negated"]),
        ("knee", ["impossible_anatomy"]),
        ("There is a fracture of the femur.", ["impossible_anatomy"]),
        ("Kein Pneumothorax, das Herz ist nicht vergrößert", ["not_english"]),
        ("derrame pleural izquierdo y corazón normal", ["not_english"]),
        ("Absence of pleural thickening.", ["negated"]),  # words that French has too
        ("no effusion", ["negated"]),
        ("The heart is of normal size.", ["negated"]),
        ("no blurring of the borders", ["negated"]),
        ("There may be pneumonia", ["uncertain"]),
        ("cannot exclude effusion", ["uncertain"]),
        ("is there a pneumothorax?", ["uncertain"]),
        ("history of pneumonia", ["not_now"]),
        ("ma\u200bss", ["hidden_characters"]),
        ("ｍａｓｓ", ["rewritten_characters"]),
        ("There is blunting of the costophrenic angle.", []),
        ("lungs", []),
        ("where is the heart?", []),
        ("left lower lobe", []),
    ],
)
def test_remarks(text: str, expected: list[str]) -> None:
    assert codes(text) == expected


@pytest.mark.parametrize(
    ("text", "findings", "certainty", "side"),
    [
        ("There is pleural effusion of the left pleural space.", ("pleural effusion",), Certainty.PRESENT, "left"),
        ("no PTX", ("pneumothorax",), Certainty.ABSENT, None),
        ("mass in both lungs", ("mass",), Certainty.PRESENT, "both"),
        ("effusion on the left and no mass", ("pleural effusion", "mass"), None, "left"),
        ("right lower lobe", (), Certainty.PRESENT, "right"),
        ("no line there", (), Certainty.ABSENT, None),
        ("xyzzy", (), None, None),
        ("Kein Pneumothorax, das Herz ist nicht vergrößert", (), None, None),
        ("No effusion. There is a pneumothorax.", ("pleural effusion", "pneumothorax"), None, None),
    ],
)
def test_what_is_said(text: str, findings: tuple[str, ...], certainty: Certainty | None, side: str | None) -> None:
    understood = understand(text)
    assert (understood.findings, understood.certainty, understood.side) == (findings, certainty, side)


def test_a_misspelt_word_gets_the_right_one() -> None:
    assert "did you mean 'pneumothorax'" in understand("There is pneumotorax").notes[0].message


@pytest.mark.parametrize("finding", list(VOCABULARY))
@pytest.mark.parametrize("certainty", list(Certainty))
def test_every_template_sentence_is_understood_as_it_was_made(finding: str, certainty: Certainty) -> None:
    understood = understand(sentence_text(finding, certainty))
    assert (understood.findings, understood.certainty) == ((finding,), certainty)
    expected = {Certainty.PRESENT: [], Certainty.ABSENT: ["negated"], Certainty.UNCERTAIN: ["uncertain"]}
    assert [note.code for note in understood.notes] == expected[certainty]
    assert understood.negated == (certainty is Certainty.ABSENT)


def test_nothing_we_ask_ourselves_is_remarked_on_but_for_denials() -> None:
    texts = [text for pair in load_descriptors().all for text in (pair.positive, pair.negative)]
    texts += [text for name in VOCABULARY for ask in paraphrases(name) for text in (*ask.positives, *ask.negatives)]
    assert {code for text in texts for code in codes(text)} == {"negated"}


def test_as_json() -> None:
    assert understand("no left mass").to_json() == {
        "text": "no left mass",
        "negated": True,
        "certainty": "absent",
        "findings": ["mass"],
        "side": "left",
        "notes": [
            {
                "code": "negated",
                "message": "read as a denial (mass): high values say that it is not there",
                "severity": "warning",
            }
        ],
    }


@settings(max_examples=150, deadline=None)
@given(
    st.text(max_size=200)
    | st.lists(st.sampled_from(["no", "left", "right", "mass", ".", "and", "\n", "?"])).map(" ".join)
)
def test_any_text_can_be_understood_and_is_safe_to_show(text: str) -> None:
    understood = understand(text)
    for shown in (understood.text, *(note.message for note in understood.notes)):
        assert not any(unicodedata.category(letter) in {"Cc", "Cf", "Cs"} for letter in shown)
        assert "\u2028" not in shown
    assert understand(understood.text).text == understood.text
    with_refusal = any(note.severity == "refuse" for note in understood.notes)
    assert refused(text) == with_refusal
    assert with_refusal or any(letter.isalnum() for letter in understood.text)
