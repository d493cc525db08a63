"""Patch vectors as the attention takes them: layer-normed where asked, at unit length; and the gradient of that.

Doing it span by span inside the operator spares a normalised copy of every patch, which for long grids is as large
as all the rest of what training keeps.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitNorm:
    """Brings patch vectors to unit length, after a LayerNorm if `weight` and `bias` are there."""

    weight: Float[Tensor, " dim"] | None = None
    bias: Float[Tensor, " dim"] | None = None
    eps: float = 1e-5

    def __call__(self, vectors: Float[Tensor, "*shape dim"]) -> Float[Tensor, "*shape dim"]:
        """The vectors, normed; the specification of `forward`."""
        if self.weight is not None:
            vectors = functional.layer_norm(vectors, vectors.shape[-1:], self.weight, self.bias, self.eps)
        return functional.normalize(vectors, dim=-1)


@dataclass(frozen=True, slots=True)
class Normed:
    """Unit vectors, and what their gradient needs."""

    unit: Float[Tensor, "*shape dim"]
    reciprocal: Float[Tensor, "*shape 1"]
    """1 / length before; 0 for a vector of nothing, which has no direction and no gradient."""
    mean: Tensor | None
    deviation: Tensor | None
    """1 / standard deviation, as LayerNorm's own gradient wants it."""


def forward(raw: Float[Tensor, "*shape dim"], norm: UnitNorm, *, out: Float[Tensor, "*shape dim"]) -> Normed:
    """`norm(raw)` without a graph, written to `out`."""
    mean = deviation = None
    vectors = raw
    if norm.weight is not None:
        vectors, mean, deviation = torch.native_layer_norm(raw, raw.shape[-1:], norm.weight, norm.bias, norm.eps)
    length = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    reciprocal = torch.where(length > torch.finfo(length.dtype).tiny, length, torch.inf).reciprocal_()
    return Normed(torch.mul(vectors, reciprocal, out=out), reciprocal, mean, deviation)


def backward(
    gradient: Float[Tensor, "*shape dim"], raw: Float[Tensor, "*shape dim"], normed: Normed, norm: UnitNorm
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Gradients of raw vectors, weight and bias.  Overwrites `gradient`."""
    along = torch.linalg.vecdot(gradient, normed.unit).unsqueeze(-1)
    before = gradient.addcmul_(along, normed.unit, value=-1).mul_(normed.reciprocal)
    if norm.weight is None:
        return before, None, None
    wanted = [True, True, norm.bias is not None]
    raw_gradient, weight, bias = torch.ops.aten.native_layer_norm_backward(
        before, raw, raw.shape[-1:], normed.mean, normed.deviation, norm.weight, norm.bias, wanted
    )
    return raw_gradient, weight, bias


def masked(vectors: Float[Tensor, "image patch dim"], padding: Bool[Tensor, "image patch"] | None) -> Tensor:
    """The vectors with those of padding set to zero, so that neither their values nor NaNs in them are ever seen."""
    return vectors if padding is None else vectors.masked_fill(padding[..., None], 0.0)
