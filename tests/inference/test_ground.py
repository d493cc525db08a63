import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vlp.data.transforms import Preprocess
from vlp.errors import DataError
from vlp.inference.engine import Engine
from vlp.inference.ground import ground, ground_texts, otsu, outline, strongest_text
from vlp.records import Mask

GRID, SIDE = 8, 64
SHAPES = [(64, 64), (300, 300), (150, 400), (411, 203), (64, 63)]


def asking(grid: np.ndarray, shape: tuple[int, int], fit: str) -> SimpleNamespace:
    """Stands where an engine stands and knows the map already."""
    placement = Preprocess(size=SIDE, fit=fit).apply(np.zeros(shape, np.uint8))[1]
    return SimpleNamespace(ground_threshold=None, maps=lambda texts, image: (np.stack([grid] * len(texts)), placement))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("fit", ["letterbox", "stretch", "crop"])
def test_a_hot_patch_lands_within_half_a_patch(shape: tuple[int, int], fit: str) -> None:
    """Where the patch's centre lies in the image is computed here from the fit alone."""
    rows, columns = shape
    scale = {"letterbox": SIDE / max(shape), "crop": SIDE / min(shape)}.get(fit)
    scale_x, scale_y = (scale, scale) if scale else (SIDE / columns, SIDE / rows)
    patch = SIDE / GRID
    checked = 0
    for row in range(GRID):
        for column in range(GRID):
            x = columns / 2 + ((column + 0.5) * patch - SIDE / 2) / scale_x
            y = rows / 2 + ((row + 0.5) * patch - SIDE / 2) / scale_y
            if not (0 < x < columns and 0 < y < rows):
                continue  # a patch of padding
            grid = np.zeros((GRID, GRID), np.float32)
            grid[row, column] = 1.0
            answer = ground(asking(grid, shape, fit), np.zeros(shape, np.uint8), "hot", threshold=0.5)
            assert answer.map.shape == answer.mask.shape == shape
            assert answer.peak is not None
            assert answer.box is not None
            # Letterbox and crop round to whole pixels of the model: at most one of its pixels more.
            assert abs(answer.peak[0] - x) <= (patch / 2 + 1) / scale_x
            assert abs(answer.peak[1] - y) <= (patch / 2 + 1) / scale_y
            left, top, right, bottom = answer.box
            assert left <= answer.peak[0] <= right
            assert top <= answer.peak[1] <= bottom
            checked += 1
    assert checked >= GRID * 2


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
