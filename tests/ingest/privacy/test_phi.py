import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlp.ingest.privacy.phi import KINDS, Hit, believable, mask, merged, without_tokens, without_wraps

HITS = st.lists(
    st.tuples(st.integers(0, 30), st.integers(1, 10), st.sampled_from(KINDS)).map(
        lambda t: Hit(t[0], t[0] + t[1], t[2])
    )
)


@given(HITS)
def test_merged_hits_cover_the_same_and_do_not_overlap(hits):
    result = merged(hits)
    covered = {index for hit in hits for index in range(hit.start, hit.end)}
    assert {index for hit in result for index in range(hit.start, hit.end)} == covered
    assert all(one.end <= other.start for one, other in itertools.pairwise(result))
    assert {hit.kind for hit in result} <= {hit.kind for hit in hits}


def test_the_longest_gives_the_kind():
    assert merged([Hit(0, 4, "name"), Hit(2, 9, "phone"), Hit(8, 10, "web")]) == (Hit(0, 10, "phone"),)
    assert merged([Hit(0, 4, "name"), Hit(4, 6, "name")]) == (Hit(0, 4, "name"), Hit(4, 6, "name"))


@given(st.text(max_size=40), HITS)
def test_masks_keep_length_and_line_breaks(text, hits):
    hidden = mask(text, hits)
    assert len(hidden) == len(text)
    for index, (old, new) in enumerate(zip(text, hidden, strict=True)):
        inside = any(hit.start <= index < hit.end for hit in hits)
        assert new == ("_" if inside and old not in "\r\n" else old)


@pytest.mark.parametrize(
    "token",
    [
        "___",
        "XXXX",
        "x-XXXX",
        "xxxx",
        "[**Known lastname 4418**]",
        "[**2118-03-04**]",
        "***",
        "<NAME>",
        "[redacted]",
        "[Doctor 2]",
        "####",
    ],
)
def test_tokens_of_deidentification_are_blanked(token):
    text = f"Seen by {token} today."
    assert without_tokens(text) == f"Seen by {chr(0) * len(token)} today."


@pytest.mark.parametrize(
    "text",
    [
        "XX chromosome",
        "Xxavier",
        "a_b",
        "[left]",
        "(MRN 12345)",
        "[age 93]",
        "[phone 6175550143]",
        "<id 4481937>",
        "<5 mm",
        "(PA)",
    ],
)
def test_other_text_is_not(text):
    assert without_tokens(text) == text


def test_long_lines_go_on_below():
    long = "x" * 50
    assert without_wraps(f"{long}\ny\nz\r\n{long}\r\ny") == f"{long} y\nz\r\n{long}  y"
    for text in (f"{long}\n\ny", "short\nshort", f"{long}\n", f"{long}\n---"):
        assert without_wraps(text) == text


def test_hits_of_models_are_believed_only_where_they_tell():
    text = "Kerley lines in Right Lung of Adler, 88 and 93, T8, ___, at General Hospital"
    spans = {
        "Kerley": "name",
        "Right Lung": "name",
        "Adler": "name",
        "88": "age",
        "93": "age",
        "T8": "number",
        "___": "number",
        "General Hospital": "institution",
    }
    hits = [Hit(text.index(words), text.index(words) + len(words), kind) for words, kind in spans.items()]
    assert [text[hit.start : hit.end] for hit in believable(text, hits)] == ["Adler", "93", "T8"]


def test_a_hit_does_not_hold_the_words():
    assert repr(Hit(3, 9, "name")) == "Hit(start=3, end=9, kind='name')"
