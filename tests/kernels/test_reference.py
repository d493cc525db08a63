"""The specification itself: against a loop, and against what must hold whatever the numbers are."""

import math

import pytest
import torch
from torch.nn import functional

from vlp.kernels import UnitNorm, reference, similarity_attention, similarity_maps


def _problem(texts=4, images=3, patches=6, dim=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(texts, dim, generator=generator, dtype=torch.float64)
    patch = torch.randn(images, patches, dim, generator=generator, dtype=torch.float64)
    return functional.normalize(text, dim=-1), functional.normalize(patch, dim=-1)


def _by_loop(text, patches, tau):
    """One pair at a time, in Python numbers."""
    rows = []
    for t in text.tolist():
        row = []
        for image in patches.tolist():
            cosines = [sum(a * b for a, b in zip(t, v, strict=True)) for v in image]
            weights = [math.exp(c / tau) for c in cosines]
            m = [sum(w * v[d] for w, v in zip(weights, image, strict=True)) / sum(weights) for d in range(len(t))]
            dot = sum(a * b for a, b in zip(t, m, strict=True))
            row.append(dot / math.sqrt(sum(x * x for x in m)))
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


def test_it_is_the_formula():
    text, patches = _problem()
    found = similarity_attention(text, patches, tau_attention=0.2, implementation="reference")
    torch.testing.assert_close(found, _by_loop(text, patches, 0.2), atol=1e-12, rtol=0)


@pytest.mark.parametrize("implementation", ["reference", "chunked"])
def test_one_patch_is_its_cosine(implementation):
    text, patches = _problem(patches=1)
    found = similarity_attention(text, patches, tau_attention=0.07, implementation=implementation)
    torch.testing.assert_close(found, text @ patches[:, 0].T)


@pytest.mark.parametrize("implementation", ["reference", "chunked"])
def test_a_vanishing_temperature_takes_the_best_patch(implementation):
    text, patches = _problem()
    found = similarity_attention(text, patches, tau_attention=1e-5, implementation=implementation)
    torch.testing.assert_close(found, similarity_maps(text, patches).double().amax(dim=-1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("implementation", ["reference", "chunked"])
def test_an_endless_temperature_takes_the_mean_patch(implementation):
    text, patches = _problem()
    found = similarity_attention(text, patches, tau_attention=1e9, implementation=implementation)
    torch.testing.assert_close(found, text @ functional.normalize(patches.mean(dim=1), dim=-1).T)


@pytest.mark.parametrize("implementation", ["reference", "chunked"])
@pytest.mark.parametrize("tau", [0.01, 0.3, 5.0])
def test_equal_patches_are_their_cosine_at_any_temperature(implementation, tau):
    text, patches = _problem()
    same = patches[:, :1].expand(-1, 6, -1)
    found = similarity_attention(text, same, tau_attention=tau, implementation=implementation)
    torch.testing.assert_close(found, text @ same[:, 0].T)


def test_maps_are_cosines_in_patch_order():
    text, patches = _problem()
    maps = similarity_maps(text, patches)
    assert maps.shape == (4, 3, 6)
    assert maps[2, 1, 5].item() == pytest.approx(float(text[2] @ patches[1, 5]), abs=1e-6)


def test_patches_that_cancel_have_no_similarity_and_no_gradient():
    text = torch.tensor([[1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    patches = torch.tensor([[[0.0, 1.0], [0.0, -1.0]]], dtype=torch.float64, requires_grad=True)
    found = reference.similarity_attention(text, patches, torch.tensor(0.1, dtype=torch.float64), None)
    found.sum().backward()
    assert found.item() == 0
    assert text.grad.abs().max() == 0
    assert patches.grad.abs().max() == 0


@pytest.mark.parametrize(
    ("text", "patches", "options", "named"),
    [
        ((2, 3), (1, 4, 5), {}, "text .* patches"),
        ((3,), (1, 4, 3), {}, "text .* patches"),
        ((2, 3), (1, 0, 3), {}, "text .* patches"),
        ((0, 3), (1, 4, 3), {}, "text: there are no sentences"),
        ((2, 3), (1, 4, 3), {"tau_attention": 0.0}, "tau_attention is 0"),
        ((2, 3), (1, 4, 3), {"tau_attention": torch.tensor(1e12)}, r"tau_attention is 1e\+12"),
        ((2, 3), (1, 4, 3), {"tau_attention": float("nan")}, "tau_attention is nan"),
        ((2, 3), (1, 4, 3), {"tau_attention": torch.ones(2)}, "tau_attention is one number"),
        ((2, 3), (1, 4, 3), {"padding": torch.zeros(1, 3, dtype=torch.bool)}, "padding"),
        ((2, 3), (1, 4, 3), {"norm": UnitNorm(weight=torch.ones(4), bias=torch.ones(4))}, "norm.weight"),
    ],
)
def test_what_does_not_belong_together_is_refused(text, patches, options, named):
    with pytest.raises(ValueError, match=named):
        similarity_attention(torch.zeros(text), torch.zeros(patches), **({"tau_attention": 0.1} | options))


@pytest.mark.parametrize("implementation", ["reference", "chunked"])
@pytest.mark.parametrize("broken", ["text", "patches", "norm.weight"])
def test_numbers_that_are_not_finite_are_named(implementation, broken):
    named = {"text": torch.ones(2, 3), "patches": torch.ones(1, 4, 3), "norm.weight": torch.ones(3)}
    named[broken][..., 0] = float("nan")
    norm = UnitNorm(weight=named.pop("norm.weight"), bias=torch.ones(3))
    with pytest.raises(ValueError, match=f"^{broken}: numbers that are not finite"):
        similarity_attention(**named, tau_attention=0.1, norm=norm, implementation=implementation)


def test_whole_numbers_are_no_vectors():
    with pytest.raises(ValueError, match="patches: expected floating point"):
        similarity_attention(torch.ones(2, 3), torch.ones(1, 4, 3, dtype=torch.uint8), tau_attention=0.1)
