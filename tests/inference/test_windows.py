from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.integration.test_geometry import GRID, SIDE, seeing
from vlp.data.transforms import Preprocess
from vlp.errors import DataError
from vlp.inference import windows
from vlp.inference.engine import Engine
from vlp.inference.windows import window_maps
from vlp.tensors import ImageFeatures

TEXTS = ("There is a nodule.", "There is pleural effusion.")


def plain(engine: Engine, pixels: np.ndarray, texts=TEXTS) -> np.ndarray:
    grids, placement = engine.maps(texts, pixels)
    return np.stack([placement.map_to_original(grid) for grid in grids])


def noise(shape: tuple[int, int], *, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size=shape).astype(np.uint8)


@pytest.mark.parametrize("whole", ["none", "mean", "max"])
def test_one_window_is_the_plain_map(engine: Engine, whole) -> None:
    pixels = noise((90, 90))
    values = window_maps(engine, pixels, TEXTS, window=1.0, whole=whole)
    assert (values.shape, values.dtype) == ((2, 90, 90), np.float32)
    np.testing.assert_allclose(values, plain(engine, pixels), atol=1e-5)


def test_an_image_smaller_than_the_model_is_one_window(engine: Engine) -> None:
    pixels = noise((50, 50))
    np.testing.assert_allclose(window_maps(engine, pixels, TEXTS, whole="none"), plain(engine, pixels), atol=1e-5)


@pytest.mark.parametrize("fit", ["letterbox", "stretch", "crop"])
@pytest.mark.parametrize("shape", [(150, 390), (161, 157), (33, 200), (70, 21)])
def test_every_pixel_has_a_number(shape: tuple[int, int], fit) -> None:
    for whole in ("none", "mean", "max"):
        values = window_maps(seeing(fit), noise(shape), ["a"], window=0.5, whole=whole)
        assert values.shape == (1, *shape)
        assert np.isfinite(values).all()


def test_combining_is_the_mean_or_the_higher_of_the_two() -> None:
    pixels = noise((150, 220))
    engine = seeing()
    own, cut = plain(engine, pixels), window_maps(engine, pixels, TEXTS, window=0.5, whole="none")
    mean, higher = (window_maps(engine, pixels, TEXTS, window=0.5, whole=whole) for whole in ("mean", "max"))
    np.testing.assert_allclose(mean, (own + cut) / 2, atol=1e-6)
    np.testing.assert_allclose(higher, np.maximum(own, cut), atol=1e-6)
    assert np.abs(own - cut).max() > 0.01


def shifting(pixels_seen: list[np.ndarray]) -> SimpleNamespace:
    """Stands where an engine stands and gives each window another level, far apart: the worst case for seams."""
    preprocess = Preprocess(size=SIDE)

    def features(images):
        pixels_seen.extend(images)
        placed = tuple(preprocess.apply(image).placement for image in images)
        levels = torch.tensor([[float(image.mean()) / 255.0] for image in images])
        return ImageFeatures(pooled=levels, patches=levels[:, None], grid=(1, 1)), placed

    def maps_of(texts, made):
        return made.pooled.numpy()[None, :, 0, None, None] * np.ones((len(texts), 1, GRID, GRID), np.float32)

    return SimpleNamespace(features=features, maps_of=maps_of)


def test_there_are_no_seams() -> None:
    """Left half black, right half white: windows disagree as much as they can, the map passes from one to the other."""
    pixels = np.zeros((128, 384), np.uint8)
    pixels[:, 192:] = 255
    values = window_maps(shifting([]), pixels, ["a"], window=1.0, whole="none")[0]
    assert values[:, :32].max() < 0.05
    assert values[:, -32:].min() > 0.95
    assert np.abs(np.diff(values, axis=1)).max() < 0.05, "from one pixel to the next"
    np.testing.assert_allclose(np.diff(values, axis=0), 0.0, atol=1e-6)


@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(100, 100), (101, 263), (64, 200)])
def test_windows_cover_the_image_and_overlap_as_asked(shape: tuple[int, int], overlap: float) -> None:
    corners, size = windows._layout(shape, (SIDE, SIDE), 48, overlap)
    assert size == (48, 48)
    covered = np.zeros(shape, int)
    for top, left in corners:
        assert 0 <= top <= shape[0] - 48
        assert 0 <= left <= shape[1] - 48
        covered[top : top + 48, left : left + 48] += 1
    assert covered.min() >= 1
    for axis in (0, 1):
        starts = sorted({corner[axis] for corner in corners})
        assert max(np.diff(starts), default=0) <= 48 * (1 - overlap) + 1, "a rounded pixel more at most"


def test_windows_have_the_models_proportions_and_no_padding() -> None:
    seen: list[np.ndarray] = []
    window_maps(shifting(seen), noise((70, 300)), ["a"], window=0.5, whole="none")
    assert {image.shape for image in seen[1:]} == {(35, 35)}


def test_a_small_thing_is_found_that_the_whole_image_blurs() -> None:
    """A dot of 12 pixels on an image of 512: a fifth of a patch's side, so the whole image barely shows it."""
    pixels = np.full((512, 512), 60, np.uint8)
    pixels[301:313, 177:189] = 255
    rows, columns = np.s_[301:313], np.s_[177:189]
    engine = seeing()
    before = plain(engine, pixels, ["a"])[0]
    after = window_maps(engine, pixels, ["a"], window=64, whole="none")[0]
    assert after.max() > before.max() + 0.3
    row, column = np.unravel_index(after.argmax(), after.shape)
    assert rows.start <= row < rows.stop
    assert columns.start <= column < columns.stop
    area = [int((values >= (values.min() + values.max()) / 2).sum()) for values in (before, after)]
    assert area[1] < area[0] / 8, "and it is outlined more closely"


def test_bad_requests(engine: Engine) -> None:
    pixels = noise((100, 100))
    for window in (0, -1, float("nan"), float("inf"), 3.0, 0.01):
        with pytest.raises(DataError, match="window"):
            window_maps(engine, pixels, TEXTS, window=window)
    for overlap in (-0.1, 0.95, float("nan")):
        with pytest.raises(DataError, match="overlap"):
            window_maps(engine, pixels, TEXTS, overlap=overlap)
    with pytest.raises(DataError, match="more than 1024"):
        window_maps(engine, noise((900, 900)), TEXTS, window=20)
    seen = engine.model.config.preprocess.apply(pixels)
    with pytest.raises(DataError, match="own resolution"):
        window_maps(engine, seen, TEXTS)
