import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.ingest.archives.replicas.coco import compress
from vlp.errors import DataError
from vlp.ingest.geometry import clipped_box, coco_counts, mask_from_counts, polygon_mask, scaled_box
from vlp.records import Mask

ROWS, COLUMNS = 12, 15
CORNER = st.tuples(st.floats(-4, 19), st.floats(-4, 16))


def _inside(polygon, x, y):
    """Ray casting, one point at a time."""
    inside = False
    for (x0, y0), (x1, y1) in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        if (y0 > y) != (y1 > y) and x >= x0 + (y - y0) * (x1 - x0) / (y1 - y0):
            inside = not inside
    return inside


WHOLE = st.tuples(st.integers(-2, COLUMNS + 2), st.integers(-2, ROWS + 2))


@given(st.lists(WHOLE, min_size=3, max_size=6))
@example([(0, 0), (0, 3), (10, 11)])
def test_corners_on_whole_pixels_are_exact_even_where_an_edge_runs_through_a_centre(polygon):
    """Against fractions, which do not round."""
    exact = [(Fraction(x), Fraction(y)) for x, y in polygon]
    centres = [[(x + Fraction(1, 2), y + Fraction(1, 2)) for x in range(COLUMNS)] for y in range(ROWS)]
    expected = np.array([[_inside(exact, *centre) for centre in row] for row in centres])
    if expected.any():
        assert np.array_equal(polygon_mask([polygon], rows=ROWS, columns=COLUMNS).decode(), expected)


@given(st.lists(st.lists(CORNER, min_size=3, max_size=7), min_size=1, max_size=3))
@example([[(0.0, 0.0), (6.2634705505876, 6.2634705505876), (0.0, 2.0)]])
@example([[(0.0, 0.0), (0.0, 0.0), (6.2634705505876, 6.2634705505876)]])
def test_a_polygon_holds_the_pixels_whose_centre_it_holds(polygons):
    expected = np.array(
        [[any(_inside(p, x + 0.5, y + 0.5) for p in polygons) for x in range(COLUMNS)] for y in range(ROWS)]
    )
    if expected.any():
        assert np.array_equal(polygon_mask(polygons, rows=ROWS, columns=COLUMNS).decode(), expected)
    else:
        with pytest.raises(DataError, match="covers no pixel"):
            polygon_mask(polygons, rows=ROWS, columns=COLUMNS)


def test_a_polygon_around_whole_pixels_is_those_pixels():
    mask = polygon_mask([[(2, 3), (7, 3), (7, 5), (2, 5)]], rows=ROWS, columns=COLUMNS)
    assert mask.box() == (2.0, 3.0, 7.0, 5.0)
    assert mask.decode().sum() == 10


def test_a_hole_made_by_crossing_itself_stays_open():
    ring = [(0, 0), (10, 0), (10, 10), (0, 10), (0, 0), (3, 3), (3, 7), (7, 7), (7, 3), (3, 3)]
    pixels = polygon_mask([ring], rows=ROWS, columns=COLUMNS).decode()
    assert pixels[1, 1]
    assert not pixels[5, 5]
    assert pixels.sum() == 100 - 16


@pytest.mark.parametrize(
    ("polygon", "message"),
    [
        ([(1, 1), (2, 2)], "fewer than three"),
        ([(1, 1), (2, 2), (3, math.nan)], "not a list"),
        ([(1, 1), (2, 2), (3, "a")], "not a list"),
        ([(1, 1, 1), (2, 2, 2), (3, 3, 3)], "not a list"),
        ([(1, 1), (2,), (3, 3)], "not a list"),
        ([(1, 1), (2, 2), (1e300, 3)], "outside its image"),
        ([], "not a list"),
        ([(100, 100), (110, 100), (110, 110)], "covers no pixel"),
    ],
)
def test_what_is_no_polygon_is_refused(polygon, message):
    with pytest.raises(DataError, match=message):
        polygon_mask([polygon], rows=ROWS, columns=COLUMNS)


@pytest.mark.parametrize(
    ("edges", "box"),
    [
        ((1, 2, 3, 4), (1.0, 2.0, 3.0, 4.0)),
        ((-1, -0.5, 16, 13), (0.0, 0.0, 15.0, 12.0)),
        ((0, 0, 15, 12), (0.0, 0.0, 15.0, 12.0)),
    ],
)
def test_boxes_are_cut_where_they_reach_over_the_border_by_rounding(edges, box):
    assert clipped_box(edges, rows=ROWS, columns=COLUMNS) == box


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ((0, 0, 16.1, 5), "outside"),
        ((-1.1, 0, 5, 5), "outside"),
        ((0, 0, 5, 13.5), "outside"),
        ((-0.9, 0, -0.1, 5), "outside"),
        ((15.2, 0, 15.8, 5), "outside"),
        ((5, 0, 5, 5), "no area"),
        ((5, 5, 2, 7), "no area"),
        ((math.nan, 0, 2, 7), "four numbers"),
        ((0, 0, math.inf, 7), "four numbers"),
        ((0, 0, 7), "four numbers"),
    ],
)
def test_impossible_boxes_are_refused(edges, message):
    with pytest.raises(DataError, match=message):
        clipped_box(edges, rows=ROWS, columns=COLUMNS)


def test_boxes_scale_side_by_side():
    assert scaled_box((1, 2, 3, 4), across=2.0, down=0.5) == (2.0, 1.0, 6.0, 2.0)


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(1, 6))
def test_run_lengths_come_back_through_cocos_compressed_form(bits, rows):
    pixels = np.zeros((rows, len(bits)), dtype=bool)
    pixels[rows // 2] = bits
    mask = Mask.encode(pixels)
    assert coco_counts(compress(list(mask.counts))) == mask.counts
    assert mask_from_counts(mask.counts, rows=rows, columns=len(bits)) == mask


def test_compressed_run_lengths_are_read_as_cocos_own_program_writes_them():
    # Both made with pycocotools 2.0: a few random pixels, and a square with a pixel in the far corner.
    expected = ["01110", "00000", "01010", "10011", "11000", "10000", "01100"]
    small = mask_from_counts(coco_counts("331N00000140L05OM"), rows=7, columns=5)
    assert ["".join(map(str, row)) for row in small.decode().astype(int)] == expected
    big = np.zeros((1024, 1024), dtype=bool)
    big[100:900, 3:1000] = True
    big[0, 1023] = True
    text = "TS3Pi0P7" + "0" * 1991 + "llf0QWOSlYO"
    assert np.array_equal(mask_from_counts(coco_counts(text), rows=1024, columns=1024).decode(), big)


def test_empty_runs_make_no_difference():
    assert mask_from_counts((0, 0, 3, 0, 0, 2, 1), rows=2, columns=3) == mask_from_counts((3, 2, 1), rows=2, columns=3)


@pytest.mark.parametrize("counts", [(3, 2), (3, 2, 2), (-1, 4, 3), (3.0, 3), (True, 5), ("6",), (10**30,)])
def test_run_lengths_that_do_not_fill_the_image_are_refused(counts):
    with pytest.raises(DataError, match="run lengths"):
        mask_from_counts(counts, rows=2, columns=3)


@pytest.mark.parametrize("text", ["\x00", "3 3", "P", "3~", "o" * 40, "ä"])
def test_broken_compressed_run_lengths_are_refused(text):
    with pytest.raises(DataError, match="compressed run lengths"):
        coco_counts(text)
