import json

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vlp.inference.evidence import outlines, where
from vlp.inference.lungs import LungField

ROWS, COLUMNS = 90, 120


def lungs() -> LungField:
    """Two lungs that do not fill the image: x 20-50 and 70-100, the right one's base higher than the left one's."""
    mask = np.zeros((ROWS, COLUMNS), bool)
    mask[10:55, 20:50] = True
    mask[10:70, 70:100] = True
    return LungField(mask=mask, source="given")


def hot(*places: tuple[slice, slice], value: float = 0.8) -> np.ndarray:
    values = np.zeros((ROWS, COLUMNS), np.float32)
    for rows, columns in places:
        values[rows, columns] = value
    return values


@pytest.mark.parametrize("field", [None, lungs()])
@pytest.mark.parametrize(
    ("place", "side", "zone"),
    [
        ((slice(12, 20), slice(22, 40)), "right", "upper"),
        ((slice(30, 36), slice(75, 95)), "left", "middle"),
        ((slice(62, 70), slice(80, 99)), "left", "lower"),
        ((slice(75, 88), slice(22, 40)), "right", "lower"),
    ],
)
def test_sides_are_the_patients_and_zones_are_thirds(place, side, zone, field) -> None:
    found = where(hot(place), lungs=field, threshold=0.5)
    assert (found.side, found.zone) == (side, zone)
    assert found.words == f"{side} {zone}"


def test_each_lung_has_its_own_thirds() -> None:
    """Row 45 is in the lower third of the short right lung and in the middle third of the long left one."""
    row = slice(44, 47)
    assert where(hot((row, slice(25, 45))), lungs=lungs(), threshold=0.5).zone == "lower"
    assert where(hot((row, slice(75, 95))), lungs=lungs(), threshold=0.5).zone == "middle"


def test_the_midline_is_that_of_the_lungs_not_of_the_image() -> None:
    shifted = np.zeros((ROWS, COLUMNS), bool)
    shifted[10:60, 40:65] = True
    shifted[10:60, 85:110] = True  # the midline is at 75, right of the image's at 60
    values = hot((slice(20, 40), slice(62, 72)))
    assert where(values, lungs=None, threshold=0.5).side == "left"
    assert where(values, lungs=LungField(mask=shifted, source="given"), threshold=0.5).side == "right"


@pytest.mark.parametrize("field", [None, lungs()])
def test_a_heart_is_midline_and_fluid_at_both_bases_is_bilateral(field) -> None:
    heart = where(hot((slice(35, 65), slice(45, 75))), lungs=field, threshold=0.5)
    assert heart.side == "midline"
    bases = where(hot((slice(60, 70), slice(20, 48)), (slice(60, 70), slice(72, 100))), lungs=field, threshold=0.5)
    assert (bases.side, bases.words) == ("both", "bilateral lower")
    haze = where(hot((slice(15, 60), slice(20, 100))), lungs=field, threshold=0.5)
    assert haze.side == "both"


def test_what_barely_counts_hardly_matters() -> None:
    values = hot((slice(12, 20), slice(22, 40)), value=0.9)
    values[60:70, 72:100] = 0.51  # larger, and just above the threshold
    assert where(values, lungs=None, threshold=0.5).words == "right upper"


def test_the_share_inside_the_lungs_is_the_share_of_the_mass() -> None:
    values = hot((slice(20, 30), slice(30, 40)), value=0.9)  # 100 pixels, .4 over the threshold, in the right lung
    values[75:85, 30:50] = 0.6  # 200 pixels, .1 over it, below the lung
    found = where(values, lungs=lungs(), threshold=0.5)
    assert found.lung_share == pytest.approx(100 * 0.4 / (100 * 0.4 + 200 * 0.1), abs=1e-6)
    assert found.area_share == pytest.approx(300 / (ROWS * COLUMNS))
    assert found.lungs == "given"
    assert where(values, lungs=None, threshold=0.5).lung_share is None


def test_a_plateau_at_the_threshold_counts_by_its_pixels() -> None:
    values = hot((slice(20, 30), slice(30, 40)), (slice(75, 85), slice(30, 40)), value=0.5)
    found = where(values, lungs=lungs(), threshold=0.5)
    assert found.lung_share == pytest.approx(0.5)
    assert found.side == "right"


def test_nothing_above_the_threshold_is_nowhere() -> None:
    found = where(hot((slice(20, 30), slice(30, 40)), value=0.3), lungs=lungs(), threshold=0.5)
    assert found.peak == (35.0, 25.0)
    assert (found.box, found.side, found.zone, found.lung_share, found.area_share) == (None, None, None, None, 0.0)
    assert found.words == ""


def test_pixels_nobody_saw_count_neither_way() -> None:
    values = hot((slice(12, 20), slice(60, 120)))
    values[:, 60:] = np.nan
    values[30:40, 20:30] = 0.9
    found = where(values, lungs=None, threshold=0.5)
    assert found.words == "right middle"
    assert found.area_share == pytest.approx(100 / (ROWS * 60))
    assert found.box == (20.0, 30.0, 30.0, 40.0)


def test_a_lateral_view_has_no_sides() -> None:
    found = where(hot((slice(12, 20), slice(22, 40))), lungs=None, threshold=0.5, view="lateral")
    assert (found.side, found.zone) == (None, "upper")


def test_json_says_what_sides_and_zones_are_measured_by() -> None:
    values = hot((slice(12, 20), slice(22, 40)))
    with_lungs, without = (
        json.loads(json.dumps(where(values, lungs=field, threshold=0.5).to_json())) for field in (lungs(), None)
    )
    assert (with_lungs["measured_by"], with_lungs["lungs"]) == ("lung field", "given")
    assert (without["measured_by"], without["lungs"]) == ("image, for want of a lung field", None)
    assert without["box"] == [22.0, 12.0, 40.0, 20.0]


@given(arrays(np.float32, (8, 10), elements=st.floats(-1, 1, width=32)), st.floats(-1, 1, width=32))
def test_mirroring_the_map_mirrors_the_side(values: np.ndarray, threshold: float) -> None:
    swapped = {"left": "right", "right": "left"}
    own, mirrored = (where(item, lungs=None, threshold=threshold) for item in (values, values[:, ::-1]))
    assert mirrored.side == swapped.get(own.side or "", own.side)
    assert mirrored.zone == own.zone
    assert mirrored.area_share == own.area_share == (values >= threshold).mean()


def filled(polygons, shape: tuple[int, int]) -> np.ndarray:
    """By the even-odd rule, at four times the resolution so that corners fall on pixels' corners; read at centres."""
    canvas = np.zeros((shape[0] * 4, shape[1] * 4), np.uint8)
    for polygon in polygons:
        inside = np.zeros_like(canvas)
        cv2.fillPoly(inside, [np.round(np.array(polygon) * 4).astype(np.int32)], 1)
        canvas ^= inside
    return canvas[2::4, 2::4].astype(bool)


@given(arrays(np.bool_, (7, 9)))
def test_outlines_filled_are_the_mask(mask: np.ndarray) -> None:
    np.testing.assert_array_equal(filled(outlines(mask), mask.shape), mask)


def test_outlines_run_clockwise_around_parts_and_the_other_way_around_holes() -> None:
    mask = np.zeros((10, 12), bool)
    mask[1:8, 1:8] = True
    mask[3:5, 3:6] = False
    mask[8, 8] = True  # touches at a corner only
    found = {frozenset(polygon): polygon for polygon in outlines(mask)}
    outer = frozenset({(1.0, 1.0), (8.0, 1.0), (8.0, 8.0), (1.0, 8.0)})
    hole = frozenset({(3.0, 3.0), (6.0, 3.0), (6.0, 5.0), (3.0, 5.0)})
    alone = frozenset({(8.0, 8.0), (9.0, 8.0), (9.0, 9.0), (8.0, 9.0)})
    assert set(found) == {outer, hole, alone}
    area = {name: cv2.contourArea(np.array(found[name], np.float32), oriented=True) for name in found}
    assert (area[outer], area[hole], area[alone]) == (49.0, -6.0, 1.0)
    assert outlines(np.zeros((3, 3), bool)) == ()
