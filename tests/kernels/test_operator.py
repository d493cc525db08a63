"""The operator: norming inside, half precision, what it keeps for backward, and that torch sees one known node."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from vlp.kernels import UnitNorm, similarity_attention


def _problem(dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *size: torch.randn(*size, generator=generator, dtype=torch.float64).to(dtype)  # noqa: E731
    text = functional.normalize(draw(9, 6), dim=-1)
    patches = 3 * draw(4, 7, 6) + draw(4, 1, 6)
    padding = torch.rand(4, 7, generator=generator) < 0.3
    padding[1] = True
    return {
        "text": text.requires_grad_(),
        "patches": patches.requires_grad_(),
        "tau": torch.tensor(0.2, dtype=dtype, requires_grad=True),
        "weight": (1 + 0.3 * draw(6)).requires_grad_(),
        "bias": (0.3 * draw(6)).requires_grad_(),
    }, padding


def _similarity(inputs, padding, *, layer_norm=True, **options):
    norm = UnitNorm(weight=inputs["weight"], bias=inputs["bias"]) if layer_norm else UnitNorm()
    return similarity_attention(
        inputs["text"], inputs["patches"], tau_attention=inputs["tau"], padding=padding, norm=norm, **options
    )


@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize("budget", [1, 900, None])
@pytest.mark.parametrize("padded", [True, False])
def test_norming_inside_is_norming_before(layer_norm, budget, padded):
    inputs, padding = _problem()
    used = [value for name, value in inputs.items() if layer_norm or name not in ("weight", "bias")]
    weights = torch.randn(9, 4, dtype=torch.float64)
    outcomes = []
    for options in ({"implementation": "reference"}, {"implementation": "chunked", "budget_bytes": budget}):
        found = _similarity(inputs, padding if padded else None, layer_norm=layer_norm, **options)
        outcomes.append((found, *torch.autograd.grad((found * weights).sum(), used)))
    for expected, found in zip(*outcomes, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-9)


def test_gradcheck_through_the_norm():
    inputs, padding = _problem()
    names = list(inputs)

    def kernel(*values):
        return _similarity(dict(zip(names, values, strict=True)), padding, implementation="chunked", budget_bytes=500)

    assert torch.autograd.gradcheck(kernel, tuple(inputs.values()))


def test_padding_of_nan_is_never_seen_through_the_norm():
    inputs, padding = _problem()
    inputs["patches"] = inputs["patches"].detach().masked_fill(padding[..., None], float("nan")).requires_grad_()
    found = _similarity(inputs, padding)
    gradients = torch.autograd.grad(found.sum(), list(inputs.values()))
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    assert (gradients[1][padding] == 0).all()


def test_half_precision_texts_are_kept_as_they_are_and_get_a_gradient_of_their_type():
    inputs, padding = _problem(torch.float32)
    half = inputs["text"].detach().bfloat16().requires_grad_()
    found = _similarity(inputs | {"text": half}, padding)
    expected = _similarity(inputs | {"text": half.detach().float()}, padding, implementation="reference")
    torch.testing.assert_close(found, expected)
    assert torch.autograd.grad(found.sum(), [half])[0].dtype == torch.bfloat16


def test_half_precision_patches_keep_their_type_and_lose_nothing_inside():
    inputs, padding = _problem(torch.float32)
    half = inputs["patches"].detach().bfloat16().requires_grad_()
    found = _similarity(inputs | {"patches": half}, padding)
    expected = _similarity(inputs | {"patches": half.detach().float()}, padding, implementation="reference")
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(found.sum(), [half])
    assert gradient.dtype == torch.bfloat16


def _kept_bytes(inputs, padding, **options):
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _similarity(inputs, padding, **options)
    return sum(kept.values())


def test_what_is_kept_are_the_inputs_and_three_numbers_a_pair():
    inputs, padding = _problem(torch.float32)
    given = sum(value.numel() * value.element_size() for value in (*inputs.values(), padding))
    assert _kept_bytes(inputs, padding, budget_bytes=100) == given + 3 * 4 * 9 * 4


def test_a_small_problem_keeps_its_scores_as_well_and_gets_the_same_gradients():
    inputs, padding = _problem(torch.float32)
    assert _kept_bytes(inputs, padding) - _kept_bytes(inputs, padding, budget_bytes=100) == 4 * 4 * 9 * 7
    for texts in (9, 40):  # the second goes by the Gram matrix
        wide = inputs | {"text": functional.normalize(torch.randn(texts, 6), dim=-1).requires_grad_()}
        weights = torch.randn(texts, 4)
        small, large = (
            torch.autograd.grad(
                (_similarity(wide, padding, implementation="chunked", budget_bytes=budget) * weights).sum(),
                list(wide.values()),
                retain_graph=True,
            )
            for budget in (2**20, 2000)
        )
        for a, b in zip(small, large, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_backward_can_be_run_twice():
    inputs, padding = _problem()
    total = _similarity(inputs, padding).sum()
    first, second = (torch.autograd.grad(total, list(inputs.values()), retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_it_compiles_into_one_graph():
    inputs, padding = _problem(torch.float32)

    def loss(text, patches, tau, weight, bias):
        norm = UnitNorm(weight=weight, bias=bias)
        similarity = similarity_attention(
            text, patches, tau_attention=tau, padding=padding, norm=norm, implementation="chunked"
        )
        return (2 * similarity).logsumexp(dim=1).sum()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    expected = torch.autograd.grad(loss(*inputs.values()), list(inputs.values()))
    found = torch.autograd.grad(compiled(*inputs.values()), list(inputs.values()))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_a_fake_has_the_shape_of_the_real():
    with FakeTensorMode():
        text = torch.empty(50_000, 768, requires_grad=True)
        patches = torch.empty(8_192, 1_370, 768, dtype=torch.bfloat16, requires_grad=True)
        found = similarity_attention(text, patches, tau_attention=0.07)
        found.sum().backward()
    assert found.shape == (50_000, 8_192)
    assert found.dtype == torch.float32
    assert patches.grad.shape == patches.shape


def test_the_operator_obeys_the_rules_of_operators():
    inputs, padding = _problem()
    arguments = (inputs["text"], inputs["patches"], inputs["tau"], padding, inputs["weight"], inputs["bias"])
    torch.library.opcheck(torch.ops.vlp.similarity_attention.default, (*arguments, 1e-5, True, "chunked", 10_000, True))
