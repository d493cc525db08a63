"""Similarity attention tile by tile: memory grows with texts + patches, not with their product.

A tile is some texts x some images.  Forward keeps only l and |m| [text image]; backward recomputes a tile and uses
the derived gradient (m^ = m/|m|, g = (t - l m^)/|m|, beta = 1/tau_attention):

    w_k = a_k <g, v_k>,  dl/dt = m^ + beta sum_k w_k v_k,  dl/dv_k = a_k g + beta w_k t,  dl/dbeta = sum_k w_k c_k

Letters: S texts, I images, P patches, D width, of the whole problem or of a tile; T text vectors [S D], V patch
vectors [I P D], C cosines and A attention [S I P], u the incoming gradient dL/dl [S I], r = 1/|m| [S I].
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from vlp.kernels.reference import attended_nowhere, smallest_square

CPU_BUDGET_BYTES = 16 * 2**20
"""Working memory of a tile on a CPU; more buys no speed, since a tile should stay near the cache."""

DEVICE_BUDGET_BYTES = 512 * 2**20
"""Working memory of a tile on an accelerator, where a tile must be large enough to fill it."""

_BUFFERS_PER_PATCH = 6
_BUFFERS_PER_DIM = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiling:
    """How a problem is cut: `texts` x `images` a tile, and how |m| is found in it."""

    texts: int
    images: int
    gram: bool
    """True: |m|^2 = a^T G a with G = V V^T, cheaper for few patches; False: through m itself."""


def tiling(*, texts: int, images: int, patches: int, dim: int, bytes_per_number: int, budget_bytes: int) -> Tiling:
    """The largest tile whose buffers fit the budget (at least one text and one image)."""
    # Multiply-adds per image, forward and backward: 4 S P D through m, 3 P^2 (D + S) through the Gram matrix.
    gram = 3 * patches * (dim + texts) < 4 * texts * dim
    per_pair = bytes_per_number * (_BUFFERS_PER_PATCH * patches + _BUFFERS_PER_DIM * dim)
    pairs = max(1, budget_bytes // per_pair)
    tile_texts = max(1, min(texts, pairs))
    return Tiling(texts=tile_texts, images=max(1, min(images, pairs // tile_texts)), gram=gram)


def similarity_attention(
    text: Float[Tensor, "text dim"],
    patches: Float[Tensor, "image patch dim"],
    tau_attention: Float[Tensor, ""],
    padding: Bool[Tensor, "image patch"] | None,
    *,
    budget_bytes: int | None = None,
) -> Float[Tensor, "text image"]:
    """The value and gradients of `reference.similarity_attention`, within a memory budget for the tile.

    The budget bounds what is held beside inputs, outputs and their gradients; the result does not depend on it
    but for rounding.
    """
    if budget_bytes is None:
        budget_bytes = CPU_BUDGET_BYTES if text.device.type == "cpu" else DEVICE_BUDGET_BYTES
    tile = tiling(
        texts=text.shape[0],
        images=patches.shape[0],
        patches=patches.shape[1],
        dim=patches.shape[2],
        bytes_per_number=text.element_size(),
        budget_bytes=budget_bytes,
    )
    similarity: Tensor = _SimilarityAttention.apply(text, patches, tau_attention, padding, tile)
    return similarity


class _SimilarityAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, text: Tensor, patches: Tensor, tau_attention: Tensor, padding: Tensor | None, tile: Tiling
    ) -> Tensor:
        beta = tau_attention.reciprocal()
        similarity = text.new_empty(text.shape[0], patches.shape[0])
        length = torch.empty_like(similarity)
        with torch.autocast(text.device.type, enabled=False):
            for images in _spans(patches.shape[0], tile.images):
                V, nowhere = _patches(patches, padding, images, text.dtype)
                G = _gram(V, tile)
                for texts in _spans(text.shape[0], tile.texts):
                    C, A = _attend(text[texts], V, nowhere, beta)
                    square = _square(A, V, G)
                    length[texts, images] = square.masked_fill_(square <= smallest_square(square.dtype), 0.0).sqrt_()
                    similarity[texts, images] = C.mul_(A).sum(dim=-1)
            similarity.mul_(_reciprocal(length))
        ctx.save_for_backward(text, patches, tau_attention, padding, similarity, length)
        ctx.tile = tile
        return similarity

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        text, patches, tau_attention, padding, similarity, length = ctx.saved_tensors
        tile: Tiling = ctx.tile
        with torch.autocast(text.device.type, enabled=False):
            beta = tau_attention.reciprocal()
            r = _reciprocal(length)
            u, l_r, mean = gradient * r, similarity * r, similarity * length
            d_text = torch.zeros_like(text)
            d_patches = torch.empty_like(patches)
            d_beta = torch.zeros_like(beta)
            for images in _spans(patches.shape[0], tile.images):
                V, nowhere = _patches(patches, padding, images, text.dtype)
                G = _gram(V, tile)
                d_V = torch.zeros_like(V)
                for texts in _spans(text.shape[0], tile.texts):
                    T = text[texts]
                    C, A = _attend(T, V, nowhere, beta)
                    here = (u[texts, images, None], l_r[texts, images, None], mean[texts, images, None])
                    d_T, d_tile_beta = _differentiate(T, V, G, C, A, beta, here, d_V)
                    d_text[texts] += d_T
                    d_beta += d_tile_beta
                if padding is not None:
                    d_V.masked_fill_(padding[images, :, None], 0.0)
                d_patches[images] = d_V
        return d_text, d_patches, -d_beta * beta.square(), None, None


def _differentiate(
    T: Tensor,
    V: Tensor,
    G: Tensor | None,
    C: Tensor,
    A: Tensor,
    beta: Tensor,
    here: tuple[Tensor, Tensor, Tensor],
    d_V: Tensor,
) -> tuple[Tensor, Tensor]:
    """(dL/dT, dL/dbeta) of a tile; adds dL/dV to `d_V`.  `here` holds u r, l r and the mean cosine, [S I 1].

    With q_k = <m, v_k>:  u w_k = u r a_k (c_k - l r q_k).  What multiplies v_k in dL/dt and t in dL/dv_k is the same
    E_k = u r a_k + beta u w_k, so two products serve both; what is left of dL/dv_k is -a_k u l r^2 m.
    """
    u_r, l_r, mean = here
    m = None
    if G is None:
        m = torch.bmm(A.transpose(0, 1), V)
        q = torch.bmm(m, V.transpose(1, 2))
    else:
        q = torch.bmm(A.transpose(0, 1), G)
    A_u = A * u_r
    W = q.transpose(0, 1).mul(-l_r).add_(C).mul_(A_u)
    # sum_k w_k = 0, so the mean cosine can be taken from c_k first, and its size out of the rounding.
    d_beta = torch.dot(W.reshape(-1), (C - mean).reshape(-1))
    E = W.mul_(beta).add_(A_u).reshape(T.shape[0], -1)
    flat = V.reshape(-1, V.shape[-1])
    d_T = E @ flat
    d_V += (E.T @ T).view_as(V)
    F = A_u.mul_(l_r).permute(1, 2, 0)
    if m is None:
        d_V -= torch.bmm(torch.bmm(F, A.transpose(0, 1)), V)
    else:
        d_V -= torch.bmm(F, m)
    return d_T, d_beta


def _spans(total: int, size: int) -> Iterator[slice]:
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))


def _patches(
    patches: Tensor, padding: Tensor | None, images: slice, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    """A tile's patch vectors in the accumulation type, padding zeroed, and which of them the softmax leaves out."""
    V = patches[images].to(dtype)
    if padding is None:
        return V, None
    return V.masked_fill(padding[images, :, None], 0.0), attended_nowhere(padding[images])


def _gram(V: Tensor, tile: Tiling) -> Tensor | None:
    return torch.bmm(V, V.transpose(1, 2)) if tile.gram else None


def _attend(T: Tensor, V: Tensor, nowhere: Tensor | None, beta: Tensor) -> tuple[Tensor, Tensor]:
    """(C, A) of a tile: one large product, then the softmax over each image's patches."""
    C = (T @ V.reshape(-1, V.shape[-1]).T).view(T.shape[0], V.shape[0], V.shape[1])
    scaled = C * beta
    if nowhere is not None:
        scaled.masked_fill_(nowhere, float("-inf"))
    return C, torch.softmax(scaled, dim=-1)


def _square(A: Tensor, V: Tensor, G: Tensor | None) -> Tensor:
    """|m|^2 [S I]."""
    if G is None:
        return torch.bmm(A.transpose(0, 1), V).square_().sum(dim=-1).T
    return torch.bmm(A.transpose(0, 1), G).transpose(0, 1).mul_(A).sum(dim=-1)


def _reciprocal(length: Tensor) -> Tensor:
    """1/|m|, and 0 where m vanishes: no similarity there, and no gradient."""
    return torch.where(length > 0, length, torch.inf).reciprocal()
