import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlp.config import validate
from vlp.errors import ConfigError
from vlp.ingest.splits import Splits, assign

FRACTIONS = Splits(train=0.7, val=0.1, test=0.2).fractions


def test_shares_are_about_right_and_salts_differ():
    people = [f"p{number}" for number in range(4000)]
    splits = [assign(person, salt="a", fractions=FRACTIONS) for person in people]
    assert splits.count("train") / 4000 == pytest.approx(0.7, abs=0.03)
    assert splits.count("val") / 4000 == pytest.approx(0.1, abs=0.02)
    others = [assign(person, salt="b", fractions=FRACTIONS) for person in people]
    # independent draws agree with probability 0.49 + 0.01 + 0.04
    assert sum(map(str.__eq__, splits, others)) / 4000 == pytest.approx(0.54, abs=0.03)


def test_it_never_changes():
    # Written down once: a change here would move patients from test to train.
    assert [assign(f"p{number}", salt="vlp", fractions=FRACTIONS) for number in range(8)] == [
        "val",
        "test",
        "train",
        "train",
        "train",
        "train",
        "train",
        "train",
    ]


@given(st.text(), st.text(max_size=5))
def test_moving_an_edge_moves_nobody_on_its_far_side(person, salt):
    small = assign(person, salt=salt, fractions={"test": 0.1, "train": 0.9})
    large = assign(person, salt=salt, fractions={"test": 0.3, "train": 0.7})
    assert not (small == "test" and large == "train")


@given(st.text())
def test_whole_shares(person):
    assert assign(person, salt="", fractions={"train": 0.0, "val": 1.0, "test": 0.0}) == "val"


def test_shares_must_add_up():
    with pytest.raises(ConfigError, match="add up to 1"):
        validate(Splits, {"train": 0.9, "val": 0.2, "test": 0.1}, where="here")
