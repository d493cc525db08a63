import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vlp.data.transforms import Preprocess
from vlp.errors import DataError
from vlp.inference.engine import Engine
from vlp.inference.ground import ground, ground_texts, otsu, outline, segment_texts, strongest_text
from vlp.inference.lungs import LungField
from vlp.inference.windows import window_maps
from vlp.records import Mask

GRID, SIDE = 8, 64


def asking(grid: np.ndarray, shape: tuple[int, int], fit: str) -> SimpleNamespace:
    """Stands where an engine stands and knows the map already."""
    placement = Preprocess(size=SIDE, fit=fit).apply(np.zeros(shape, np.uint8))[1]
    return SimpleNamespace(ground_threshold=None, maps=lambda texts, image: (np.stack([grid] * len(texts)), placement))


def test_what_a_crop_cuts_away_is_not_answered() -> None:
    grid = np.full((GRID, GRID), 0.2, np.float32)
    answer = ground(asking(grid, (64, 192), "crop"), np.zeros((64, 192), np.uint8), "hot", threshold=0.1)
    assert np.isnan(answer.map[:, :60]).all()
    assert np.isfinite(answer.map[:, 64:128]).all()
    assert not answer.mask[:, :60].any()
    assert answer.mask[:, 64:128].all()


def test_the_box_is_around_the_part_that_holds_the_peak() -> None:
    values = np.zeros((20, 30), np.float32)
    values[2:4, 3:6] = 0.8
    values[3, 4] = 0.9
    values[10:19, 10:28] = 0.7  # larger, but not where the peak is
    answer = outline("text", values, threshold=0.5, source="given")
    assert answer.box == (3.0, 2.0, 6.0, 4.0)
    assert answer.peak == (4.5, 3.5)
    assert answer.mask.sum() == 6 + 9 * 18


def test_every_part_of_some_size_has_a_box_the_peak_first() -> None:
    values = np.zeros((100, 100), np.float32)
    values[10:30, 10:40] = 0.7
    values[60:80, 50:90] = 0.8
    values[5, 5] = 0.75  # a single pixel: too small
    values[90, 95] = 0.9  # so is this one, but it is where the map points
    answer = outline("text", values, threshold=0.5, source="given")
    assert answer.boxes == ((95.0, 90.0, 96.0, 91.0), (50.0, 60.0, 90.0, 80.0), (10.0, 10.0, 40.0, 30.0))
    assert answer.box == answer.boxes[0]
    assert len(answer.contours) == 4, "outlines leave nothing out"
    assert outline("text", values, threshold=0.95, source="given").boxes == ()


def test_ties_give_the_centroid_and_the_larger_part() -> None:
    values = np.zeros((10, 20), np.float32)
    values[4, 2] = values[4, 3] = 0.5
    values[4, 12:16] = 0.5
    answer = outline("text", values, threshold=0.5, source="given")
    assert answer.peak == (pytest.approx((2.5 + 3.5 + 12.5 + 13.5 + 14.5 + 15.5) / 6), 4.5)
    assert answer.box == (12.0, 4.0, 16.0, 5.0)


def test_nothing_above_the_threshold() -> None:
    values = np.linspace(0, 0.4, 200, dtype=np.float32).reshape(10, 20)
    answer = outline("text", values, threshold=0.6, source="given")
    assert answer.box is None
    assert not answer.mask.any()
    assert answer.peak == (19.5, 9.5)


def test_a_constant_map_points_nowhere() -> None:
    values = np.full((10, 20), 0.3, np.float32)
    answer = outline("text", values, threshold=otsu(values), source="otsu")
    assert answer.peak is None
    assert answer.box is None
    assert not answer.mask.any()
    json.dumps(answer.to_json())


def test_otsu_equals_an_exhaustive_search() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate((rng.normal(0.1, 0.05, 700), rng.normal(0.5, 0.08, 300))).astype(np.float32)
    image = rng.permutation(values).reshape(20, 50)
    image[0, :3] = np.nan
    finite = image[np.isfinite(image)].astype(float)

    def within(threshold: float) -> float:
        low, high = finite[finite < threshold], finite[finite >= threshold]
        return low.size * low.var() + high.size * high.var()

    candidates = np.linspace(finite.min(), finite.max(), 1001)[1:-1]
    assert within(otsu(image)) <= min(within(value) for value in candidates) * 1.001


def test_thresholds_come_from_the_caller_then_the_checkpoint_then_otsu() -> None:
    grid = np.arange(64, dtype=np.float32).reshape(8, 8) / 64
    engine = asking(grid, (64, 64), "stretch")
    image = np.zeros((64, 64), np.uint8)
    assert ground(engine, image, "a").threshold_source == "otsu"
    engine.ground_threshold = 0.3
    answer = ground(engine, image, "a")
    assert (answer.threshold, answer.threshold_source) == (0.3, "checkpoint")
    answer = ground(engine, image, "a", threshold=-0.5)
    assert (answer.threshold, answer.threshold_source) == (-0.5, "given")
    for wrong in (1.5, -2.0, float("nan")):
        with pytest.raises(DataError, match="cosine in"):
            ground(engine, image, "a", threshold=wrong)


def test_the_strongest_text_wins_each_pixel() -> None:
    first = outline("a", np.array([[0.9, 0.2, 0.6, np.nan]], np.float32), threshold=0.5, source="given")
    second = outline("b", np.array([[0.7, 0.1, 0.8, np.nan]], np.float32), threshold=0.65, source="given")
    assert strongest_text((first, second)).tolist() == [[0, -1, 1, -1]]
    assert strongest_text((first, second), below="strongest").tolist() == [[0, 0, 1, -1]]


def calibrated(**thresholds: float) -> SimpleNamespace:
    return SimpleNamespace(map_threshold=lambda name: thresholds.get(name.replace(" ", "_")))


def test_a_calibration_goes_before_the_checkpoint_and_by_finding() -> None:
    engine = asking(np.arange(64, dtype=np.float32).reshape(8, 8) / 64, (64, 64), "stretch")
    engine.ground_threshold = 0.3
    image = np.zeros((64, 64), np.uint8)
    fitted = calibrated(nodule=0.4, pleural_effusion=0.2, the_lungs=0.6)
    texts = ("There is a nodule of the left lung.", "Pleural effusion.", "the lungs", "There is a mass.",
             "There is no nodule.", "There is a nodule and pleural effusion.")  # fmt: skip
    answers = ground_texts(engine, image, texts, calibration=fitted)
    assert [(answer.threshold, answer.threshold_source) for answer in answers] == [
        (0.4, "calibration"), (0.2, "calibration"), (0.6, "calibration"), (0.3, "checkpoint"),
        (0.3, "checkpoint"), (0.3, "checkpoint"),
    ]  # fmt: skip
    given = ground(engine, image, "nodule", threshold=0.1, calibration=fitted)
    assert (given.threshold, given.threshold_source) == (0.1, "given")
    engine.ground_threshold = None
    unknown = ground(engine, image, "nodule", calibration=calibrated(nodule=float("nan")))
    assert unknown.threshold_source == "otsu", "a threshold that could not be fitted is none"


def test_windows_are_the_window_maps_and_a_threshold_of_whole_images_is_told(engine: Engine) -> None:
    image = np.random.default_rng(0).integers(0, 256, (120, 150)).astype(np.uint8)
    text = "There is a nodule."
    fitted = calibrated(nodule=0.1)
    for resolution, whole in (("windows", "none"), ("both", "mean")):
        answer = ground(engine, image, text, resolution=resolution, window=0.6, calibration=fitted)
        expected = window_maps(engine, image, [text], window=0.6, whole=whole)[0]
        np.testing.assert_allclose(answer.map, expected, atol=1e-6)
        assert answer.resolution == answer.to_json()["resolution"] == resolution
        assert "whole images" in (answer.threshold_note or "")
    assert ground(engine, image, text, resolution="both").threshold_note is None, "Otsu's is of this very map"
    assert ground(engine, image, text, calibration=fitted).threshold_note is None


def test_what_a_text_says_goes_with_the_answer(engine: Engine, pictures: list[np.ndarray]) -> None:
    denied, knee = ground_texts(engine, pictures[0], ("There is no nodule.", "There is a fracture of the knee."))
    assert (denied.negated, knee.negated) == (True, False)
    assert "negated" in {note.code for note in denied.notes}
    content = json.loads(json.dumps(knee.to_json()))
    assert "impossible_anatomy" in {note["code"] for note in content["notes"]}
    assert content["negated"] is False
    for refused in ("", "?!", "\u043f\u043d\u0435\u0432\u043c\u043e\u043d\u0438\u044f", "a" * 10_000):
        with pytest.raises(DataError):
            ground(engine, pictures[0], refused)


def test_the_lung_field_goes_into_the_answer() -> None:
    grid = np.zeros((GRID, GRID), np.float32)
    grid[1, 1] = 1.0
    image = np.zeros((64, 64), np.uint8)
    lungs = LungField(mask=np.arange(64)[None, :].repeat(64, axis=0) < 32, source="given")
    answer = ground(asking(grid, (64, 64), "stretch"), image, "hot", threshold=0.5, lungs=lungs)
    assert answer.where.lung_share == pytest.approx(1.0)
    assert answer.to_json()["where"]["lungs"] == "given"


def segmenting(*, any_text: bool = False) -> SimpleNamespace:
    asked: list[str] = []

    def maps(image, *, texts=None):
        asked.extend(texts)
        values = np.zeros((10, 12), np.float32)
        values[2:5, 3:8] = 0.9
        return {name: values for name in texts}, {name: 0.6 for name in texts}

    return SimpleNamespace(classes=("pleural effusion", "lungs"), any_text=any_text, maps=maps, asked=asked)


def test_a_head_answers_for_its_classes_with_its_own_threshold() -> None:
    image = np.zeros((10, 12), np.uint8)
    head = segmenting()
    texts = ("There is pleural effusion.", "lungs", "Pleural effusion of the left lung.")
    answers = segment_texts(head, image, texts)
    assert head.asked == ["pleural effusion", "lungs"]
    for answer in answers:
        assert (answer.threshold, answer.threshold_source) == (0.6, "head")
        assert answer.box == (3.0, 2.0, 8.0, 5.0)
        assert answer.to_json()["similarity"] == "segmentation score"
    assert segment_texts(head, image, texts, threshold=0.95)[0].box is None
    for refused in ("There is a nodule.", "There is no pleural effusion."):
        with pytest.raises(DataError, match="head"):
            segment_texts(head, image, (refused,))
    with pytest.raises(DataError, match=r"in \[0, 1\]"):
        segment_texts(head, image, texts, threshold=-0.5)
    anything = segmenting(any_text=True)
    segment_texts(anything, image, ("There is a nodule.",))
    assert anything.asked == ["There is a nodule."]


def test_maps_are_the_models_cosines_in_original_pixels(engine: Engine, pictures: list[np.ndarray]) -> None:
    texts = ("There is a nodule.", "There is pleural effusion.")
    for picture in pictures[:3]:
        answers = ground_texts(engine, picture, texts)
        values, placement = engine.maps(texts, picture)
        for answer, grid in zip(answers, values, strict=True):
            assert answer.map.shape == picture.shape
            assert np.nanmax(np.abs(answer.map)) <= 1.0 + 1e-6
            np.testing.assert_allclose(answer.map, placement.map_to_original(grid), atol=1e-6)
        single = engine.ground(picture, texts[1])
        np.testing.assert_allclose(single.map, answers[1].map, atol=1e-6)


def test_padding_does_not_bleed_into_the_image(engine: Engine, pictures: list[np.ndarray]) -> None:
    """Cells that are only padding repeat a cell of the image, so their own values cannot matter."""
    features, _ = engine.features([pictures[4]])
    with torch.inference_mode():
        text = engine.model.encode_texts(engine.model.tokenizer(["a"]))
        raw = engine.model.maps(text, features).numpy()[0, 0]
    filled = engine.maps_of(["a"], features)[0, 0]
    padding = features.padding.numpy()[0].reshape(features.grid)
    assert padding.any()
    np.testing.assert_array_equal(filled[~padding], raw[~padding])
    top = int(np.flatnonzero(~padding.all(axis=1))[0])
    for row in range(top):
        np.testing.assert_array_equal(filled[row], raw[top])


def test_json_holds_the_mask_as_run_lengths(engine: Engine, pictures: list[np.ndarray]) -> None:
    answer = engine.ground(pictures[1], "There is a nodule.")
    content = json.loads(json.dumps(answer.to_json()))
    mask = Mask(
        rows=content["mask"]["rows"], columns=content["mask"]["columns"], counts=tuple(content["mask"]["counts"])
    )
    np.testing.assert_array_equal(mask.decode(), answer.mask)
    assert content["threshold_source"] == "otsu"
    assert content["similarity"] == "cosine"
