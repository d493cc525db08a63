import numpy as np
import pytest

from vlp.calibrate import spoiled
from vlp.calibrate.spoiled import DRAWINGS, SPOILINGS, drawn, exposed, whitened


def film(rows: int = 96, columns: int = 80) -> np.ndarray:
    """Dark lungs left and right of a bright middle, a brighter base, a mark at the top left, nothing symmetric."""
    down, across = np.mgrid[0 : 1 : rows * 1j, 0 : 1 : columns * 1j]
    lungs = np.exp(-(((across - 0.3) / 0.13) ** 2) - ((down - 0.45) / 0.3) ** 2)
    lungs = lungs + 0.8 * np.exp(-(((across - 0.72) / 0.12) ** 2) - ((down - 0.45) / 0.28) ** 2)
    grey = 90 + 80 * down - 75 * lungs
    grey[4:10, 4:14] = 250
    return grey.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("kind", SPOILINGS)
def test_a_spoiled_film_is_another_picture_and_the_film_stays_as_it_was(kind: str) -> None:
    before = film()
    kept = before.copy()
    after = SPOILINGS[kind].change(before, np.random.default_rng(0))
    assert after.dtype == np.uint8
    assert after.ndim == 2
    assert np.array_equal(before, kept)
    if after.shape == before.shape:
        assert np.abs(after.astype(int) - before).mean() > 5


def test_each_spoiling_does_what_it_says() -> None:
    pixels, rng = film(), np.random.default_rng(0)
    change = {kind: spoiling.change(pixels, rng) for kind, spoiling in SPOILINGS.items()}
    assert np.array_equal(change["inverted"], 255 - pixels)
    # The mark of the top left corner, wherever it went.
    assert change["mirrored"][6, -8] == 250
    assert change["turned by 180 degrees"][-6, -8] == 250
    assert change["turned by 90 degrees"][-8, 6] == 250  # counter-clockwise: to the bottom left
    assert change["turned by 270 degrees"][8, -6] == 250
    assert np.array_equal(np.sort(change["shuffled"], axis=None)[-60:], np.full(60, 250))


@pytest.mark.parametrize("seed", range(30))
def test_what_is_cut_off_is_a_part_of_the_film_and_enough_is_missing(seed: int) -> None:
    pixels = film()
    part = spoiled.cut(pixels, np.random.default_rng(seed))
    shares = [new / old for new, old in zip(part.shape, pixels.shape, strict=True)]
    assert min(shares) <= 0.66
    assert min(shares) >= 0.3
    assert part.size / pixels.size <= 0.62
    windows = np.lib.stride_tricks.sliding_window_view(pixels, part.shape)
    assert (windows == part).all(axis=(2, 3)).any()


def test_scrambling_keeps_the_spectrum_and_loses_the_picture() -> None:
    pixels = film().astype(float)
    changed = spoiled.scrambled(film(), np.random.default_rng(0)).astype(float)
    spectra = [np.abs(np.fft.rfft2(one - one.mean())).ravel() for one in (pixels, changed)]
    assert np.corrcoef(*spectra)[0, 1] > 0.95
    assert abs(np.corrcoef(pixels.ravel(), changed.ravel())[0, 1]) < 0.6


@pytest.mark.parametrize("seed", range(10))
def test_an_exposed_film_is_still_that_film(seed: int) -> None:
    pixels = film()
    other = exposed(pixels, np.random.default_rng(seed))
    assert other.shape == pixels.shape
    assert np.corrcoef(pixels.ravel(), other.ravel())[0, 1] > 0.6
    assert not np.array_equal(other, pixels)


@pytest.mark.parametrize("seed", range(10))
def test_white_lungs_only_ever_add_white(seed: int) -> None:
    pixels = film()
    white = whitened(pixels, np.random.default_rng(seed))
    assert white.shape == pixels.shape
    assert (white.astype(int) >= pixels.astype(int) - 1).all()
    assert white[30:60].mean() > pixels[30:60].mean() + 2


def test_one_lung_or_both_become_white() -> None:
    added = []
    for seed in range(30):
        more = whitened(film(), np.random.default_rng(seed)).astype(float) - film()
        added.append((more[:, 10:35].sum(), more[:, 45:70].sum()))
    left, right = np.array(added).T
    assert (left > 4 * right).any()
    assert (right > 4 * left).any()
    assert ((left > 0.4 * right) & (right > 0.4 * left)).any()


@pytest.mark.parametrize("kind", DRAWINGS)
def test_drawings_differ_from_each_other_and_are_the_same_for_a_seed(kind: str) -> None:
    pictures = [drawn(kind, np.random.default_rng(seed)) for seed in (0, 1, 2, 0)]
    for picture in pictures:
        assert picture.dtype == np.uint8
        assert min(picture.shape) >= 96
        assert max(picture.shape) / min(picture.shape) < 3
        assert np.percentile(picture, 99) - np.percentile(picture, 1) > 12  # or it would be refused for its contrast
    assert np.array_equal(pictures[0], pictures[3])
    assert not np.array_equal(pictures[0], pictures[1])
