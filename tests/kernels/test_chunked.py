"""The tiled kernel against the specification: values, every gradient, padding, and the memory it may hold."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from vlp.kernels import chunked, reference, similarity_attention

SMALL_TILES = 3000
MANY_TEXTS = (40, 3, 4, 8)
MANY_PATCHES = (3, 4, 17, 5)


def _problem(shape, *, dtype=torch.float64, seed=0, padded=True):
    """Patches of one image lean one way, as real ones do; where they cancel, float32 can say nothing."""
    texts, images, patches, dim = shape
    generator = torch.Generator().manual_seed(seed)

    def normal(*size):
        return torch.randn(size, generator=generator, dtype=torch.float64)

    text = functional.normalize(normal(texts, dim), dim=-1)
    patch = functional.normalize(normal(images, patches, dim) + normal(images, 1, dim), dim=-1)
    padding = torch.rand(images, patches, generator=generator) < 0.3 if padded else None
    return text.to(dtype), patch.to(dtype), padding, normal(texts, images).to(dtype)


def _outcome(kernel, problem, tau=0.1):
    """(similarity, d text, d patches, d tau)."""
    text, patches, padding, weights = problem
    text, patches = text.clone().requires_grad_(), patches.clone().requires_grad_()
    temperature = torch.tensor(tau, dtype=text.dtype, requires_grad=True)
    similarity = kernel(text, patches, temperature, padding)
    (similarity * weights).sum().backward()
    return similarity.detach(), text.grad, patches.grad, temperature.grad


def _chunked(text, patches, tau, padding, **options):
    return similarity_attention(text, patches, tau_attention=tau, padding=padding, implementation="chunked", **options)


def _in_small_tiles(*arguments):
    return _chunked(*arguments, budget_bytes=SMALL_TILES)


def _in_smallest_tiles(*arguments):
    return _chunked(*arguments, budget_bytes=1)


def _relative(found, expected):
    return max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-3)) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("shape", [MANY_TEXTS, MANY_PATCHES], ids=["gram", "through_m"])
@pytest.mark.parametrize("kernel", [_in_smallest_tiles, _in_small_tiles, _chunked], ids=["smallest", "tiles", "one"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_values_and_gradients_are_the_specifications(shape, kernel, dtype, tolerance):
    problem = _problem(shape, dtype=dtype)
    exact = _outcome(reference.similarity_attention, _problem(shape))
    assert _relative(_outcome(kernel, problem), [value.to(dtype) for value in exact]) < tolerance


def test_both_ways_to_the_length_of_m_are_taken():
    cut = {"bytes_per_number": 8, "budget_bytes": 2**20}
    names = ("texts", "images", "patches", "dim")
    assert chunked.tiling(**dict(zip(names, MANY_TEXTS, strict=True)), **cut).gram
    assert not chunked.tiling(**dict(zip(names, MANY_PATCHES, strict=True)), **cut).gram


def test_a_long_grid_is_cut_and_a_cut_grid_has_no_gram_matrix():
    size = {"texts": 8000, "images": 3, "patches": 5000, "dim": 8000, "bytes_per_number": 4}
    tile = chunked.tiling(**size, budget_bytes=2**20)
    assert tile.patches < 5000
    assert not tile.gram
    assert chunked.tiling(**size, budget_bytes=2**40).gram


@settings(max_examples=50, deadline=None)
@given(shape=st.tuples(*(st.integers(1, 3000) for _ in range(4))), budget=st.integers(2**20, 2**28))
def test_a_tile_keeps_to_its_budget(shape, budget):
    """All buffers of `Tiles` together; a single image's own vectors are the least that can be held."""
    texts, images, patches, dim = shape
    tile = chunked.tiling(texts=texts, images=images, patches=patches, dim=dim, bytes_per_number=4, budget_bytes=budget)
    per_text = 3 * tile.patches + 2 * dim
    buffers = tile.images * (tile.texts * per_text + 3 * patches * dim + tile.gram * 2 * patches**2)
    least = min(texts, 64) * per_text + 3 * patches * dim + tile.gram * 2 * patches**2
    assert 4 * buffers <= max(budget, 4 * least)


@pytest.mark.parametrize("shape", [(6, 2, 3, 4), (2, 3, 5, 3)])
def test_gradcheck(shape):
    text, patches, padding, _ = _problem(shape)
    tau = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def kernel(text, patches, tau):
        return _chunked(text, patches, tau, padding, budget_bytes=800)

    assert torch.autograd.gradcheck(kernel, (text.requires_grad_(), patches.requires_grad_(), tau))


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(*(st.integers(1, 9) for _ in range(4))),
    budget=st.integers(1, 5000),
    tau=st.floats(0.01, 10.0),
    seed=st.integers(0, 99),
)
def test_any_shape_in_any_budget(shape, budget, tau, seed):
    problem = _problem(shape, seed=seed)
    text, patches, padding, _ = problem
    temperature = torch.tensor(tau, dtype=torch.float64)
    found = _chunked(text, patches, temperature, padding, budget_bytes=budget)
    expected = reference.similarity_attention(text, patches, temperature, padding)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("implementation", ["reference", "chunked"])
def test_padding_has_no_influence_and_no_gradient(implementation):
    text, patches, _, _ = _problem((5, 3, 7, 4), padded=False)
    padding = torch.zeros(3, 7, dtype=torch.bool)
    padding[0, 4:] = padding[2, 0] = True
    wild = patches.masked_fill(padding[..., None], float("nan")).requires_grad_()
    found = similarity_attention(text, wild, tau_attention=0.1, padding=padding, implementation=implementation)
    found.sum().backward()
    cut = similarity_attention(text, patches[:1, :4], tau_attention=0.1, implementation="reference")
    torch.testing.assert_close(found[:, :1].detach(), cut)
    assert (wild.grad[padding] == 0).all()
    assert (wild.grad[~padding] != 0).all()


@pytest.mark.parametrize("implementation", ["reference", "chunked"])
def test_an_image_of_nothing_but_padding_is_like_nothing(implementation):
    text, patches, _, _ = _problem((5, 2, 7, 4), padded=False)
    padding = torch.tensor([[True] * 7, [False] * 7])
    patches.requires_grad_()
    found = similarity_attention(text, patches, tau_attention=0.1, padding=padding, implementation=implementation)
    found.sum().backward()
    assert (found[:, 0] == 0).all()
    assert (patches.grad[0] == 0).all()
    assert torch.isfinite(patches.grad).all()


def test_permuted_inputs_give_permuted_outputs():
    text, patches, padding, _ = _problem((5, 4, 7, 6))
    texts, images, places = torch.randperm(5), torch.randperm(4), torch.randperm(7)
    found = similarity_attention(
        text[texts], patches[images][:, places], tau_attention=0.1, padding=padding[images][:, places]
    )
    expected = similarity_attention(text, patches, tau_attention=0.1, padding=padding)[texts][:, images]
    torch.testing.assert_close(found, expected)


def test_autocast_changes_nothing():
    text, patches, padding, weights = _problem((5, 3, 7, 8), dtype=torch.float32)
    plain = _outcome(
        lambda t, v, tau, p: similarity_attention(t, v, tau_attention=tau, padding=p), (text, patches, padding, weights)
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = _outcome(
            lambda t, v, tau, p: similarity_attention(t, v, tau_attention=tau, padding=p),
            (text, patches, padding, weights),
        )
    assert cast[0].dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(plain, cast, strict=True))


def test_half_precision_patches_are_summed_in_float32():
    text, patches, _, _ = _problem((5, 3, 7, 8), dtype=torch.float32, padded=False)
    half = patches.bfloat16().requires_grad_()
    found = similarity_attention(text, half, tau_attention=0.1)
    found.sum().backward()
    expected = similarity_attention(text, half.detach().float(), tau_attention=0.1, implementation="reference")
    torch.testing.assert_close(found.detach(), expected)
    assert half.grad.dtype == torch.bfloat16


class _Largest(TorchDispatchMode):
    """Remembers the size of the largest tensor any operation made."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.numbers = max(self.numbers, result.numel())
        return result


def test_it_never_holds_text_x_image_x_patch():
    texts, images, patches, dim = 30, 20, 40, 10
    problem = _problem((texts, images, patches, dim), dtype=torch.float32, padded=False)
    sizes = {}
    for name, kernel in (("tiles", _in_small_tiles), ("whole", reference.similarity_attention)):
        with _Largest() as largest:
            _outcome(kernel, problem)
        sizes[name] = largest.numbers
    assert sizes["whole"] >= texts * images * patches
    assert sizes["tiles"] <= images * patches * dim  # the gradient of the patches themselves
    assert sizes["tiles"] < texts * images * patches / 2
