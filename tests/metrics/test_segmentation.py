import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import f1_score, jaccard_score

from vlp.errors import DataError
from vlp.metrics.segmentation import (
    best_threshold,
    box_mask,
    dice,
    dice_from_counts,
    iou,
    iou_from_counts,
    overlaps,
    peak,
    pointing_hit,
    region_mask,
)
from vlp.records import Mask, Region

masks = arrays(bool, (4, 5))


@given(masks, masks)
def test_overlap_equals_scikit_learn(prediction: np.ndarray, truth: np.ndarray) -> None:
    if not prediction.any() and not truth.any():
        assert np.isnan(dice(prediction, truth))
        assert np.isnan(iou(prediction, truth))
        return
    assert dice(prediction, truth) == pytest.approx(f1_score(truth.ravel(), prediction.ravel()))
    assert iou(prediction, truth) == pytest.approx(jaccard_score(truth.ravel(), prediction.ravel()))


@given(arrays(np.float32, (4, 5), elements=st.sampled_from([-1.0, -0.2, 0.0, 0.3, 1.0, float("nan")])), masks)
def test_counts_at_every_threshold_equal_a_loop(values: np.ndarray, truth: np.ndarray) -> None:
    thresholds = np.array([-1.0, -0.2, 0.1, 0.30000001192092896, 0.9, 1.0])
    counts = overlaps(values, truth, thresholds)
    valid = ~np.isnan(values)
    assert counts.truth == (truth & valid).sum()
    for index, threshold in enumerate(thresholds):
        above = valid & (values >= threshold)
        assert counts.predicted[index] == above.sum()
        assert counts.shared[index] == (above & truth).sum()
        kept_truth = truth & valid
        assert dice_from_counts(counts.predicted, counts.shared, counts.truth)[index] == pytest.approx(
            dice(above, kept_truth), nan_ok=True
        )
        assert iou_from_counts(counts.predicted, counts.shared, counts.truth)[index] == pytest.approx(
            iou(above, kept_truth), nan_ok=True
        )


def test_best_threshold_prefers_the_higher_of_equals() -> None:
    thresholds = np.array([0.1, 0.2, 0.3, 0.4])
    assert best_threshold(np.array([[0.2, 0.6, 0.6, 0.0], [0.2, 0.6, 0.6, 0.1]]), thresholds) == 0.3
    assert np.isnan(best_threshold(np.zeros((0, 4)), thresholds))


def test_an_empty_mask_scores_nothing_rather_than_being_left_out() -> None:
    assert dice(np.zeros((2, 2), dtype=bool), np.eye(2, dtype=bool)) == 0.0


def test_pointing_rule_on_a_constant_map_is_a_miss() -> None:
    assert not pointing_hit(np.full((3, 3), 0.4, dtype=np.float32), np.ones((3, 3), dtype=bool))
    assert not pointing_hit(np.full((3, 3), np.nan, dtype=np.float32), np.ones((3, 3), dtype=bool))


def test_ties_are_judged_by_their_centroid() -> None:
    values = np.zeros((3, 5), dtype=np.float32)
    values[1, 0] = values[1, 4] = 1.0
    ends, middle = np.zeros((3, 5), dtype=bool), np.zeros((3, 5), dtype=bool)
    ends[1, [0, 4]] = True
    middle[1, 2] = True
    assert peak(values) == (2.5, 1.5)
    assert not pointing_hit(values, ends)
    assert pointing_hit(values, middle)


def test_pixels_never_seen_are_no_peak() -> None:
    values = np.array([[np.nan, 0.1], [0.2, 0.9]], dtype=np.float32)
    assert peak(values) == (1.5, 1.5)
    assert pointing_hit(values, np.array([[True, False], [False, True]]))


def test_box_mask_has_exclusive_far_edges_and_is_cut_to_the_image() -> None:
    mask = box_mask((1.0, 0.0, 3.0, 2.0), rows=3, columns=4)
    assert mask.tolist() == [[False, True, True, False], [False, True, True, False], [False] * 4]
    assert box_mask((-5.0, -5.0, 99.0, 99.0), rows=2, columns=2).all()
    assert not box_mask((1.2, 1.2, 1.4, 1.4), rows=3, columns=3).any()


def test_masks_and_boxes_unite_and_points_have_no_extent() -> None:
    mask = np.zeros((6, 8), dtype=bool)
    mask[0, 0] = True
    drawn, box, point = (
        Region(finding="mass", image="i", geometry=geometry)
        for geometry in (Mask.encode(mask), (2.0, 3.0, 4.0, 5.0), (7.0, 5.0))
    )
    union = region_mask([drawn, box, point], rows=6, columns=8)
    assert union is not None
    assert [tuple(place) for place in np.argwhere(union)] == [(0, 0), (3, 2), (3, 3), (4, 2), (4, 3)]
    assert region_mask([point], rows=6, columns=8) is None
    assert region_mask([], rows=6, columns=8) is None
    with pytest.raises(DataError, match="on an image of"):
        region_mask([drawn], rows=8, columns=6)
