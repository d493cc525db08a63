from collections.abc import Mapping
from types import SimpleNamespace

import numpy as np
import pytest

from vlp.data.transforms import Preprocess
from vlp.errors import DataError
from vlp.inference.engine import Engine
from vlp.inference.lungs import ANATOMY, BACKGROUND, LungField, anatomy_maps, lung_field
from vlp.prompts.understanding import understand

SIDE = 64
SHAPE = (SIDE, SIDE)


def ellipses() -> np.ndarray:
    ys, xs = np.mgrid[:SIDE, :SIDE] + 0.5
    return np.logical_or(*(((xs - x) / 9) ** 2 + ((ys - 30) / 20) ** 2 <= 1 for x in (18, 46)))


def head(maps: Mapping[str, np.ndarray], *, thresholds: Mapping[str, float] | None = None) -> SimpleNamespace:
    """Stands where a segmentation head stands."""

    def answer(image, *, texts=None):
        return {name: maps[name] for name in texts}, {name: (thresholds or {}).get(name, 0.5) for name in texts}

    return SimpleNamespace(classes=tuple(maps), any_text=False, maps=answer)


def reading(levels, *, card: Mapping[str, object] | None = None) -> SimpleNamespace:
    """Stands where an engine stands: `levels(text)` is the map of a text."""
    placement = Preprocess(size=SIDE).apply(np.zeros(SHAPE, np.uint8))[1]
    return SimpleNamespace(
        card=card or {}, maps=lambda texts, image: (np.stack([levels(text) for text in texts]), placement)
    )


def by_words(text: str) -> np.ndarray:
    """A model that knows where lungs and heart are."""
    ys, xs = np.mgrid[:SIDE, :SIDE] + 0.5
    heart = (np.hypot(xs - 34, ys - 40) < 9).astype(np.float32)
    if text in ANATOMY["lungs"]:
        return np.where(ellipses(), 0.6, -0.2).astype(np.float32)
    if text in (*ANATOMY["heart"], *ANATOMY["mediastinum"]):
        return heart * 0.9
    return np.full(SHAPE, 0.1, np.float32)


def nobody() -> SimpleNamespace:
    return reading(lambda text: np.zeros(SHAPE, np.float32))


BLANK = np.zeros(SHAPE, np.uint8)


@pytest.mark.parametrize("names", [("lungs",), ("left lung", "right lung"), ("lungs", "left lung", "heart")])
def test_a_head_that_knows_the_lungs_is_asked(names: tuple[str, ...]) -> None:
    whole = ellipses().astype(np.float32)
    right = whole.copy()
    right[:, SIDE // 2 :] = 0
    masks = {"lungs": whole, "left lung": whole - right, "right lung": right, "heart": 1 - whole}
    field = lung_field(nobody(), BLANK, head=head({name: masks[name] for name in names}))
    assert field is not None
    assert field.source == "head"
    np.testing.assert_array_equal(field.mask, ellipses())


def test_a_head_that_does_not_know_the_lungs_is_not() -> None:
    whole = ellipses().astype(np.float32)
    assert lung_field(nobody(), BLANK, head=head({"pleural effusion": whole, "left lung": whole})) is None


def test_the_heads_own_threshold_counts_and_unseen_pixels_do_not() -> None:
    values = np.where(ellipses(), 0.7, 0.6).astype(np.float32)
    values[:15] = np.nan
    field = lung_field(nobody(), BLANK, head=head({"lungs": values}, thresholds={"lungs": 0.65}))
    assert field is not None
    expected = ellipses()
    expected[:15] = False
    np.testing.assert_array_equal(field.mask, expected)


def test_specks_and_holes_are_cleared_and_nonsense_is_no_field() -> None:
    values = ellipses().astype(np.float32)
    values[28:31, 16:19] = 0  # a hole in a lung
    values[60:62, 60:62] = 1  # a speck in a corner
    field = lung_field(nobody(), BLANK, head=head({"lungs": values}))
    assert field is not None
    np.testing.assert_array_equal(field.mask, ellipses())
    for level in (0.0, 1.0):
        assert lung_field(nobody(), BLANK, head=head({"lungs": np.full(SHAPE, level, np.float32)})) is None


def test_prompts_are_only_believed_where_the_model_was_trained_on_anatomy() -> None:
    assert lung_field(reading(by_words), BLANK) is None
    assert lung_field(reading(by_words, card={"anatomy": ["heart"]}), BLANK) is None
    assert lung_field(reading(by_words, card={"anatomy": "lungs"}), BLANK) is None
    for field in (
        lung_field(reading(by_words, card={"anatomy": ["heart", "lungs"]}), BLANK),
        lung_field(reading(by_words), BLANK, trained=True),
    ):
        assert field is not None
        assert field.source == "prompts"
        heart = by_words("the heart") > 0.5
        np.testing.assert_array_equal(field.mask, ellipses() & ~heart)
    assert lung_field(reading(by_words, card={"anatomy": ["lungs"]}), BLANK, trained=False) is None


def test_a_model_that_answers_alike_everywhere_has_no_lungs() -> None:
    assert lung_field(nobody(), BLANK, trained=True) is None


def test_anatomy_maps_are_means_over_the_prompts_of_a_part(engine: Engine) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (90, 70)).astype(np.uint8)
    maps = anatomy_maps(engine, pixels, ["heart", "lungs"])
    assert maps.shape == (2, 90, 70)
    values, placement = engine.maps(ANATOMY["lungs"], pixels)
    np.testing.assert_allclose(maps[1], placement.map_to_original(values.mean(axis=0)), atol=1e-6)
    with pytest.raises(DataError, match="unknown anatomy 'knee'; known are lungs"):
        anatomy_maps(engine, pixels, ["knee"])


def test_prompts_can_be_asked_and_are_distinct() -> None:
    prompts = [text for group in ANATOMY.values() for text in group] + list(BACKGROUND)
    assert len(set(prompts)) == len(prompts)
    for text in prompts:
        understood = understand(text)
        understood.refuse()
        assert not understood.findings, "parts of the body are no findings"


@pytest.mark.parametrize("mask", [np.zeros(SHAPE, bool), np.ones(SHAPE, np.uint8), np.ones(5, bool)])
def test_a_field_is_a_mask_with_something_in_it(mask: np.ndarray) -> None:
    with pytest.raises(DataError, match="lung field"):
        LungField(mask=mask, source="given")
