import pytest

from vlp.reports.locations import SIDES, ZONES, compose, find_location, find_severity, parts, render
from vlp.reports.phrases import find_words


def location(text, *, plural=True):
    return find_location(find_words(text, 0, len(text)), text=text if plural else None)


@pytest.mark.parametrize(
    ("words", "place"),
    [
        ("in the left lower lobe", "left lower"),
        ("RUL", "right upper"),
        ("RML", "right middle"),
        ("bibasilar", "bilateral base"),
        ("biapical", "bilateral apex"),
        ("at the lung bases", "bilateral base"),
        ("left greater than right", "bilateral"),
        ("at the right base", "right base"),
        ("right mid lung zone", "right middle"),
        ("lingular", "left middle"),
        ("apical", "apex"),
        ("left hilar", "left perihilar"),
        ("of the heart", None),
    ],
)
def test_words_for_a_place_are_normalised_side_first(words, place):
    assert location(words) == place


def test_a_plural_names_both_sides_only_where_asked():
    assert location("the lungs") == "bilateral"
    assert location("the lungs", plural=False) is None


@pytest.mark.parametrize("side", [None, *SIDES])
@pytest.mark.parametrize("zone", [None, *ZONES])
@pytest.mark.parametrize("noun", ["lung", "pleural space", "hemithorax", "chest wall"])
def test_what_is_rendered_reads_back(side, zone, noun):
    place = compose(side, zone)
    if place is None:
        return
    assert parts(place) == (side, zone)
    assert location(render(place, noun=noun), plural=False) == place


@pytest.mark.parametrize(
    ("words", "degree"),
    [("tiny", "small"), ("small to moderate", "moderate"), ("massive", "large"), ("stable", None)],
)
def test_degrees_come_in_three(words, degree):
    assert find_severity(find_words(words, 0, len(words))) == degree
