from typing import Any

import numpy as np
import pytest

from vlp.config import validate
from vlp.errors import DataError
from vlp.evaluate.config import EvaluateConfig
from vlp.evaluate.grounding import (
    estimate,
    estimate_regions,
    focal_findings,
    large_findings,
    measure,
    thresholds,
    true_mask,
)
from vlp.metrics.segmentation import COSINES, dice
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
    assert (COSINES[0], COSINES[-1]) == (-1.0, 1.0)
    assert np.diff(COSINES) == pytest.approx(0.01)


def placed(truth: np.ndarray, **changes: Any) -> dict[str, Any]:
    return row(np.where(truth, 0.9, 0.1).astype(np.float32), truth, **changes)


def test_large_findings_are_large_on_the_threshold_split() -> None:
    big, small = np.zeros((40, 40), dtype=bool), np.zeros((40, 40), dtype=bool)
    big[:8, :8] = True  # 4 % of the image
    small[:2, :2] = True
    rows = [placed(big, split="val", patient_id=f"v{n}") for n in range(3)]
    rows += [placed(small, split="val", patient_id=f"v{n}", finding="nodule") for n in range(3)]
    # On the scored split it is the other way round, which must not matter.
    rows += [placed(small, patient_id=f"t{n}") for n in range(4)]
    rows += [placed(big, patient_id=f"t{n}", finding="nodule") for n in range(4)]
    assert large_findings(rows, config()) == ("mass",)
    assert large_findings(rows, config(large=["nodule"])) == ("nodule",)
    results = {(one.metric, one.finding): one for one in estimate(rows, config())}
    assert results["dice", "macro_large"].value == results["dice", "mass"].value
    assert "1 large findings" in results["dice", "macro_large"].method
    assert "mass" in results["dice", "macro_large"].method


def test_no_large_finding_is_no_figure() -> None:
    results = {(one.metric, one.finding): one for one in estimate([placed(square())], config())}
    assert results["dice", "macro_large"].value is None
    assert "none" in results["dice", "macro_large"].method


def test_thresholds_that_are_given_go_before_those_that_are_chosen() -> None:
    rows = [placed(square(), split="val", patient_id="v"), placed(square())]
    assert thresholds(rows, config())["mass"] == pytest.approx(0.89)  # 0.9 in float32 is less than 0.9
    given = config(map_thresholds={"mass": 0.05})
    assert thresholds(rows, given) == {"mass": 0.05}
    results = {(one.metric, one.finding): one for one in estimate(rows, given)}
    assert results["dice", "mass"].value == pytest.approx(dice(np.ones((8, 10), dtype=bool), square()), abs=1e-6)


def test_the_usual_place_is_a_figure_of_its_own() -> None:
    """The maps are right; the prior points elsewhere on the scored split, and its threshold is its own."""
    elsewhere = square(top=5, left=0)
    rows = [placed(square(), split=split, patient_id=f"{split}{n}") for split in ("val", "test") for n in range(3)]
    weak = np.where(elsewhere, 0.4, 0.0).astype(np.float32)
    prior = [
        row(np.where(square(), 0.4, 0.0).astype(np.float32), square(), split="val", patient_id="val0"),
        *(row(weak, square(), patient_id=f"test{n}") for n in range(3)),
    ]
    results = {(one.metric, one.finding): one for one in estimate(rows, config(), prior=prior)}
    assert results["pointing_game", "macro"].value == 1.0
    assert results["pointing_game_prior", "macro"].value == 0.0
    assert results["dice_prior", "mass"].value == 0.0
    assert "share of its peak >= 0.40" in results["dice_prior", "mass"].method
    assert ("dice_prior", "mass") not in {(one.metric, one.finding) for one in estimate(rows, config())}


def test_parts_of_the_body_have_no_pointing_game() -> None:
    rows = [
        placed(square(), split=split, patient_id=f"{split}{n}", finding="lungs")
        for split in ("val", "test")
        for n in range(3)
    ]
    results = {(one.task, one.metric, one.finding): one for one in estimate_regions(rows, config(), task="anatomy")}
    assert set(results) == {("anatomy", "dice", "lungs"), ("anatomy", "iou", "lungs")}
    assert results["anatomy", "dice", "lungs"].value == 1.0
    with_prior = estimate_regions(rows, config(), task="anatomy", prior=rows)
    assert {one.metric for one in with_prior} == {"dice", "iou", "dice_prior"}
