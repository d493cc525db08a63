"""The operator behind `similarity_attention`: saves l, |m| and the log-sum-exp, walks images in spans, asks a backend.

It is registered with torch, so that `torch.compile` and fake tensors see one opaque node with known shapes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from vlp.kernels import chunked, unit
from vlp.kernels.chunked import Kept
from vlp.kernels.reference import attended_nowhere
from vlp.kernels.unit import UnitNorm
from vlp.kernels.workspace import Workspace, spans


class Backend(Protocol):
    """What computes one span of images: see `chunked.Tiles`."""

    images: int
    """How many images it wants at a time, at most."""
    dtype: torch.dtype
    """Of the patch vectors it takes."""

    def forward(self, patches: Tensor, nowhere: Tensor | None, kept: Any) -> tuple[Tensor, Tensor, Tensor]:
        """(similarity, length, lse), each [text image]; fills `kept`, which only "chunked" is given."""

    def backward(
        self, patches: Tensor, nowhere: Tensor | None, here: tuple[Tensor, Tensor, Tensor, Tensor], kept: Any
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
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(similarity, |m|, log-sum-exp of the scores), each [text image], and what a small problem keeps if `keep`.

    Only the first is differentiable.
    """
    text = text.to(accumulated(text))
    results = tuple(text.new_empty(text.shape[0], patches.shape[0]) for _ in range(3))
    scores, gram = _kept(text, patches, backend, budget_bytes, keep=keep)
    with torch.autocast(text.device.type, enabled=False):
        working = _backend(backend, text, patches, tau, budget_bytes)
        for span in _walk(working, text, patches, padding, _norm(text, weight, bias, eps) if norm else None):
            parts = working.forward(span.vectors, span.nowhere, _kept_of(span.images, scores, gram))
            for result, part in zip(results, parts, strict=True):
                result[:, span.images] = part
    similarity, length, lse = results
    return similarity, length, lse, scores, gram


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
    scores: Tensor,
    gram: Tensor,
    eps: float,
    norm: bool,
    backend: str,
    budget_bytes: int,
    keep: bool,
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
                span.vectors,
                span.nowhere,
                (similarity_, length_, lse_, gradient_),
                _kept_of(span.images, scores, gram),
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
def _(text: Tensor, patches: Tensor, tau: Tensor, padding: Tensor | None, weight: Tensor | None, bias: Tensor | None,
      eps: float, norm: bool, backend: str, budget_bytes: int, keep: bool) -> tuple[Tensor, ...]:  # fmt: skip
    wide = text.new_empty(text.shape, dtype=accumulated(text))
    results = (wide.new_empty(text.shape[0], patches.shape[0]) for _ in range(3))
    return (*results, *_kept(wide, patches, backend, budget_bytes, keep=keep))


@_backward.register_fake
def _(gradient: Tensor, text: Tensor, patches: Tensor, tau: Tensor, padding: Tensor | None,
      weight: Tensor | None, bias: Tensor | None, *_: Any) -> tuple[Tensor, ...]:  # fmt: skip
    return (torch.empty_like(text), torch.empty_like(patches), torch.empty_like(tau),
            _zeros(weight, text), _zeros(bias, text))  # fmt: skip


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    text, patches, tau, padding, weight, bias, *ctx.settings = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(text, patches, tau, padding, weight, bias, *output)


def _differentiate(ctx: Any, gradient: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    nothing = (None,) * 11
    if gradient is None:
        return nothing
    text, patches, tau, padding, weight, bias, *results = ctx.saved_tensors
    d_text, d_patches, d_tau, d_weight, d_bias = _backward(
        gradient, text, patches, tau, padding, weight, bias, *results, *ctx.settings
    )
    norms = (None if weight is None else d_weight, None if bias is None else d_bias)
    return d_text, d_patches, d_tau, None, *norms, None, None, None, None, None


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


def _kept(text: Tensor, patches: Tensor, backend: str, budget_bytes: int, *, keep: bool) -> tuple[Tensor, Tensor]:
    """Room for what is kept between forward and backward; empty where nothing is."""
    if not (keep and backend == "chunked"):
        return text.new_empty(0), text.new_empty(0)
    scores, gram = chunked.kept_shapes(**_size(text, patches), budget_bytes=budget_bytes)
    return text.new_empty(scores), text.new_empty(gram)


def _kept_of(images: slice, scores: Tensor, gram: Tensor) -> Kept | None:
    return Kept(scores[images], gram[images]) if scores.numel() else None


def _size(text: Tensor, patches: Tensor) -> dict[str, int]:
    images, grid, dim = patches.shape
    return {"texts": text.shape[0], "images": images, "patches": grid, "dim": dim, "bytes_per_number": text.itemsize}


def _backend(name: str, text: Tensor, patches: Tensor, tau: Tensor, budget_bytes: int) -> Backend:
    if name == "fused":
        from vlp.kernels import fused

        return fused.Programs(
            text, tau.reciprocal(), patches=patches.shape[1], dtype=patches.dtype, budget_bytes=budget_bytes
        )
    tile = chunked.tiling(**_size(text, patches), budget_bytes=budget_bytes)
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
