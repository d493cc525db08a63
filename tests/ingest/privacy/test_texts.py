from collections import Counter

import pytest

from vlp.ingest.privacy.config import PrivacyConfig
from vlp.ingest.privacy.rules import RuleScanner
from vlp.ingest.privacy.texts import StudyTexts, on_one_line

TEXT = "Comparison: 03/14/2019. Small effusion.\nDr. Adler, MRN 00482913, was told on March 5."


def _texts(*, days: int = 0, ids=(), **values) -> StudyTexts:
    if values.get("dates") == "shift":
        values |= {"pseudonyms": "keyed", "key_env": "K"}
    config = PrivacyConfig(**values)
    return StudyTexts(config, RuleScanner(order=config.date_order), days=days, ids=ids)


def test_masks_keep_every_place():
    texts = _texts()
    cleaned = texts.clean(TEXT)
    assert cleaned == "Comparison: __________. Small effusion.\n_________, MRN ________, was told on _______."
    assert texts.hits == Counter({"date": 2, "name": 1, "number": 1})
    assert texts.clean(cleaned) == cleaned


def test_dates_may_stay_or_move():
    assert _texts(dates="keep").clean(TEXT) == TEXT.replace("Dr. Adler", "_" * 9).replace("00482913", "_" * 8)
    moved = _texts(dates="shift", days=20).clean(TEXT)
    assert moved.startswith("Comparison: 04/03/2019. Small")
    assert moved.endswith("was told on _______.")  # without a year there is nothing to move


def test_counting_changes_nothing_but_dates_and_ids():
    texts = _texts(on_phi="count", dates="keep", ids={"p4471-x"})
    assert texts.clean(TEXT) == TEXT
    assert texts.hits["name"] == 1
    assert texts.clean("Study of P4471-X by Dr. Adler") == "Study of _______ by Dr. Adler"


@pytest.mark.parametrize(
    ("id_", "text", "cleaned"),
    [
        ("p10000032", "Film p10000032 and 10000032.", "Film _________ and ________."),
        ("abc-def-9", "see ABC-DEF-9!", "see _________!"),
        ("50414", "study 50414 of 504140", "study _____ of 504140"),
        ("7", "7 mm nodule at T7", "7 mm nodule at T7"),
        ("p1", "p1 is too short to tell", "p1 is too short to tell"),
    ],
)
def test_ids_of_the_study_go(id_, text, cleaned):
    assert _texts(ids={id_}).clean(text) == cleaned


def test_words_hidden_in_one_text_are_hidden_in_what_was_made_from_it():
    texts = _texts()
    texts.clean("The findings above were discussed at length with Dr. Rosalind\nAchterberg in person.")
    assert texts.clean_derived("as Achterberg said") == "as __________ said"
    assert texts.clean_derived("Dr. Rosalind Achterberg") == "_" * 23
    assert texts.clean_derived("discussed in person") == "discussed in person"


def test_single_spaces():
    assert on_one_line(" a\n b\t\tc ") == "a b c"
