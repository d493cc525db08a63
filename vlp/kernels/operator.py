"""The operator behind `similarity_attention`: saves l, |m| and the log-sum-exp, walks images in spans, asks a backend.

It is registered with torch, so that `torch.compile` and fake tensors see one opaque node with known shapes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from vlp.kernels import chunked, unit
from vlp.kernels.reference import attended_nowhere
from vlp.kernels.unit import UnitNorm
from vlp.kernels.workspace import Workspace, spans


class Backend(Protocol):
    """What computes one span of images: see `chunked.Tiles`."""

    images: int
    """How many images it wants at a time, at most."""
    dtype: torch.dtype
    """Of the patch vectors it takes."""

    def forward(self, patches: Tensor, nowhere: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """(similarity, length, lse), each [text image]."""

    def backward(
        self, patches: Tensor, nowhere: Tensor | None, here: tuple[Tensor, Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of texts, patches and beta; `here` is similarity, length, lse and incoming gradient."""


@torch.library.custom_op("vlp::similarity_attention", mutates_args=())
def similarity_attention(
    text: Tensor,
    patches: Tensor,
    tau: Tensor,
    padding: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    norm: bool,
    backend: str,
    budget_bytes: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """(similarity, |m|, log-sum-exp of the scores), each [text image]; only the first is differentiable."""
    text = text.to(accumulated(text))
    results = tuple(text.new_empty(text.shape[0], patches.shape[0]) for _ in range(3))
    with torch.autocast(text.device.type, enabled=False):
        working = _backend(backend, text, patches, tau, budget_bytes)
        for span in _walk(working, text, patches, padding, _norm(text, weight, bias, eps) if norm else None):
            for result, part in zip(results, working.forward(span.vectors, span.nowhere), strict=True):
                result[:, span.images] = part
    return results  # type: ignore[return-value]


@torch.library.custom_op("vlp::similarity_attention_backward", mutates_args=())
def _backward(
    gradient: Tensor,
    text: Tensor,
    patches: Tensor,
    tau: Tensor,
    padding: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    similarity: Tensor,
    length: Tensor,
    lse: Tensor,
    eps: float,
    norm: bool,
    backend: str,
    budget_bytes: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of text, patches, tau, weight and bias (the last two empty where there is no LayerNorm)."""
    kind, text = text.dtype, text.to(accumulated(text))
    d_text, d_patches, d_beta = torch.zeros_like(text), torch.empty_like(patches), torch.zeros_like(tau)
    d_weight, d_bias = _zeros(weight, text), _zeros(bias, text)
    with torch.autocast(text.device.type, enabled=False):
        working = _backend(backend, text, patches, tau, budget_bytes)
        unit_norm = _norm(text, weight, bias, eps) if norm else None
        for span in _walk(working, text, patches, padding, unit_norm):
            similarity_, length_, lse_, gradient_ = (x[:, span.images] for x in (similarity, length, lse, gradient))
            part_text, part, part_beta = working.backward(
                span.vectors, span.nowhere, (similarity_, length_, lse_, gradient_)
            )
            d_text += part_text
            d_beta += part_beta
            if unit_norm is not None and span.normed is not None:
                part = unit.masked(part.to(text.dtype), span.padding)
                part, part_weight, part_bias = unit.backward(part, span.raw, span.normed, unit_norm)
                d_weight += 0 if part_weight is None else part_weight
                d_bias += 0 if part_bias is None else part_bias
            d_patches[span.images] = unit.masked(part, span.padding)
    return d_text.to(kind), d_patches, -d_beta / tau.square(), d_weight, d_bias


@similarity_attention.register_fake
def _(text: Tensor, patches: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    shape, kind = (text.shape[0], patches.shape[0]), accumulated(text)
    similarity, length, lse = (text.new_empty(shape, dtype=kind) for _ in range(3))
    return similarity, length, lse


@_backward.register_fake
def _(gradient: Tensor, text: Tensor, patches: Tensor, tau: Tensor, padding: Tensor | None,
      weight: Tensor | None, bias: Tensor | None, *_: Any) -> tuple[Tensor, ...]:  # fmt: skip
    return (torch.empty_like(text), torch.empty_like(patches), torch.empty_like(tau),
            _zeros(weight, text), _zeros(bias, text))  # fmt: skip


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    text, patches, tau, padding, weight, bias, *ctx.settings = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(text, patches, tau, padding, weight, bias, *output)


def _differentiate(ctx: Any, gradient: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    nothing = (None,) * 10
    if gradient is None:
        return nothing
    text, patches, tau, padding, weight, bias, *results = ctx.saved_tensors
    d_text, d_patches, d_tau, d_weight, d_bias = _backward(
        gradient, text, patches, tau, padding, weight, bias, *results, *ctx.settings
    )
    norms = (None if weight is None else d_weight, None if bias is None else d_bias)
    return d_text, d_patches, d_tau, None, *norms, None, None, None, None


similarity_attention.register_autograd(_differentiate, setup_context=_save)


def accumulated(text: Tensor) -> torch.dtype:
    """What everything is summed in, and the type of the result."""
    return torch.float64 if text.dtype == torch.float64 else torch.float32


def _norm(text: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> UnitNorm:
    return UnitNorm(
        weight=None if weight is None else weight.to(text.dtype),
        bias=None if bias is None else bias.to(text.dtype),
        eps=eps,
    )


def _backend(name: str, text: Tensor, patches: Tensor, tau: Tensor, budget_bytes: int) -> Backend:
    images, grid, dim = patches.shape
    if name == "fused":
        from vlp.kernels import fused

        return fused.Programs(text, tau.reciprocal(), patches=grid, dtype=patches.dtype, budget_bytes=budget_bytes)
    tile = chunked.tiling(
        texts=text.shape[0],
        images=images,
        patches=grid,
        dim=dim,
        bytes_per_number=text.element_size(),
        budget_bytes=budget_bytes,
    )
    return chunked.Tiles(text, tau.reciprocal(), tile)


@dataclass(frozen=True, slots=True)
class _Span:
    """Some images, ready for a backend."""

    images: slice
    vectors: Tensor
    """Unit vectors, those of padding zero."""
    raw: Tensor
    """The vectors before norming."""
    normed: unit.Normed | None
    padding: Tensor | None
    nowhere: Tensor | None
    """Patches that the softmax leaves out."""


def _walk(
    working: Backend, text: Tensor, patches: Tensor, padding: Tensor | None, norm: UnitNorm | None
) -> Iterator[_Span]:
    """The images in spans; one span's vectors are overwritten by the next one's."""
    space = Workspace(text)
    for images in spans(patches.shape[0], working.images):
        here = None if padding is None else padding[images]
        nowhere = None if here is None else attended_nowhere(here)
        vectors = raw = unit.masked(patches[images].to(text.dtype), here)
        normed = None
        if norm is not None:
            normed = unit.forward(raw, norm, out=space.take("unit", raw.shape))
            vectors = unit.masked(normed.unit, here)
        yield _Span(images, vectors.to(working.dtype), raw, normed, here, nowhere)


def _zeros(like: Tensor | None, text: Tensor) -> Tensor:
    return text.new_zeros(0) if like is None else torch.zeros_like(like)
