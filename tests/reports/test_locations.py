import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlp.reports.locations import (
    SIDES,
    ZONES,
    compose,
    find_location,
    find_places,
    find_severity,
    parts,
    render,
)
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
    [
        ("tiny", "small"),
        ("small to moderate", "moderate"),
        ("massive", "large"),
        ("stable", None),
        ("decreased from moderate to small", "small"),
        ("small, previously large", "small"),
        ("slightly improved", None),
        ("marked interval improvement", None),
        ("mildly enlarged", "small"),
    ],
)
def test_degrees_come_in_three(words, degree):
    assert find_severity(find_words(words, 0, len(words))) == degree


def places(text):
    found = find_places(find_words(text, 0, len(text)), text=text)
    return [(place.location, place.severity) for place in found]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("right upper and left lower lobes", ["right upper", "left lower"]),
        ("right upper and lower lobe", ["right upper", "right lower"]),
        ("left and right upper lobes", ["bilateral upper"]),
        ("left and right bases", ["bilateral base"]),
        ("RLL and LUL", ["right lower", "left upper"]),
        ("RLL/LLL", ["bilateral lower"]),
        ("RUL, RML and LLL", ["right upper", "right middle", "left lower"]),
        ("right lower lobe and lingula", ["right lower", "left middle"]),
        ("bilateral upper and right lower lobe", ["bilateral upper", "right lower"]),
        ("upper and lower lobes bilaterally", ["upper", "bilateral lower"]),
        ("at the bases, left greater than right", ["bilateral base"]),
        ("bilateral, left greater than right", ["bilateral"]),
        ("on the left and in the right base", ["left", "right base"]),
        ("in the upper lobes", ["bilateral upper"]),
        ("left retrocardiac", ["left lower"]),
        ("R > L", ["bilateral"]),
        ("tip in the mid SVC", []),
        ("right atrium and left ventricle", []),
        ("lower thoracic spine", []),
        ("", []),
    ],
)
def test_several_places_are_several(words, named):
    assert [location for location, _ in places(words)] == named


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("small left and moderate right", [("left", "small"), ("right", "moderate")]),
        ("moderate on the right and small on the left", [("right", "moderate"), ("left", "small")]),
        ("bilateral, moderate on the right and small on the left", [("right", "moderate"), ("left", "small")]),
        ("small right and left", [("bilateral", "small")]),
        ("small to moderate left", [("left", "moderate")]),
        ("small left and small right", [("bilateral", "small")]),
        ("large right upper and small right lower", [("right upper", "large"), ("right lower", "small")]),
    ],
)
def test_each_place_has_its_degree(words, named):
    assert places(words) == named


WORDS = st.lists(
    st.sampled_from(
        ["left", "right", "both", "upper", "lower", "base", "bases", "and", ",", "small", "large", "than", "lungs"]
    )
)


@given(WORDS.map(" ".join))
def test_places_are_different_and_read_back(text):
    found = [location for location, _ in places(text)]
    assert len(found) == len(set(found))
    assert all(location and compose(*parts(location)) == location for location in found)
    assert find_location(find_words(text, 0, len(text)), text=text) == (found[0] if found else None)
