import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.image import structural_similarity_index_measure

from vlp.evaluate.explain.agreement import spearman, ssim

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(16, 16), (9, 14)])
def test_ssim_is_that_of_another_implementation(shape: tuple[int, int]) -> None:
    one = RNG.random(shape)
    other = 0.6 * one + 0.4 * RNG.random(shape)
    stretched = [torch.tensor((values - values.min()) / np.ptp(values))[None, None] for values in (one, other)]
    _, everywhere = structural_similarity_index_measure(
        *stretched, gaussian_kernel=False, kernel_size=7, data_range=1.0, return_full_image=True
    )
    inside = everywhere[0, 0, 3:-3, 3:-3]  # windows that lie wholly on the grid
    assert ssim(one, other) == pytest.approx(float(inside.mean()), abs=1e-6)


@given(st.floats(0.1, 9.0), st.floats(-5.0, 5.0))
def test_likeness_does_not_depend_on_scale_or_offset(scale: float, offset: float) -> None:
    one, other = np.random.default_rng(1).random((2, 12, 12))
    assert ssim(one, scale * one + offset) == pytest.approx(1.0)
    assert ssim(one, scale * other + offset) == pytest.approx(ssim(one, other), abs=1e-9)
    assert spearman(one, scale * one + offset) == pytest.approx(1.0)


def test_an_inverted_map_is_unlike() -> None:
    one = RNG.random((12, 12))
    assert ssim(one, -one) < 0
    assert spearman(one, -one) == pytest.approx(-1.0)


def test_what_is_constant_or_missing() -> None:
    one = RNG.random((8, 8))
    holed = one.copy()
    holed[0] = np.nan
    assert spearman(one, np.ones((8, 8))) == 0.0
    assert abs(ssim(one, np.ones((8, 8)))) < 0.1
    assert spearman(one, holed) == pytest.approx(1.0)
    assert np.isfinite(ssim(holed, one))
    assert np.isfinite(ssim(one[:3, :4], holed[1:4, :4]))


def test_spearman_is_the_correlation_of_ranks() -> None:
    one, other = RNG.random((2, 30))
    ranks = [np.argsort(np.argsort(values)) for values in (one, other)]
    assert spearman(one, other) == pytest.approx(np.corrcoef(*ranks)[0, 1])
