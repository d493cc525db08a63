import numpy as np
import pytest

from tests.inference.calibrated import made_calibration
from vlp.inference.diagnose import Request, diagnose
from vlp.inference.engine import Engine
from vlp.inference.places import groundings
from vlp.prompts.protocols import protocol


def test_each_descriptor_has_a_place_on_each_image(engine: Engine, pictures: list[np.ndarray]) -> None:
    answer = diagnose(engine, pictures[1:3], Request(findings=("nodule",), where=True))
    for item in answer.findings[0].descriptors:
        assert len(item.where) == 2
        for place, picture in zip(item.where, pictures[1:3], strict=True):
            assert place.peak is not None
            assert 0 <= place.peak[0] <= picture.shape[1]
            assert 0 <= place.peak[1] <= picture.shape[0]
    assert answer.to_json()["findings"][0]["descriptors"][0]["where"][0]["measured_by"].startswith("image")


def test_places_are_those_of_the_descriptors_own_map(engine: Engine, pictures: list[np.ndarray]) -> None:
    (picture,) = pictures[1:2]
    answer = diagnose(engine, [picture], Request(findings=("nodule",), where=True, calibration=None))
    for item in answer.findings[0].descriptors:
        alone = engine.ground(picture, item.positive)
        assert item.where[0].peak == alone.peak
        assert item.where[0].box == alone.box


def test_the_calibrated_threshold_counts(engine: Engine, pictures: list[np.ndarray]) -> None:
    calibration = made_calibration(engine)
    answer = diagnose(engine, pictures[:1], Request(findings=("nodule",), where=True, calibration=calibration))
    shown = groundings(engine, pictures[0], answer.findings[0], calibration=calibration)
    assert {one.threshold for one in shown} == {0.1}
    assert {one.threshold_source for one in shown} == {"calibration"}
    for item, one in zip(answer.findings[0].descriptors, shown, strict=True):
        assert item.where[0].box == one.box
        assert item.where[0].area_share == pytest.approx((one.map >= 0.1).sum() / np.isfinite(one.map).sum())


def test_a_lateral_view_has_no_sides(engine: Engine, pictures: list[np.ndarray]) -> None:
    answer = diagnose(engine, pictures[:2], Request(findings=("nodule",), where=True, views=("lateral", "PA")))
    for item in answer.findings[0].descriptors:
        assert item.where[0].side is None
        assert item.where[1].side is not None


def test_several_wordings_share_a_map(engine: Engine, pictures: list[np.ndarray]) -> None:
    request = Request(findings=("pneumonia",), protocol=protocol("biovil"), where=True)
    (item,) = diagnose(engine, pictures[:1], request).findings[0].descriptors
    features, placements = engine.features(pictures[:1])
    mean = np.mean([engine.maps_of([text], features)[0, 0] for text in item.positive.split(" | ")], axis=0)
    carried = placements[0].map_to_original(mean)
    rows, columns = np.nonzero(carried == carried.max())
    assert item.where[0].peak == pytest.approx((columns.mean() + 0.5, rows.mean() + 0.5), abs=1.0)
