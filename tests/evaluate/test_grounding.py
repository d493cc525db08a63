from typing import Any

import numpy as np
import pytest

from vlp.config import validate
from vlp.errors import DataError
from vlp.evaluate.config import EvaluateConfig
from vlp.evaluate.grounding import THRESHOLDS, estimate, focal_findings, measure, thresholds, true_mask
from vlp.metrics.segmentation import dice
from vlp.records import Mask, Region


def config(**changes: Any) -> EvaluateConfig:
    values = {"checkpoint": "a", "shards": "b", "output": "c", "resamples": 200, **changes}
    return validate(EvaluateConfig, values, where="test")


def square(*, top: int = 2, left: int = 3) -> np.ndarray:
    truth = np.zeros((8, 10), dtype=bool)
    truth[top : top + 3, left : left + 3] = True
    return truth


def row(values: np.ndarray, truth: np.ndarray, **changes: Any) -> dict[str, Any]:
    common = {"finding": "mass", "split": "test", "status": "ok", "patient_id": "p", "study_id": "s"}
    return {**common, **measure(values, truth), **changes}


def test_boxes_and_masks_of_a_finding_are_united_and_points_are_not_regions() -> None:
    regions = [
        Region(finding="mass", image="a", geometry=(3.0, 2.0, 6.0, 5.0)),
        Region(finding="mass", image="a", geometry=Mask.encode(square(top=5, left=7))),
        Region(finding="mass", image="b", geometry=(0.0, 0.0, 1.0, 1.0)),
        Region(finding="nodule", image="a", geometry=(0.0, 0.0)),
    ]
    union = true_mask(regions, finding="mass", image="a", rows=8, columns=10)
    assert (union == (square() | square(top=5, left=7))).all()
    assert true_mask(regions, finding="nodule", image="a", rows=8, columns=10) is None
    with pytest.raises(DataError, match="mask is"):
        true_mask(regions, finding="mass", image="a", rows=9, columns=10)


def test_a_mirrored_or_upturned_map_misses() -> None:
    corner = square(top=0, left=0)
    values = np.where(corner, 0.9, 0.1).astype(np.float32)
    assert measure(values, corner)["hit"]
    assert not measure(values[:, ::-1], corner)["hit"]
    assert not measure(values[::-1], corner)["hit"]


def test_pixels_never_seen_count_neither_way() -> None:
    values = np.where(square(), 0.9, 0.1).astype(np.float32)
    values[:, :4] = np.nan
    measured = measure(values, square())
    assert (measured["valid_px"], measured["truth_px"]) == (48, 6)
    assert measured["predicted_px"][0] == 48


def test_threshold_comes_from_validation_rows_alone() -> None:
    truth = square()
    val = np.where(truth, 0.5, 0.2).astype(np.float32)
    test = np.where(truth, 0.9, 0.6).astype(np.float32)
    rows = [row(val, truth, split="val", patient_id="v"), row(test, truth)]
    cut = thresholds(rows, config())
    assert 0.2 < cut["mass"] <= 0.5
    results = {(one.metric, one.finding): one for one in estimate(rows, config())}
    # Every pixel of the test map lies above the threshold that validation asked for.
    assert results["dice", "mass"].value == pytest.approx(dice(np.ones_like(truth), truth), abs=1e-6)
    assert results["pointing_game", "mass"].value == 1.0
    assert results["pointing_game_random", "mass"].value == pytest.approx(9 / 80, abs=1e-6)


def test_splits_that_share_a_patient_are_refused() -> None:
    values = np.where(square(), 0.9, 0.1).astype(np.float32)
    with pytest.raises(DataError, match="1 patients are in both"):
        thresholds([row(values, square(), split="val"), row(values, square())], config())


def test_macro_counts_focal_findings_only_and_misses_none() -> None:
    good, flat = np.where(square(), 0.9, 0.1).astype(np.float32), np.full((8, 10), 0.3, dtype=np.float32)
    rows = [
        row(good, square(), patient_id=str(number), finding=finding)
        for number in range(5)
        for finding in ("mass", "edema")
    ]
    rows += [row(flat, square(), patient_id=str(number), finding="nodule") for number in range(5)]
    assert focal_findings(rows, config()) == ("mass", "nodule")
    results = {(one.metric, one.finding): one for one in estimate(rows, config())}
    assert results["pointing_game", "macro"].value == 0.5
    assert results["dice", "macro"].value is None
    assert "no region on the threshold split" in results["dice", "mass"].method
    # A declared finding without any region is undefined: one of three is too many for a macro average.
    declared = estimate(rows, config(focal=["mass", "nodule", "hernia"]))
    macro = next(one for one in declared if (one.metric, one.finding) == ("pointing_game", "macro"))
    assert macro.value is None
    assert "hernia" in macro.method


def test_all_misses_still_leave_a_width() -> None:
    flat = np.full((8, 10), 0.3, dtype=np.float32)
    rows = [row(flat, square(), patient_id=str(number)) for number in range(6)]
    results = {(one.metric, one.finding): one for one in estimate(rows, config())}
    missed = results["pointing_game", "mass"]
    assert (missed.value, missed.low) == (0.0, 0.0)
    assert missed.high > 0.3
    assert "Wilson" in missed.method


def test_thresholds_cover_all_cosines() -> None:
    assert (THRESHOLDS[0], THRESHOLDS[-1]) == (-1.0, 1.0)
    assert np.diff(THRESHOLDS) == pytest.approx(0.01)
