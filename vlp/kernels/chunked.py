"""Similarity attention tile by tile in plain torch, on any device.  Nothing of the size text x image x patch is held.

A tile is some texts x some images x (for very long grids) some patches.  Forward keeps l, |m| and the log-sum-exp of
the scores; backward recomputes a tile (a small problem keeps its scores as well, see `Kept`) and uses the derived
gradient.  With m^ = m/|m|, g = (t - l m^)/|m|:

    w_k = a_k <g, v_k>,  dl/dt = m^ + beta sum_k w_k v_k,  dl/dv_k = a_k g + beta w_k t,  dl/dbeta = sum_k w_k c_k

Every buffer is made once and written into: on a CPU fresh memory costs more than the arithmetic on it.

Letters: S texts, I images, P patches, D width, of a tile; T text vectors [S D], V patch vectors [I P D], Z scores
beta c and A attention [I S P], M attended vectors m [I S D], G = V V^T [I P P].
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vlp.kernels.reference import smallest_square
from vlp.kernels.workspace import Workspace, spans

CPU_BUDGET_BYTES = 16 * 2**20
"""Working memory of a tile on a CPU; more buys no speed, since a tile should stay near the cache."""

DEVICE_BUDGET_BYTES = 512 * 2**20
"""Working memory of a tile on an accelerator, where a tile must be large enough to fill it."""

KEPT_PER_BUDGET = 3
"""A problem whose scores take no more than so many budgets keeps them for backward, and so does one with few texts,
whose scores take no more than half of what its patches do: neither is worth computing anything twice."""

_NOWHERE = -1e30
"""Score of a patch that the softmax leaves out; finite, so that nothing times it is nothing."""
_BUFFERS_PER_PATCH = 3
_BUFFERS_PER_DIM = 2
_PATCH_VECTORS = 3
"""V, its gradient, and the copy that norming makes."""
_GRAM_MATRICES = 2
_TEXTS_WORTH_A_TILE = 64
"""A product with fewer rows than this no longer runs at full speed; long grids are cut instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiling:
    """How a problem is cut, and how |m| is found."""

    images: int
    texts: int
    patches: int
    gram: bool
    """True: |m|^2 = a^T G a, cheaper for few patches and many texts; False: through m itself."""


def tiling(*, texts: int, images: int, patches: int, dim: int, bytes_per_number: int, budget_bytes: int) -> Tiling:
    """The largest tile whose buffers fit the budget, and at least one image with a worthwhile number of texts."""
    # Multiply-adds per image, forward and backward: 4 S P D through m, 3 P^2 (D + S) through the Gram matrix.
    gram = 3 * patches * (dim + texts) < 4 * texts * dim
    numbers = max(1, budget_bytes // bytes_per_number)
    fewest = min(texts, _TEXTS_WORTH_A_TILE)
    tile_patches = max(1, min(patches, numbers // (fewest * _BUFFERS_PER_PATCH)))
    gram = gram and tile_patches == patches
    per_text = _BUFFERS_PER_PATCH * tile_patches + _BUFFERS_PER_DIM * dim
    per_image = _PATCH_VECTORS * patches * dim + gram * _GRAM_MATRICES * patches * patches
    tile_texts = min(texts, max(fewest, (numbers - per_image) // per_text))
    tile_images = max(1, min(images, numbers // (per_image + tile_texts * per_text)))
    return Tiling(images=tile_images, texts=tile_texts, patches=tile_patches, gram=gram)


@dataclass(frozen=True, slots=True)
class Kept:
    """What a small problem keeps between forward and backward: Z of some images, and G where it is used."""

    scores: Float[Tensor, "image text patch"]
    gram: Float[Tensor, "image patch patch"]


def kept_shapes(
    *, texts: int, images: int, patches: int, dim: int, bytes_per_number: int, budget_bytes: int
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Shapes of `Kept` for a problem: without images where it is too large to keep anything."""
    size = {"texts": texts, "images": images, "patches": patches, "dim": dim, "bytes_per_number": bytes_per_number}
    tile = tiling(**size, budget_bytes=budget_bytes)
    gram = patches if tile.gram else 0
    numbers = images * patches * (texts + gram)
    # With few texts, scores are little beside the patches, which are there anyway.
    little = bytes_per_number * numbers <= KEPT_PER_BUDGET * budget_bytes or 2 * (texts + gram) <= dim
    kept = images if tile.patches == patches and little else 0
    return (kept, texts, patches), (kept, gram, gram)


class Tiles:
    """The backend of `operator` in plain torch, with the workspace of one call."""

    def __init__(self, text: Float[Tensor, "text dim"], beta: Float[Tensor, ""], tile: Tiling) -> None:
        self.images = tile.images
        """How many images `forward` and `backward` want at a time, at most."""
        self.dtype = text.dtype
        self._tile = tile
        self._text = text
        self._scaled = text * beta
        self._beta = beta
        self._space = Workspace(text)

    def forward(
        self,
        patches: Float[Tensor, "image patch dim"],
        nowhere: Bool[Tensor, "image patch"] | None,
        kept: Kept | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(similarity, length, lse), each [text image], of one span of images; fills `kept` where it is given."""
        span = _Span(patches, nowhere, self._gram(patches))
        if kept is not None and span.G is not None:
            kept.gram.copy_(span.G)
        parts = []
        for texts in spans(len(self._text), self._tile.texts):
            parts.append(self._forward(texts, span))
            if kept is not None:
                kept.scores[:, texts] = self._space.take("Z", kept.scores[:, texts].shape)
        similarity, length, lse = (torch.cat(part, dim=1).T for part in zip(*parts, strict=True))
        return similarity, length, lse

    def backward(
        self,
        patches: Float[Tensor, "image patch dim"],
        nowhere: Bool[Tensor, "image patch"] | None,
        here: tuple[Tensor, Tensor, Tensor, Tensor],
        kept: Kept | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of texts, of these patches, and of beta.  `here`: similarity, length, lse, gradient [text image].

        The patches' gradient lies in the workspace: use it before the next call.
        """
        d_text = torch.zeros_like(self._text)
        d_patches = self._space.take("dV", patches.shape).zero_()
        d_beta = torch.zeros_like(self._beta)
        if kept is None:
            span = _Span(patches, nowhere, self._gram(patches))
        else:
            span = _Span(patches, nowhere, kept.gram if self._tile.gram else None, kept.scores)
        for texts in spans(len(self._text), self._tile.texts):
            columns = tuple(value[texts].T.contiguous().unsqueeze(-1) for value in here)
            d_beta += self._backward(texts, span, columns, d_text[texts], d_patches)
        return d_text, d_patches, d_beta

    def _forward(self, texts: slice, span: "_Span") -> tuple[Tensor, Tensor, Tensor]:
        """Online softmax over the pieces of a grid (Milakov & Gimelshein 2018); most grids are one piece."""
        V, G = span.V, span.G
        shape = (len(V), texts.stop - texts.start)
        largest = V.new_full((*shape, 1), -torch.inf)
        total, weighted = V.new_zeros((*shape, 1)), V.new_zeros((*shape, 1))
        M = self._space.take("M", (*shape, V.shape[-1])).zero_()
        square = None
        for piece in self._pieces(V):
            Z = self._scores(texts, span, piece)
            before, largest = largest, torch.maximum(largest, Z.amax(dim=-1, keepdim=True))
            shrink = (before - largest).exp_()
            A = torch.sub(Z, largest, out=self._space.take("A", Z.shape)).exp_()
            total = total * shrink + A.sum(dim=-1, keepdim=True)
            weighted = weighted * shrink + torch.linalg.vecdot(A, Z).unsqueeze(-1)
            if G is None:
                M.mul_(shrink).baddbmm_(A, V[:, piece])
            else:
                square = torch.linalg.vecdot(torch.bmm(A, G, out=self._space.take("Q", A.shape)), A).unsqueeze(-1)
        square = M.square_().sum(dim=-1, keepdim=True) if square is None else square
        vanishes = square <= smallest_square(V.dtype) * total.square()
        length = (square / total.square()).masked_fill_(vanishes, 0.0).sqrt_()
        similarity = weighted / (total * self._beta) * reciprocal(length)
        return similarity.squeeze(-1), length.squeeze(-1), (largest + total.log()).squeeze(-1)

    def _backward(self, texts: slice, span: "_Span", columns: tuple[Tensor, ...], d_T: Tensor, d_V: Tensor) -> Tensor:
        """Adds to `d_T` and `d_V`, returns dL/dbeta.

        With q_k = <m, v_k> and y_k = beta (c_k - l r q_k):  beta u w_k = u r a_k y_k.  What multiplies v_k in dL/dt
        and t in dL/dv_k is the same E_k = u r a_k (1 + y_k), so two products serve both; what is left of dL/dv_k is
        -a_k u l r^2 m.
        """
        similarity, length, lse, u = columns
        r = reciprocal(length)
        V, G, T, beta = span.V, span.G, self._text[texts], self._beta
        u_r, l_r = u * r, similarity * r
        pieces = list(self._pieces(V))
        if G is None:
            M = self._attended(texts, span, lse, pieces)
            scaled_M = torch.mul(M, beta * l_r, out=self._space.take("scaled M", M.shape))
            rest_M = M.mul_(u_r * l_r)
        d_beta = torch.zeros_like(beta)
        for piece in pieces:
            part = V[:, piece]
            Z, A = (self._space.take(name, (len(V), len(T), part.shape[1])) for name in ("Z", "A"))
            if G is not None or len(pieces) > 1:  # else `_attended` has left them in the workspace
                self._attend(texts, span, piece, lse)
            Q = self._space.take("Q", Z.shape)
            if G is None:
                torch.sub(Z, torch.bmm(scaled_M, part.mT, out=Q), out=Q)
            else:
                torch.addcmul(Z, torch.bmm(A, G, out=Q), beta * l_r, value=-1, out=Q)
            Q.mul_(A).mul_(u_r)  # beta u w
            # sum_k w_k = 0, so the mean score can be taken off first, and its size out of the rounding.
            Z.sub_(beta * similarity * length)
            d_beta += torch.dot(Q.view(-1), Z.view(-1))
            E = Q.addcmul_(A, u_r)
            for e, v in zip(E, part, strict=True):
                d_T.addmm_(e, v)
            d_V[:, piece].baddbmm_(E.mT, T.expand(len(V), -1, -1))
            if G is None:
                d_V[:, piece].baddbmm_(A.mT, rest_M, alpha=-1)
            else:
                F = torch.mul(A, u_r * l_r, out=Z)
                d_V.baddbmm_(torch.bmm(F.mT, A, out=self._space.take("H", G.shape)), V, alpha=-1)
        return d_beta / beta.square()

    def _attended(self, texts: slice, span: "_Span", lse: Tensor, pieces: list[slice]) -> Tensor:
        """The attended vectors of a tile, recomputed."""
        M = self._space.take("M", (len(span.V), texts.stop - texts.start, span.V.shape[-1])).zero_()
        for piece in pieces:
            M.baddbmm_(self._attend(texts, span, piece, lse), span.V[:, piece])
        return M

    def _attend(self, texts: slice, span: "_Span", piece: slice, lse: Tensor) -> Tensor:
        """Attention from known normalisers; leaves scores and attention in the workspace."""
        Z = self._scores(texts, span, piece)
        return torch.sub(Z, lse, out=self._space.take("A", Z.shape)).exp_()

    def _scores(self, texts: slice, span: "_Span", piece: slice) -> Tensor:
        part, T = span.V[:, piece], self._scaled[texts]
        Z = self._space.take("Z", (len(part), len(T), part.shape[1]))
        if span.scores is not None:
            return Z.copy_(span.scores[:, texts])
        torch.bmm(T.expand(len(part), -1, -1), part.mT, out=Z)
        return Z if span.nowhere is None else Z.masked_fill_(span.nowhere[:, None, piece], _NOWHERE)

    def _gram(self, V: Tensor) -> Tensor | None:
        if not self._tile.gram:
            return None
        return torch.bmm(V, V.mT, out=self._space.take("G", (len(V), V.shape[1], V.shape[1])))

    def _pieces(self, V: Tensor) -> Iterator[slice]:
        return spans(V.shape[1], self._tile.patches)


@dataclass(frozen=True, slots=True)
class _Span:
    """Some images: their vectors, what the softmax leaves out, their Gram matrices, and scores that are known."""

    V: Tensor
    nowhere: Tensor | None
    G: Tensor | None
    scores: Tensor | None = None


def reciprocal(length: Tensor) -> Tensor:
    """1/|m|, and 0 where m vanishes: no similarity there, and no gradient."""
    return torch.where(length > 0, length, torch.inf).reciprocal()
