"""Norming and its gradient against autograd."""

import pytest
import torch

from vlp.kernels import unit
from vlp.kernels.unit import UnitNorm


@pytest.mark.parametrize("layer_norm", [True, False])
def test_gradient_is_autograds(layer_norm):
    torch.manual_seed(0)
    raw = torch.randn(3, 5, 7, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(7, dtype=torch.float64, requires_grad=True)
    norm = UnitNorm(weight=weight, bias=bias) if layer_norm else UnitNorm()
    direction = torch.randn(3, 5, 7, dtype=torch.float64)
    expected = norm(raw)
    with torch.no_grad():
        normed = unit.forward(raw, norm, out=torch.empty_like(raw))
        found = unit.backward(direction.clone(), raw, normed, norm)
    torch.testing.assert_close(normed.unit, expected)
    wanted = [raw, weight, bias] if layer_norm else [raw]
    for a, b in zip(found, torch.autograd.grad((expected * direction).sum(), wanted), strict=False):
        torch.testing.assert_close(a, b)


def test_a_vector_of_nothing_stays_nothing_without_gradient():
    raw = torch.zeros(2, 4)
    normed = unit.forward(raw, UnitNorm(), out=torch.empty(2, 4))
    assert normed.unit.tolist() == raw.tolist()
    gradient, _, _ = unit.backward(torch.ones(2, 4), raw, normed, UnitNorm())
    assert gradient.tolist() == raw.tolist()


def test_masked_hides_even_nan():
    vectors = torch.tensor([[[1.0, 2.0], [float("nan"), 4.0]]])
    padding = torch.tensor([[False, True]])
    assert unit.masked(vectors, padding).tolist() == [[[1.0, 2.0], [0.0, 0.0]]]
    assert unit.masked(vectors, None) is vectors
