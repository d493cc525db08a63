from hypothesis import given
from hypothesis import strategies as st

from vlp.data.faults import shown


@given(st.text())
def test_a_shown_name_is_one_short_line_of_plain_characters(name):
    plain = shown(name)
    assert plain.isascii()
    assert all(character.isprintable() for character in plain)
    assert len(plain) <= 103


def test_plain_names_stay_as_they_are():
    assert shown("58588861f5e50c3c027e.view1.jpg") == "58588861f5e50c3c027e.view1.jpg"
    assert shown("\x1b[2Jevil\n") == r"\x1b[2Jevil\n"
