import cv2
import numpy as np
import pytest
from scipy.fft import dctn

from vlp.data.fingerprints import fingerprint, ranks, report_digest, trimmed


@pytest.fixture
def image() -> np.ndarray:
    """Soft structure on all scales, on a grid of no special size."""
    rng = np.random.default_rng(3)
    layers = [cv2.resize(rng.random((size, size)), (200, 240), interpolation=cv2.INTER_CUBIC) for size in (3, 9, 27)]
    return np.clip(60 + 60 * sum(layers), 0, 255).astype(np.uint8)


def _distance(one: np.ndarray, two: np.ndarray) -> int:
    return int(np.bitwise_count(fingerprint(ranks(one)) ^ fingerprint(ranks(two))).sum())


def test_it_is_what_its_description_says(image):
    """Against scipy's cosine transform and plain loops."""
    ranked = ranks(image)
    low = dctn(ranked.astype(float), norm="ortho")[:16, :16]
    coarse = [low[row, column] for row in range(8) for column in range(8)]
    rest = [low[row, column] for row in range(8) for column in range(8, 16)]
    rest += [low[row, column] for row in range(8, 16) for column in range(16)]
    bits = [value > np.median(coarse[1:]) for value in coarse] + [
        value > np.median(coarse[1:] + rest) for value in rest
    ]
    bits[0] = False
    found = np.unpackbits(fingerprint(ranked).view(np.uint8)).astype(bool)
    assert np.count_nonzero(found != np.array(bits)) <= 2  # the very median is a matter of rounding
    assert found.shape == (256,)


def test_ranks_forget_brightness_contrast_and_gamma(image):
    fine = np.linspace(0, 255, 256)
    for curve in (fine * 0.5, fine * 0.8 + 40, 255 * (fine / 255) ** 2):
        changed = curve.astype(np.uint8)[image]
        assert _distance(image, changed) <= 12
    assert _distance(image, 255 - image) > 200
    assert _distance(image, image[:, ::-1].copy()) > 60


def test_ranks_are_a_permutation():
    ranked = ranks(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8))
    assert np.array_equal(np.sort(ranked.ravel()), np.arange(4096, dtype=np.float32) / 4096)


def test_size_and_compression_hardly_matter(image):
    _, content = cv2.imencode(".jpg", cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
    assert _distance(image, cv2.imdecode(content, cv2.IMREAD_GRAYSCALE)) <= 16
    assert len(trimmed(cv2.resize(image, (2000, 2400)))[0]) == 256


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_flat_border_makes_a_second_variant_without_it(image, level):
    padded = cv2.copyMakeBorder(image, 8, 4, 0, 44, cv2.BORDER_CONSTANT, value=level)
    whole, inner = trimmed(padded)
    assert np.array_equal(whole, padded)
    assert np.array_equal(inner, image)
    assert len(trimmed(image)) == 1


def test_an_image_that_is_mostly_flat_is_left_whole():
    dark = np.zeros((100, 100), dtype=np.uint8)
    dark[40:60, 40:60] = np.random.default_rng(0).integers(0, 256, (20, 20))
    assert len(trimmed(dark)) == 1
    assert fingerprint(ranks(np.zeros((9, 9), dtype=np.uint8))).shape == (4,)


def test_reports_equal_but_for_case_blanks_and_punctuation():
    same = {
        report_digest(text)
        for text in ("No effusion.\nHeart normal", "no  EFFUSION - heart, normal!", "no effusion heart normal")
    }
    assert len(same) == 1
    others = ("no effusion heart abnormal", "heart normal no effusion", "noeffusion heart normal", "", "Ärzte")
    assert len({report_digest(text) for text in others} | same) == 6
