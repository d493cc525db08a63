from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlp.reports.marks import find_marks, normalised


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("Compared to ___.", "Compared to ___."),
        ("Compared to ______.", "Compared to ___."),
        ("XXXX opacity, XXX base", "___ opacity, ___ base"),
        ("on [**2150-3-14**] by [**Last Name (un) 12**]", "on ___ by ___"),
        ("since <DATE> <TIME>", "since ___ ___"),
        ("by [NAME], {DATE}", "by ___, ___"),
        ("XX/XX/XXXX", "___"),
    ],
)
def test_marks_of_every_archive_are_one(text, plain):
    assert normalised(text) == plain


@pytest.mark.parametrize("text", ["size < 3 cm", "a_b", "[see above]", "Xray XX", "[** open", "<b>", "", "XXL"])
def test_what_only_looks_like_a_mark_stays(text):
    assert normalised(text) == text
    assert find_marks(text) == []


@given(st.text(alphabet="X_[*]<>DATE /a\n", max_size=60))
def test_marks_lie_in_order_and_normalising_again_changes_nothing(text):
    marks = find_marks(text)
    assert all(0 <= start < end <= len(text) for start, end in marks)
    assert all(first[1] <= second[0] for first, second in pairwise(marks))
    assert normalised(text.replace("_", " ")).count("___") == len(find_marks(text.replace("_", " ")))
