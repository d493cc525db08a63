import pytest

from vlp.ingest.privacy import words
from vlp.reports.findings import VOCABULARY

LISTS = {
    name: getattr(words, name) for name in ("ORDINARY", "EPONYMS", "FIRST_NAMES", "PARTICLES", "INSTITUTION_FILLERS")
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_are_lower_case_words(name):
    assert len(LISTS[name]) > 15
    assert all(word == word.lower() and not any(letter.isspace() for letter in word) for word in LISTS[name])


def test_given_names_that_are_words_are_left_out():
    # "Mark the site", "Frank pulmonary edema", "Hope this helps", "Grace period" would be persons.
    assert not words.FIRST_NAMES & {
        "mark",
        "frank",
        "hope",
        "grace",
        "will",
        "bill",
        "grant",
        "dawn",
        "art",
        "may",
        "rose",
        "pat",
    }


def test_names_are_not_ordinary_but_months_are_both():
    assert {"april", "june", "jan"} >= words.FIRST_NAMES & words.ORDINARY


def test_what_findings_are_called_is_ordinary_or_no_given_name():
    said = {word.lower() for entry in VOCABULARY.values() for word in (*entry.name.split(), *entry.noun.split())}
    assert not said & words.FIRST_NAMES
