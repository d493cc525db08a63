from collections import Counter

import numpy as np
import pytest

from vlp.ingest.phantom.places import places, wardrobe
from vlp.ingest.phantom.truth import DEVICES, FINDINGS


def many(finding: str) -> list:
    return [places(finding, np.random.default_rng([1, number])) for number in range(200)]


@pytest.mark.parametrize("finding", [name for name in FINDINGS if name != "support device"])
def test_sides_differ_and_share_a_zone(finding):
    for there in many(finding):
        assert 1 <= len(there) <= 2
        assert len({place.side for place in there}) == len(there)
        assert len({place.zone for place in there}) == 1
        assert there[0].share == 1.0
        assert all(0.5 < place.share <= 1.0 for place in there)


@pytest.mark.parametrize("finding", ["edema", "emphysema"])
def test_diseases_of_both_lungs_are_on_both_sides(finding):
    assert all({place.side for place in there} == {"left", "right"} for there in many(finding))


@pytest.mark.parametrize("finding", ["cardiomegaly", "hernia"])
def test_the_midline_has_no_side(finding):
    assert all([place.side for place in there] == [None] for there in many(finding))


@pytest.mark.parametrize("finding", ["nodule", "mass", "consolidation", "fracture"])
def test_both_sides_and_all_zones_occur(finding):
    seen = Counter((there[0].side, there[0].zone) for there in many(finding))
    assert len(seen) == 6


@pytest.mark.parametrize("finding", ["pneumothorax", "mass", "fracture", "hernia", "cardiomegaly"])
def test_some_findings_are_single(finding):
    assert all(len(there) == 1 for there in many(finding))


def test_wardrobes_hold_known_devices_and_cover_them():
    worn = set()
    for number in range(60):
        person = wardrobe(np.random.default_rng([2, number]))
        worn |= {*person.permanent, *person.bedside, *person.intensive}
        assert "endotracheal tube" in person.intensive
    assert worn | {"chest tube"} == set(DEVICES)
