import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlp.data.transforms import Augment, Preprocess, find_padding


def _dot(rows: int, columns: int, x: float, y: float, sigma: float) -> np.ndarray:
    """A bright blob whose centre is (x, y), counted from the corner of the first pixel."""
    ys, xs = np.mgrid[:rows, :columns] + 0.5
    return np.round(250 * np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / (2 * sigma**2))).astype(np.uint8)


def _centre(image: np.ndarray) -> np.ndarray:
    weights = np.where(image > 60, image, 0).astype(float)
    ys, xs = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    return np.array([(weights * xs).sum(), (weights * ys).sum()]) / weights.sum()


@pytest.mark.parametrize("fit", ["letterbox", "stretch", "crop"])
@pytest.mark.parametrize("size", [(200, 300), (301, 203), (40, 37), (64, 64), (90, 64)])
@pytest.mark.parametrize("target", [64, (48, 96)])
def test_a_dot_lands_where_the_placement_says_and_comes_back(fit, size, target):
    rows, columns = size
    preprocess = Preprocess(size=target, fit=fit)
    x, y = columns * 0.55, rows * 0.45
    image, placement, _ = preprocess.apply(_dot(rows, columns, x, y, sigma=max(rows, columns) / 20))
    assert image.shape == placement.model == preprocess.rows_columns
    assert placement.original == size
    assert _centre(image) == pytest.approx(placement.to_model(np.array([[x, y]]))[0], abs=0.5)
    scale = max(placement.original[0] / image.shape[0], placement.original[1] / image.shape[1], 1.0)
    assert placement.to_original(_centre(image)[None])[0] == pytest.approx((x, y), abs=0.5 * scale)


@given(rows=st.integers(1, 400), columns=st.integers(1, 400), size=st.integers(1, 100))
@settings(max_examples=60, deadline=None)
def test_letterbox_shows_the_whole_image_and_only_black_beside_it(rows, columns, size):
    image, placement, padding = Preprocess(size=size).apply(np.full((rows, columns), 200, dtype=np.uint8))
    corners = placement.to_model(np.array([[0.0, 0.0], [columns, rows]]))
    assert (corners >= -1e-9).all()
    assert (corners <= size + 1e-9).all()
    padding = np.zeros_like(image, dtype=bool) if padding is None else padding
    assert (image[~padding] == 200).all()
    assert (image[padding] == 0).all()
    x0, y0, x1, y1 = np.round(corners.ravel()).astype(int)
    inside = np.zeros_like(padding)
    inside[y0:y1, x0:x1] = True
    assert (inside == ~padding).all()
    assert max(corners[1] - corners[0]) == pytest.approx(size)


def test_crop_fills_and_keeps_proportions():
    image, placement, padding = Preprocess(size=50, fit="crop").apply(np.full((100, 200), 9, dtype=np.uint8))
    assert padding is None
    assert (image == 9).all()
    assert placement.to_model(np.array([[100.0, 50.0]]))[0].tolist() == [25.0, 25.0]
    assert placement.matrix[0][0] == placement.matrix[1][1] == 0.5


def test_nothing_is_ever_mirrored():
    left = _dot(80, 80, 15, 40, 4)
    augment, preprocess = Augment(probability=1.0), Preprocess(size=80)
    for seed in range(200):
        image, placement = augment.apply(left, preprocess, np.random.default_rng(seed))
        (a, b, _), (c, d, _) = placement.matrix
        assert a * d - b * c > 0
        assert image[:, :40].astype(int).sum() > image[:, 40:].astype(int).sum()


@pytest.mark.parametrize("seed", range(6))
def test_augmentation_records_where_pixels_went(seed):
    augment = Augment(probability=1.0, rotate_deg=25.0, translate=0.1, scale=0.3, noise=0.0)
    x, y = 130.0, 70.0
    image, placement = augment.apply(_dot(200, 260, x, y, 9), Preprocess(size=128), np.random.default_rng(seed))
    assert _centre(image) == pytest.approx(placement.to_model(np.array([[x, y]]))[0], abs=0.5)
    assert placement.to_original(_centre(image)[None])[0] == pytest.approx(
        (x, y), abs=1.0
    )  # one pixel here is 1/2 there


@pytest.mark.parametrize("fit", ["letterbox", "stretch", "crop"])
@pytest.mark.parametrize("seed", range(4))
def test_padding_of_a_moved_image_is_what_shows_nothing_of_it(fit, seed):
    preprocess = Preprocess(size=96, fit=fit)
    augment = Augment(
        probability=1.0, rotate_deg=20.0, translate=0.15, scale=0.2, brightness=0.0, contrast=0.0, noise=0.0
    )
    seen, placement, _ = preprocess.apply(np.full((120, 70), 255, dtype=np.uint8))
    changed, moved = augment.change(seen, np.random.default_rng(seed))
    padding = find_padding(placement, moved)
    # The picture is white and what is around it black; only along the very edge do the two mix.
    assert (changed[padding] <= 128 + 64).all()
    assert (changed[~padding] >= 128 - 64).all()
    assert (padding != (changed < 128)).sum() < 96
    assert 0.0 < padding.mean() < 0.9


def test_nothing_is_padding_where_an_image_fills_the_frame():
    _, placement, padding = Preprocess(size=32).apply(np.zeros((50, 50), dtype=np.uint8))
    assert padding is None
    assert find_padding(placement) is None
    assert find_padding(placement, np.eye(3)) is None
    larger = np.diag([1.5, 1.5, 1.0])
    larger[:2, 2] = -8.0  # enlarged about the centre
    assert find_padding(placement, larger) is None


def test_augmentation_follows_its_generator_and_leaves_the_image_alone():
    image = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    before = image.copy()
    changed = [Augment().apply(image, Preprocess(size=64), np.random.default_rng(seed))[0] for seed in (1, 1, 2)]
    assert np.array_equal(changed[0], changed[1])
    assert not np.array_equal(changed[0], changed[2])
    assert np.array_equal(image, before)
    assert changed[0].dtype == np.uint8


def test_augmentation_with_everything_off_changes_nothing():
    image = np.random.default_rng(0).integers(0, 256, (50, 70), dtype=np.uint8)
    off = Augment(rotate_deg=0.0, translate=0.0, scale=0.0, brightness=0.0, contrast=0.0, noise=0.0)
    plain, placement, _ = Preprocess(size=32).apply(image)
    changed, moved = off.apply(image, Preprocess(size=32), np.random.default_rng(0))
    assert np.array_equal(plain, changed)
    assert np.allclose(placement.matrix, moved.matrix)


@pytest.mark.parametrize("fit", ["letterbox", "stretch", "crop"])
@pytest.mark.parametrize("size", [(90, 64), (64, 64), (48, 96), (30, 40)])
def test_the_result_lies_where_it_is_asked_to(fit, size):
    preprocess = Preprocess(size=(48, 96), fit=fit)
    pixels = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    room = np.full((3, 48, 96), 255, dtype=np.uint8)
    for row in room:
        seen, placement, padding = preprocess.apply(pixels, out=row)
        assert seen is row or np.shares_memory(seen, row)
        plain = preprocess.apply(pixels)
        assert np.array_equal(row, plain[0])
        assert placement == plain[1]
        assert np.array_equal(padding, plain[2])


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("size", [(400, 328), (401, 331), (512, 512)])
def test_a_dot_in_an_image_decoded_smaller_comes_back_to_where_it_was(factor, size):
    x, y, preprocess = size[1] * 0.7, size[0] * 0.6, Preprocess(size=40)
    padded = np.zeros([-(-side // factor) * factor for side in size], dtype=np.uint8)
    padded[: size[0], : size[1]] = _dot(*size, x, y, sigma=30)
    rows, columns = (side // factor for side in padded.shape)
    small = padded.reshape(rows, factor, columns, factor).mean(axis=(1, 3)).round().astype(np.uint8)
    seen, placement, _ = preprocess.apply(small, stored=size)
    assert placement.original == size
    assert placement.to_original(_centre(seen)[None])[0] == pytest.approx(
        (x, y), abs=1.5
    )  # one pixel here is 1/10 there


def test_nobody_can_change_the_padding_that_images_of_one_size_share():
    _, placement, padding = Preprocess(size=32).apply(np.zeros((50, 30), dtype=np.uint8))
    assert find_padding(placement) is padding
    with pytest.raises(ValueError, match="read-only"):
        padding[:] = True
