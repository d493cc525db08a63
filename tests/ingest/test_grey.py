from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlp.ingest.grey import grey_of_rgb, grey_of_ybr
from vlp.ingest.image_error import ImageError

PATH = Path("a")
GREY = np.random.default_rng(0).integers(0, 256, (60, 50), dtype=np.uint8)


def _tinted(red: int, blue: int) -> np.ndarray:
    base = GREY.astype(int) // 2 + 60
    return np.stack((base + red, base, base + blue), axis=2).astype(np.uint8)


def test_equal_channels_come_back_exactly():
    assert np.array_equal(grey_of_rgb(np.repeat(GREY[..., None], 3, axis=2), PATH), GREY)


def test_a_slight_cast_is_the_luminance_pillow_gives():
    tinted = _tinted(6, -8)
    expected = np.asarray(Image.fromarray(tinted).convert("L")).astype(int)
    assert np.abs(grey_of_rgb(tinted, PATH).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("picture", [_tinted(25, -5), np.random.default_rng(0).integers(0, 256, (9, 9, 3))])
def test_colour_is_refused(picture):
    with pytest.raises(ImageError) as caught:
        grey_of_rgb(picture.astype(np.uint8), PATH)
    assert caught.value.code == "colour_image"


def test_a_painted_corner_is_refused_and_a_speck_is_not():
    picture = np.repeat(GREY[..., None], 3, axis=2)
    picture[:2, :2] = (255, 0, 0)
    grey_of_rgb(picture, PATH)
    picture[:8, :8] = (255, 0, 0)
    with pytest.raises(ImageError):
        grey_of_rgb(picture, PATH)


def test_ybr_is_judged_like_the_rgb_it_stands_for():
    for rgb, good in ((_tinted(3, -3), True), (_tinted(70, -40), False)):
        ybr = np.asarray(Image.fromarray(rgb).convert("YCbCr"))
        if good:
            assert np.array_equal(grey_of_ybr(ybr, PATH), ybr[..., 0])
        else:
            with pytest.raises(ImageError):
                grey_of_ybr(ybr, PATH)
