from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from vlp.reports.phrases import Phrases, expand, find_words, normal_form


def test_plural_and_case_do_not_matter_and_is_stays_is():
    assert [normal_form(word) for word in ("Opacities", "masses", "bases", "effusions")] == [
        "opacity",
        "mass",
        "base",
        "effusion",
    ]
    for word in ("is", "atelectasis", "thrombus", "mass"):
        assert normal_form(word) == word


def test_patterns_expand_to_every_row():
    assert set(expand("(left|right)? lung (a b|c)")) == {
        ("left", "lung", "a", "b"), ("left", "lung", "c"), ("right", "lung", "a", "b"), ("right", "lung", "c"),
        ("lung", "a", "b"), ("lung", "c"),
    }  # fmt: skip


def test_the_longest_wording_wins_and_swallows_what_it_holds():
    phrases = Phrases([("effusion", 1), ("pericardial effusion", 2), ("pericardial effusion drain", 3)])
    assert [match.values for match in phrases.find(["a", "pericardial", "effusion", "and", "effusion"])] == [(2,), (1,)]


def test_a_gap_takes_fillers_only_and_leaves_room_for_matches_within():
    phrases = Phrases(
        [("heart ~ normal", "heart"), ("mediastinum ~ normal", "mediastinum")], fillers=["and", "mediastinum"]
    )
    found = phrases.find(["heart", "and", "mediastinum", "normal"])
    assert [(match.begin, match.end, match.values) for match in found] == [(0, 4, ("heart",)), (2, 4, ("mediastinum",))]
    assert phrases.find(["heart", "big", "and", "normal"]) == []


@given(st.text(max_size=200))
def test_words_lie_in_the_text_in_order(text):
    words = find_words(text, 0, len(text))
    assert all(0 <= word.start < word.end <= len(text) for word in words)
    assert all(first.end <= second.start for first, second in pairwise(words))


@given(
    st.lists(st.sampled_from("abc"), max_size=12),
    st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=3), max_size=5),
)
def test_the_tree_finds_what_a_naive_search_finds(words, rows):
    expected, begin = [], 0
    while begin < len(words):
        fitting = [row for row in rows if words[begin : begin + len(row)] == row]
        longest = max((len(row) for row in fitting), default=0)
        if longest:
            expected.append((begin, begin + longest))
        begin += longest or 1
    found = Phrases([(" ".join(row), index) for index, row in enumerate(rows)]).find(words)
    assert [(match.begin, match.end) for match in found] == expected


def test_short_forms_and_removed_words_have_one_form():
    text = "w/o b/l XXXX ___ [**x**] <DATE> s/p c/w w/edema R/O ?"
    forms = [word.form for word in find_words(text, 0, len(text))]
    assert forms == ["without", "bilateral", *["xxxx"] * 4, "s/p", "c/w", "with", "edema", "r/o", "?"]
