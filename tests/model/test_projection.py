"""Heads between a tower's width and the joint width."""

import pytest
import torch

from vlp.errors import ConfigError
from vlp.model.projection import make_head


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_it_changes_the_last_axis_of_anything(kind):
    head = make_head(kind, width=6, dim=4, where="model.image")
    assert head(torch.zeros(2, 6)).shape == (2, 4)
    assert head(torch.zeros(2, 5, 6)).shape == (2, 5, 4)


def test_an_mlp_is_not_linear_and_a_linear_head_is():
    for kind, linear in (("linear", True), ("mlp", False)):
        torch.manual_seed(0)
        head = make_head(kind, width=6, dim=4, where="model.image")
        a, b, zero = torch.randn(1, 6), torch.randn(1, 6), torch.zeros(1, 6)
        additive = torch.allclose(head(a + b) + head(zero), head(a) + head(b), atol=1e-5)
        assert additive is linear


def test_no_head_only_between_equal_widths():
    vectors = torch.randn(3, 4)
    assert make_head("none", width=4, dim=4, where="model.image")(vectors) is vectors
    with pytest.raises(ConfigError, match=r"model\.image\.head"):
        make_head("none", width=6, dim=4, where="model.image")
