"""The detector: what more attenuation, seeds, markers and styles do to a picture."""

from dataclasses import replace

import numpy as np
import pytest

from vlp.ingest.phantom.scanner import STYLES, coarse, expose
from vlp.ingest.phantom.truth import Exposure

EXPOSURE = Exposure(frontal="PA", lateral=False, rotation_deg=0, tilt_deg=0, inspiration=1, scanner=0, site="a",
                    marker=False, site_marker=False, seed=3)  # fmt: skip


def thorax() -> np.ndarray:
    """Something with the range of a chest: air outside, lungs, a dense middle."""
    picture = np.full((128, 128), 2.0, dtype=np.float32)
    picture[:, 52:76] = 4.5
    picture[:, :8] = picture[:, -8:] = 0.0
    return picture


@pytest.mark.parametrize("scanner", range(len(STYLES)))
def test_dense_is_bright_and_air_is_black(scanner: int) -> None:
    pixels = expose(thorax(), replace(EXPOSURE, scanner=scanner), view="PA").astype(float)
    inner = pixels[16:-16]
    assert inner[:, 58:70].mean() > inner[:, 20:45].mean() + 60
    assert inner[:, :4].mean() < 25


def test_same_seed_same_bytes_and_other_seed_other_noise() -> None:
    first, second = (expose(thorax(), EXPOSURE, view="PA") for _ in range(2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, expose(thorax(), replace(EXPOSURE, seed=4), view="PA"))


def test_styles_differ() -> None:
    pictures = [expose(thorax(), replace(EXPOSURE, scanner=index), view="PA") for index in range(len(STYLES))]
    assert all(not np.array_equal(pictures[0], other) for other in pictures[1:])


def test_noise_grows_where_little_arrives() -> None:
    flat = np.full((128, 128), 1.0, dtype=np.float32)
    flat[:, 64:] = 5.0
    pixels = expose(flat, EXPOSURE, view="PA").astype(float)
    assert pixels[20:-20, 80:110].std() > 1.5 * pixels[20:-20, 15:45].std()


def test_side_marker_is_on_the_side_it_names() -> None:
    for seed in range(8):
        plain = expose(thorax(), replace(EXPOSURE, seed=seed), view="PA").astype(int)
        marked = expose(thorax(), replace(EXPOSURE, seed=seed, marker=True), view="PA").astype(int)
        columns = np.flatnonzero((marked != plain).any(axis=0))
        assert columns.size
        assert columns.min() > 96 or columns.max() < 32


def test_site_marker_touches_one_corner_only() -> None:
    plain = expose(thorax(), EXPOSURE, view="PA")
    marked = expose(thorax(), replace(EXPOSURE, site_marker=True), view="PA")
    rows, columns = np.nonzero(plain != marked)
    assert rows.size
    assert rows.min() > 110
    assert columns.max() < 18


def test_coarse_keeps_the_mean_and_loses_detail() -> None:
    noise = np.random.default_rng(0).normal(size=(128, 128)).astype(np.float32)
    smooth = coarse(noise, radius=12)
    assert smooth.std() < 0.1
    assert smooth.mean() == pytest.approx(noise.mean(), abs=0.03)
