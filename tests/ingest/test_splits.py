import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlp.config import validate
from vlp.errors import ConfigError
from vlp.ingest.splits import Splits, assign, warn_of_empty
from vlp.records import Person, Study

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


def _study(person: str, split=None, **groups: str) -> Study:
    return Study(id="s", person=Person(id=person, groups=groups), images=(), source="made here", split=split)


@given(st.lists(st.text(min_size=1), unique=True), st.lists(st.text(min_size=1), unique=True), st.floats(0, 1))
def test_nobody_moves_when_an_archive_grows(first, more, share):
    """Neither those divided by hash, nor those the archive placed, nor those taken from its training split."""
    splits = Splits(val_from_train=share)
    given_splits = (None, "train", "val", "test")
    before = {(person, split): splits.split_of(_study(person, split)) for person in first for split in given_splits}
    after = {
        (person, split): splits.split_of(_study(person, split)) for person in (*more, *first) for split in given_splits
    }
    assert before.items() <= after.items()


def test_official_splits_are_kept_unless_told_otherwise():
    for split in ("train", "val", "test"):
        assert {Splits().split_of(_study(f"p{number}", split)) for number in range(50)} == {split}
    anew = Splits(official=False)
    assert {anew.split_of(_study(f"p{number}", "train")) for number in range(50)} == {"train", "val", "test"}
    assert [anew.split_of(_study(f"p{number}", "train")) for number in range(50)] == [
        Splits().split_of(_study(f"p{number}")) for number in range(50)
    ]


def test_validation_is_taken_from_training_and_from_nowhere_else():
    people = [f"p{number}" for number in range(3000)]
    splits = Splits(val_from_train=0.1)
    taken = [splits.split_of(_study(person, "train")) for person in people]
    assert taken.count("val") / 3000 == pytest.approx(0.1, abs=0.02)
    assert set(taken) == {"train", "val"}
    assert {splits.split_of(_study(person, "test")) for person in people} == {"test"}
    more = Splits(val_from_train=0.3)
    assert all(
        more.split_of(_study(person, "train")) == "val"
        for person, split in zip(people, taken, strict=True)
        if split == "val"
    )
    # Independent of the division of those without a split: the test share is no different among those taken.
    by_hash = [Splits().split_of(_study(person)) for person, split in zip(people, taken, strict=True) if split == "val"]
    assert by_hash.count("test") / len(by_hash) == pytest.approx(0.1, abs=0.06)


@given(st.text(), st.lists(st.text(), min_size=2, max_size=6))
def test_a_group_is_never_divided(site, people):
    splits = Splits(group="site")
    assert len({splits.split_of(_study(person, site=site)) for person in people}) == 1
    assert [splits.split_of(_study(person, scanner="x")) for person in people] == [
        Splits().split_of(_study(person)) for person in people
    ]


def test_a_site_is_not_the_person_of_that_name():
    names = [f"n{number}" for number in range(200)]
    splits = Splits(group="site")
    as_site = [splits.split_of(_study("p", site=name)) for name in names]
    assert as_site != [splits.split_of(_study(name)) for name in names]
    assert set(as_site) == {"train", "val", "test"}


@pytest.mark.parametrize(
    ("settings", "studies", "empty", "advice"),
    [
        ({}, {"train": 5, "val": 1, "test": 1}, (), ""),
        ({}, {"train": 5, "test": 1}, ("val",), "val_from_train"),
        ({"train": 0.9, "val": 0.0}, {"train": 5, "test": 1}, (), ""),  # none was asked for
        ({}, {"train": 5, "val": 0, "test": 0}, ("val", "test"), "official: false"),
        ({"group": "site"}, {"train": 5, "val": 1}, ("test",), "whole groups (site)"),
    ],
)
def test_a_warning_where_a_split_is_empty(settings, studies, empty, advice, caplog):
    assert warn_of_empty(Splits(**settings), studies) == empty
    assert len(caplog.records) == len(empty)
    assert advice in caplog.text


def test_taking_from_a_split_that_is_done_away_with():
    with pytest.raises(ConfigError, match="does away with"):
        validate(Splits, {"official": False, "val_from_train": 0.1}, where="here")


def test_shares_must_add_up():
    with pytest.raises(ConfigError, match="add up to 1"):
        validate(Splits, {"train": 0.9, "val": 0.2, "test": 0.1}, where="here")
