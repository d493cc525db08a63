from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.inference.conftest import PATCH, SIZE, tiny_config
from vlp.data.transforms import Preprocess
from vlp.errors import CheckpointError, DataError
from vlp.inference.engine import Engine
from vlp.model import build
from vlp.model.scorers import SimilarityAttentionConfig
from vlp.records import Mask
from vlp.retrieval.store.vectors import (
    attended_vectors,
    image_fingerprint,
    mean_vectors,
    region_vectors,
    region_weights,
)
from vlp.tensors import ImageFeatures

SENTENCES = ["There is pleural effusion.", "There is a nodule.", "There is no mass."]
GRID = SIZE // PATCH


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    """Square, tall and wide, so that two of them are padded."""
    rng = np.random.default_rng(2)
    return [rng.integers(0, 256, size=shape).astype(np.uint8) for shape in ((64, 64), (90, 40), (30, 200))]


def attended_by_hand(
    text: np.ndarray, patches: np.ndarray, padding: np.ndarray | None, temperature: float
) -> np.ndarray:
    """One sentence and one image, patch by patch."""
    shown = [patch for number, patch in enumerate(patches) if padding is None or not padding[number]]
    weights = [np.exp(float(text @ patch) / temperature) for patch in shown]
    total = sum(weight * patch for weight, patch in zip(weights, shown, strict=True))
    return total / np.linalg.norm(total)


def test_attended_is_the_softmax_of_cosines(engine: Engine, pictures: list[np.ndarray]) -> None:
    features, _ = engine.features(pictures)
    found = attended_vectors(engine, features, SENTENCES)
    scorer = engine.model.scorer
    tau = getattr(scorer, "attention_temperature", None) or scorer.temperature
    with torch.inference_mode():
        patches, temperature = scorer.unit(features.patches).double().numpy(), float(tau())
    texts = engine.encode_text(SENTENCES).astype(np.float64)
    assert features.padding is not None
    for row, text in enumerate(texts):
        for image in range(len(pictures)):
            expected = attended_by_hand(text, patches[image], features.padding[image].numpy(), temperature)
            np.testing.assert_allclose(found[row, image], expected, atol=2e-6)


@pytest.mark.parametrize("global_token", [False, True])
@pytest.mark.parametrize("sharpness", [0.05, "shared"])
def test_its_product_with_the_sentence_is_the_similarity(
    pictures: list[np.ndarray], global_token: bool, sharpness: float | str
) -> None:
    torch.manual_seed(1)
    scorer = SimilarityAttentionConfig(global_token=global_token, attention_temperature=sharpness)
    engine = Engine(build(tiny_config("similarity_attention").model_copy(update={"scorer": scorer})))
    features, _ = engine.features(pictures)
    attended = attended_vectors(engine, features, SENTENCES)
    products = np.einsum("sd,sid->si", engine.encode_text(SENTENCES), attended)
    np.testing.assert_allclose(products, engine.scores(SENTENCES, features)[0], atol=3e-6)


def test_padding_is_not_attended_to(engine: Engine, pictures: list[np.ndarray]) -> None:
    features, _ = engine.features(pictures)
    assert features.padding is not None
    changed = torch.where(features.padding[..., None], torch.randn_like(features.patches) * 9, features.patches)
    other = ImageFeatures(pooled=features.pooled, patches=changed, grid=features.grid, padding=features.padding)
    np.testing.assert_array_equal(
        attended_vectors(engine, features, SENTENCES), attended_vectors(engine, other, SENTENCES)
    )


def test_a_model_that_diverged_is_told(engine: Engine, pictures: list[np.ndarray]) -> None:
    features, placements = engine.features(pictures[:1])
    broken = ImageFeatures(
        pooled=features.pooled, patches=torch.full_like(features.patches, float("nan")), grid=features.grid
    )
    with pytest.raises(CheckpointError, match="diverged"):
        attended_vectors(engine, broken, SENTENCES)
    with pytest.raises(CheckpointError, match="diverged"):
        region_vectors(engine, broken, placements, [[(0.0, 0.0, 64.0, 64.0)]])


def test_a_region_is_the_mean_of_its_patches(engine: Engine, pictures: list[np.ndarray]) -> None:
    features, placements = engine.features(pictures[:2])
    with torch.inference_mode():
        patches = engine.model.scorer.unit(features.patches).numpy().reshape(2, GRID, GRID, -1)
    # 64 x 64 as it is: patches (rows 1 to 2, columns 3 to 5) exactly.
    box = (3.0 * PATCH, 1.0 * PATCH, 6.0 * PATCH, 3.0 * PATCH)
    # 90 x 40 becomes 64 x 28 with bars of 18 at the left: this lies in the patch of row 7, column 3.
    point = (15.0, 85.0)
    assert int((18 + 15 * 64 / 90) // PATCH) == 3
    mask = np.zeros((64, 64), dtype=bool)
    mask[PATCH : 3 * PATCH, 3 * PATCH : 6 * PATCH] = True
    found = region_vectors(engine, features, placements, [[box, Mask.encode(mask)], [point]])
    inside = patches[0, 1:3, 3:6].reshape(6, -1).mean(axis=0)
    np.testing.assert_allclose(found[0], inside / np.linalg.norm(inside), atol=2e-6)
    np.testing.assert_allclose(found[1], found[0], atol=2e-6)
    np.testing.assert_allclose(found[2], patches[1, 7, 3], atol=2e-6)
    assert region_vectors(engine, features, placements, [[], []]).shape == (0, engine.model.config.dim)


def test_the_whole_image_as_a_region_is_what_the_model_makes_of_it(pictures: list[np.ndarray]) -> None:
    torch.manual_seed(0)
    engine = Engine(build(tiny_config("similarity_attention")))
    whole = [[(0.0, 0.0, float(picture.shape[1]), float(picture.shape[0]))] for picture in pictures[:1]]
    features, placements = engine.features(pictures[:1])
    found = region_vectors(engine, features, placements, whole)
    np.testing.assert_allclose(found, engine.vectors(features), atol=2e-6)


@settings(max_examples=30, deadline=None)
@given(
    shape=st.tuples(st.integers(20, 60), st.integers(20, 60)),
    fit=st.sampled_from(["letterbox", "stretch", "crop"]),
    corners=st.tuples(*[st.floats(-0.2, 1.2)] * 4),
)
def test_weights_equal_counting_points(shape: tuple[int, int], fit: str, corners: tuple[float, ...]) -> None:
    (x0, x1), (y0, y1) = sorted(corners[:2]), sorted(corners[2:])
    rows, columns = shape
    box = (x0 * columns, y0 * rows, x1 * columns + 2.0, y1 * rows + 2.0)
    placement = Preprocess(size=(16, 32), fit=fit).apply(np.zeros(shape, dtype=np.uint8)).placement
    grid = (2, 4)
    features = SimpleNamespace(grid=grid, padding=None)
    expected = np.zeros(grid)
    fine = 200
    ys, xs = (np.arange(fine) + 0.5) / fine * 16, (np.arange(fine) + 0.5) / fine * 32
    points = placement.to_original(np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2))
    inside = (points >= np.maximum(box[:2], 0)).all(axis=1) & (points < np.minimum(box[2:], (columns, rows))).all(
        axis=1
    )
    for row in range(2):
        for column in range(4):
            of_patch = inside.reshape(fine, fine)[row * 100 : row * 100 + 100, column * 50 : column * 50 + 50]
            expected[row, column] = of_patch.sum()
    found = region_weights(box, placement, features)
    if expected.sum() < 100:  # too little for counting to say anything
        return
    np.testing.assert_allclose(found, (expected / expected.sum()).ravel(), atol=0.06)
    assert found.sum() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ((70.0, 0.0, 90.0, 20.0), "shown nothing"),
        ((0.0, float("nan"), 9.0, 9.0), "not finite"),
        ((9.0, 0.0, 3.0, 9.0), "x1 above x0"),
        (Mask.encode(np.ones((10, 10), dtype=bool)), "another size"),
        (Mask.encode(np.zeros((64, 64), dtype=bool)), "shown nothing"),
        ((float("inf"), 3.0), "not finite"),
    ],
)
def test_what_is_no_place_is_refused(engine: Engine, pictures: list[np.ndarray], place: tuple, says: str) -> None:
    features, placements = engine.features(pictures[:1])
    with pytest.raises(DataError, match=says):
        region_vectors(engine, features, placements, [[place]])


def test_what_the_crop_cut_off_has_no_vector() -> None:
    torch.manual_seed(0)
    engine = Engine(build(tiny_config("cosine", fit="crop")))
    features, placements = engine.features([np.zeros((64, 200), dtype=np.uint8)])
    with pytest.raises(DataError, match="shown nothing"):
        region_vectors(engine, features, placements, [[(0.0, 0.0, 40.0, 64.0)]])


def test_fingerprints_are_close_for_copies_only(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    preprocess = Preprocess(size=96)

    def made(pixels: np.ndarray) -> np.ndarray:
        return np.frombuffer(image_fingerprint(preprocess.apply(pixels)), dtype=np.uint64)

    def apart(one: np.ndarray, other: np.ndarray) -> int:
        return int(np.bitwise_count(one ^ other).sum())

    small = rng.random((2, 9, 7))
    first, second = (cv2.resize(one, (140, 180), interpolation=cv2.INTER_CUBIC).clip(0, 1) * 255 for one in small)
    first, second = first.astype(np.uint8), second.astype(np.uint8)
    copies = {
        "darker": (first * 0.6).astype(np.uint8),
        "larger": cv2.resize(first, (280, 360)),
        "padded to a square": np.pad(first, ((0, 0), (20, 20))),
    }
    for name, copy in copies.items():
        assert apart(made(first), made(copy)) < 40, name
    assert apart(made(first), made(second)) > 80


def test_means_are_of_unit_length_and_by_owner() -> None:
    vectors = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], dtype=np.float32)
    half = np.sqrt(0.5)
    np.testing.assert_allclose(mean_vectors(vectors, [0, 0, 1]), [[half, half], [0.0, -1.0]], atol=1e-7)
