import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlp.ingest.phantom.phrases import choose, expand, phrasebook, sentence_case, usable
from vlp.ingest.phantom.truth import DEVICES, FINDINGS

KNOWN = {
    "degree", "degreely", "side", "place", "places", "lobe", "base", "apex", "apical", "basal", "basilar", "notapical",
    "small", "moderate", "large", "notsmall", "notlarge", "upright", "bedside", "sideview", "nomass", "noatelectasis",
    "mm", "cm", "ratio", "rib", "next",
}  # fmt: skip
SENTENCES = ("seen", "seen_both", "sign", "sign_both", "hedged", "doubt", "absent", "unseen", "resolved")
WORD = st.text(alphabet="bcdfg", min_size=1, max_size=5)


@given(choices=st.lists(WORD, min_size=1, max_size=5), seed=st.integers(0, 99))
def test_a_choice_becomes_one_of_its_alternatives(choices, seed):
    words = expand(f"x ({'|'.join(choices)}) y", names={}, generator=random.Random(seed))
    assert words.text in {f"x {choice} y" for choice in choices}


def test_every_alternative_is_chosen_sometimes():
    seen = {expand("(a|b|)c", names={}, generator=random.Random(seed)).text for seed in range(40)}
    assert seen == {"ac", "bc", "c"}


def test_choices_may_stand_inside_choices():
    seen = {expand("(a|b (c|d))", names={}, generator=random.Random(seed)).text for seed in range(60)}
    assert seen == {"a", "b c", "b d"}


def test_names_are_filled_in_and_recorded():
    words = expand("$degree $side effusion $apex.", names={"degree": "small", "side": "left", "apex": ""},
                   generator=random.Random(0))  # fmt: skip
    assert words.text == "small left effusion."
    assert words.names == {"degree", "side", "apex"}


def test_an_unknown_name_is_an_error():
    with pytest.raises(KeyError):
        expand("$colour", names={}, generator=random.Random(0))


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [("a enteric tube", "an enteric tube"), ("a 8 mm nodule", "an 8 mm nodule"), ("a 11 mm nodule", "an 11 mm nodule"),
     ("a 12 mm nodule", "a 12 mm nodule"), ("a unilateral effusion", "a unilateral effusion"),
     ("A apical cap", "An apical cap"), ("a left effusion", "a left effusion")],
)  # fmt: skip
def test_the_article_fits(given_text, expected):
    assert expand(given_text, names={}, generator=random.Random(0)).text == expected


def test_only_patterns_whose_names_are_known_are_used():
    patterns = ["$side a", "b", "$zone c"]
    assert usable(patterns, {"side": "left"}) == ["$side a", "b"]
    assert choose(["$zone c"], names={}, generator=random.Random(0)) is None


def test_sentence_case_touches_the_first_letter_only():
    assert sentence_case("left PTX") == "Left PTX"
    assert sentence_case("") == ""


def test_the_phrasebook_covers_every_finding_and_device():
    book = phrasebook()
    assert set(book.findings) == set(FINDINGS)
    assert set(book.devices) == set(DEVICES)


@pytest.mark.parametrize("finding", FINDINGS)
def test_wordings_are_sentences_with_known_names(finding):
    phrases = phrasebook().findings[finding]
    for kind in (*SENTENCES, "one", "both"):
        for pattern in getattr(phrases, kind):
            assert set(re.findall(r"\$([a-z]+)", pattern)) <= KNOWN, pattern
            assert pattern.count("(") == pattern.count(")"), pattern
            assert pattern.endswith(".") == (kind in SENTENCES), pattern
            assert pattern.count("$side") < 3, pattern


@pytest.mark.parametrize("finding", [name for name in FINDINGS if name != "support device"])
def test_each_finding_has_signs_hedges_and_denials_enough(finding):
    phrases = phrasebook().findings[finding]
    assert len(phrases.one) + len(phrases.both) >= 4
    assert len(phrases.sign) + len(phrases.sign_both) >= 2
    assert len(phrases.hedged) >= 3
    assert phrases.doubt
    assert len(phrases.absent) >= 4
    assert phrases.unseen
    assert phrases.resolved


def test_stock_sentences_know_what_they_deny():
    for sentences in phrasebook().stock.values():
        for sentence in sentences:
            assert sentence.excludes <= set(FINDINGS), sentence.text
            for finding in sentence.denies:
                assert finding.split()[-1] in sentence.text.lower()
