import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from vlp.records import Mask, Region


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)))
def test_mask_comes_back_as_it_went(pixels: np.ndarray) -> None:
    mask = Mask.encode(pixels)
    assert np.array_equal(mask.decode(), pixels)
    assert sum(mask.counts) == pixels.size
    assert all(count > 0 for count in mask.counts[1:])


def test_mask_counts_run_down_the_columns_and_start_with_zeros() -> None:
    pixels = np.array([[True, False], [True, True]])
    assert Mask.encode(pixels).counts == (0, 2, 1, 1)


@given(st.integers(0, 5), st.integers(0, 7), st.integers(1, 4), st.integers(1, 4))
def test_box_of_a_filled_rectangle_is_the_rectangle(top: int, left: int, height: int, width: int) -> None:
    pixels = np.zeros((12, 14), dtype=bool)
    pixels[top : top + height, left : left + width] = True
    assert Mask.encode(pixels).box() == (left, top, left + width, top + height)


def test_an_empty_mask_has_no_box() -> None:
    assert Mask.encode(np.zeros((3, 4), dtype=bool)).box() is None


def test_the_geometry_tells_the_kind() -> None:
    mask = Mask.encode(np.ones((2, 2), dtype=bool))
    kinds = [Region(finding="nodule", image="a", geometry=g).kind for g in ((0.0, 0.0, 1.0, 1.0), mask, (1.0, 2.0))]
    assert kinds == ["box", "mask", "point"]
