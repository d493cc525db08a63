import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlp.ingest.partition import Part


@given(items=st.lists(st.integers(), max_size=50), count=st.integers(1, 70))
def test_parts_laid_end_to_end_are_the_whole(items, count):
    parts = [Part(number=number, count=count).of(items) for number in range(1, count + 1)]
    assert [item for part in parts for item in part] == items
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_parts_are_written_and_named():
    part = Part.parse("3/16")
    assert (part.number, part.count, str(part), part.folder) == (3, 16, "3/16", "0003-of-0016")


@pytest.mark.parametrize("text", ["0/4", "5/4", "1/0", "-1/4", "1", "1/4/2", "1 / 4", "a/b", "", "1/4\n", "01/4"])
def test_what_is_no_part(text):
    with pytest.raises(ValueError, match=r"a part is written like 3/16|there is no part 5 of 4"):
        Part.parse(text)
