from dataclasses import replace

import numpy as np
import pytest

from tests.evaluate.conftest import GreyModel
from tests.evaluate.explain.conftest import MirroredModel, sample_of
from vlp.data import ShardReader
from vlp.evaluate.explain import contrast
from vlp.evaluate.explain.sample import Sample
from vlp.evaluate.explain.table import Row
from vlp.metrics.proportion import wilson

DRAWING = {"resamples": 200, "seed": 0}


def _rows(rows: list[Row]) -> dict[str, Row]:
    return {row.what: row for row in rows}


def test_a_model_that_knows_sides_passes_with_an_honest_interval(sided: Sample) -> None:
    by_score, by_map = contrast.laterality(sided, **DRAWING)
    assert (by_score.value, by_score.outcome) == (1.0, "passed")
    assert (by_map.value, by_map.outcome) == (1.0, "passed")
    patients = {
        side: {sided.patients[case.number] for case in sided.one_sided if case.side == side}
        for side in ("left", "right")
    }
    fewer = min(map(len, patients.values()))
    assert by_score.low == pytest.approx(wilson(fewer, fewer)[0], abs=1e-6)
    assert "Wilson" in by_score.method


def test_a_model_that_takes_left_for_right_fails(reader: ShardReader) -> None:
    """The planted fault."""
    by_score, by_map = contrast.laterality(sample_of(MirroredModel(), reader), **DRAWING)
    assert (by_score.value, by_score.outcome) == (0.0, "failed")
    assert (by_map.value, by_map.outcome) == (0.0, "failed")


def test_a_model_that_does_not_read_sides_does_not_pass(reader: ShardReader) -> None:
    by_score, by_map = contrast.laterality(sample_of(GreyModel(), reader), **DRAWING)
    assert by_score.value == 0.5
    assert by_score.outcome == "failed"
    assert by_map.outcome == "passed", "its maps are where the findings are all the same"


def test_one_side_alone_is_no_test(sided: Sample) -> None:
    one = replace(sided)
    object.__setattr__(one, "one_sided", tuple(case for case in sided.one_sided if case.side == "left"))
    assert {row.outcome for row in contrast.laterality(one, **DRAWING)} == {"not run"}


def test_the_left_share_is_that_of_the_right_half() -> None:
    right = np.zeros((4, 6))
    right[1, 4] = 1.0
    assert contrast.left_share(right) == 1.0
    assert contrast.left_share(right[:, ::-1]) == 0.0
    middle = np.zeros((3, 5))
    middle[1, 2] = 1.0
    assert contrast.left_share(middle) == 0.5
    assert contrast.left_share(np.ones((3, 4))) == 0.5
    holed = right.copy()
    holed[0, :4] = np.nan
    assert contrast.left_share(holed) == 1.0


def test_own_words_light_more_than_others(sided: Sample) -> None:
    rows = _rows(contrast.prompts(sided, **DRAWING))
    assert all(row.outcome == "reported" and row.value is not None and row.value > 0.1 for row in rows.values())
    assert rows["peak above the denial's"].n == len(sided.present)
    assert rows["peak above the other side's"].n == len(sided.one_sided)
    unrelated = rows["peak above an absent finding's"]
    both = sum(
        len({case.finding for case in sided.present if case.number == n}) == 1 for n in range(len(sided.studies))
    )
    assert unrelated.n == both, "studies where one finding is there and the other is not"


def test_a_perfect_model_lights_nowhere_where_nothing_is(sided: Sample) -> None:
    rows = _rows(contrast.absent(sided, **DRAWING))
    assert rows["AUROC of the highest cosine"].value == 1.0
    assert rows["share without any patch over the threshold"].value == 1.0
    assert rows["area over the threshold"].value == 0.0
    assert rows["area over the threshold"].n == len(sided.cases) - len(sided.present)
    assert "80% of the studies" in rows["area over the threshold"].method


def test_maps_that_light_everywhere_are_told(sided: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted fault: one map for every image."""
    maps = sided.engine.maps_of

    def same(texts, features):
        values = maps(texts, features)
        values[:] = values.max(axis=1, keepdims=True)
        return values

    monkeypatch.setattr(sided.engine, "maps_of", same)
    rows = _rows(contrast.absent(sided, **DRAWING))
    assert rows["AUROC of the highest cosine"].value == 0.5
    assert rows["share without any patch over the threshold"].value == 0.0
    area = rows["area over the threshold"].value
    assert area is not None
    assert area > 0.1


def test_a_calibrated_threshold_is_used(sided: Sample) -> None:
    from tests.inference.calibrated import made_calibration

    maps = {
        name: {"threshold": -1.0, "texts": (f"There is {name}.",), "dice": 0.5, "images": 3} for name in sided.findings
    }
    rows = _rows(contrast.absent(replace(sided, calibration=made_calibration(sided.engine, maps=maps)), **DRAWING))
    assert rows["area over the threshold"].value == 1.0, "everything is above a cosine of -1"
    assert "calibrated" in rows["area over the threshold"].method
