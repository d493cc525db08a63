"""Similarity attention of a span of images on a graphics card: the backend of `operator` that launches `programs`.

Arithmetic, in products of S I P D multiply-adds: forward 2 (cosines and pooling), backward 7 (both again, the cosines
once more beside <n, v>, two for dL/dV, one for dL/dT).  Making the cosines a third time is no dearer than fetching
them would be: a card does about as many multiply-adds as the width of a patch in the time one number takes it.

Transient in a span, beside inputs and results: forward holds the attention [I S P]; backward holds attention and E
[I S P] and n [I S D], all in the type of the patches, and a copy of the patches where P is not a multiple of 16.
`transient_bytes` adds that up.

Half-precision patches meet texts of their own type on the tensor cores and are summed in float32; float32 patches are
multiplied in full float32, not in TensorFloat-32, whose 10 bits would show.

Importing this module needs no Triton; calling it does.  Letters as in `programs`.
"""

import os
from dataclasses import dataclass
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from vlp.kernels.chunked import reciprocal
from vlp.kernels.reference import smallest_square

OLDEST_CAPABILITY = (8, 0)
"""Ampere: the first with bfloat16 tensor cores and copies that run beside them."""

TYPES = (torch.float32, torch.bfloat16, torch.float16)
"""Of the patch vectors."""

_ALIGNED = 16
_MOST_STAGES = 3
_MOST_IMAGES = 65_535
_LN2 = 0.6931471805599453


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """The tile of a program: `texts`, `patches` and `width` are its edges, `depth` the step of its inner loop."""

    texts: int
    patches: int
    width: int
    depth: int
    warps: int

    def stages(self, *, rows: int, element_size: int, shared_bytes: int) -> int:
        """How many steps ahead operands of `rows` rows can be fetched into the shared memory of a multiprocessor."""
        return max(1, min(_MOST_STAGES, shared_bytes // (rows * self.depth * element_size)))


def blocks(*, dim: int, element_size: int) -> Blocks:
    """The tile for a width and a type: the largest whose sums stay in registers, as ptxas says."""
    if element_size == 4:
        return Blocks(texts=64, patches=128, width=128, depth=16, warps=8)
    # A wide tile fetches less for its arithmetic; a narrow one wastes less on a width like 384.
    width = min((256, 128, 64), key=lambda size: -(-dim // size) * size * (1 + 64 / size))
    return Blocks(texts=128, patches=128, width=width, depth=64, warps=8)


def available(dim: int) -> bool:
    """Whether the programs run here: Triton is there, and the current card is Ampere or later.  Any width is split."""
    return (
        dim > 0
        and find_spec("triton") is not None
        and torch.cuda.is_available()
        and torch.version.cuda is not None
        and torch.cuda.get_device_capability() >= OLDEST_CAPABILITY
    )


def usable(text: Float[Tensor, "text dim"], patches: Float[Tensor, "image patch dim"]) -> bool:
    """Whether the programs can run on these tensors: one card that is good for it, and the types."""
    if not patches.is_cuda or text.device != patches.device:
        return False
    with torch.cuda.device(patches.device):
        return patches.dtype in TYPES and text.dtype != torch.float64 and available(patches.shape[-1])


def transient_bytes(*, texts: int, patches: int, dim: int, element_size: int) -> int:
    """What backward holds per image beside inputs and results, in bytes; forward holds less."""
    pitch = _pitch(patches)
    numbers_a_pair = 12  # l, |m|, log-sum-exp, gradient and what is made of them, float32
    return element_size * (2 * texts * pitch + texts * dim + pitch * dim) + 4 * numbers_a_pair * texts


class Programs:
    """The backend of `operator` on a graphics card (or, slowly, in Triton's interpreter on a CPU)."""

    def __init__(
        self,
        text: Float[Tensor, "text dim"],
        beta: Float[Tensor, ""],
        *,
        patches: int,
        dtype: torch.dtype,
        budget_bytes: int,
    ) -> None:
        """Texts and beta of a call, the patches of an image and their type, and what a span may hold beside them.

        Raises:
            ValueError: for a type or a device that the programs are not for.
        """
        if dtype not in TYPES or text.dtype == torch.float64:
            raise ValueError(f"fused: patches in float32, bfloat16 or float16, got {dtype} and text in {text.dtype}")
        if not (text.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"):
            raise ValueError("fused: needs an NVIDIA GPU, Ampere or later; 'chunked' runs anywhere")
        texts, dim = text.shape
        each = transient_bytes(texts=texts, patches=patches, dim=dim, element_size=dtype.itemsize)
        self.images = max(1, min(budget_bytes // each, _MOST_IMAGES, 2**24 // _pitch(patches)))
        """How many images `forward` and `backward` want at a time, at most."""
        self.dtype = dtype
        self._T = text.to(dtype).contiguous()
        self._beta = beta.to(torch.float32)

    def forward(
        self,
        patches: Float[Tensor, "image patch dim"],
        nowhere: Bool[Tensor, "image patch"] | None,
        kept: None = None,
    ) -> tuple[Float[Tensor, "text image"], Float[Tensor, "text image"], Float[Tensor, "text image"]]:
        """(similarity, |m|, log-sum-exp of beta c) of one span of images, in float32; |m| is 0 where it vanishes.

        Args:
            patches: Unit vectors, zero where they are padding.
            nowhere: True where the softmax leaves a patch out (never all of an image).
            kept: Nothing is kept: a card computes scores anew as fast as it fetches them.
        """
        span = _Span(self._T, patches, nowhere, self._beta)
        A, peak, total, mean = span.attend_online()
        top = peak.amax(dim=1)
        factor = (peak - top[:, None]).exp2()
        sum_a = (total * factor).sum(dim=1)
        square = span.squares(A, factor) / sum_a.square()
        length = square.masked_fill(square <= smallest_square(square.dtype), 0.0).sqrt()
        similarity = (mean * factor).sum(dim=1) / sum_a * reciprocal(length)
        return similarity.T, length.T, ((top + sum_a.log2()) * _LN2).T

    def backward(
        self,
        patches: Float[Tensor, "image patch dim"],
        nowhere: Bool[Tensor, "image patch"] | None,
        here: tuple[Tensor, Tensor, Tensor, Tensor],
        kept: None = None,
    ) -> tuple[Float[Tensor, "text dim"], Float[Tensor, "image patch dim"], Float[Tensor, ""]]:
        """Gradients of texts, of these patches and of beta, in float32.

        On the way through scratch memory the gradient is brought to a largest |u r| of 1: float16 could lose it.

        Args:
            patches: As in `forward`.
            nowhere: As in `forward`.
            here: Similarity, length and log-sum-exp that `forward` returned, and the incoming gradient [text image].
            kept: As in `forward`.
        """
        span = _Span(self._T, patches, nowhere, self._beta)
        similarity, length, lse, gradient = (value.T.float().contiguous() for value in here)
        r = reciprocal(length)
        u_r = gradient * r
        scale = u_r.abs().amax()
        u_r /= torch.where(scale == 0, 1.0, scale)
        A = span.attend(lse)
        N = span.residual(A, -u_r * similarity * r)
        E, d_beta = span.exchange(N, lse, u_r, similarity * length)
        return span.to_texts(E) * scale, span.to_patches(E, A, N, scale), d_beta * scale


class _Span:
    """One span of images and the launches on it.  What there is one of for every text and image lies as [I S]."""

    def __init__(self, T: Tensor, V: Tensor, nowhere: Tensor | None, beta: Tensor) -> None:
        self.T, self.V, self.beta = T, V.contiguous(), beta
        self.nowhere = None if nowhere is None else nowhere.contiguous().view(torch.uint8)
        self.S, self.D = T.shape
        self.I, self.P = V.shape[:2]
        self.pitch = _pitch(self.P)
        self.blocks = blocks(dim=self.D, element_size=V.element_size())
        self.text_blocks = -(-self.S // self.blocks.texts)
        self.patch_blocks = -(-self.P // self.blocks.patches)
        self.width_blocks = -(-self.D // self.blocks.width)
        self.shared_bytes = _shared_bytes(V.device)

    def attend_online(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Unnormalised attention [I S pitch], and peak, sum and sum of cosines of its tiles [I patch_blocks S]."""
        A = self._scratch(self.I, self.S, self.pitch)
        peak, total, mean = (self._numbers(self.I, self.patch_blocks, self.S) for _ in range(3))
        self._attend(None, A, peak, total, mean)
        return A, peak, total, mean

    def attend(self, lse: Tensor) -> Tensor:
        """Attention [I S pitch]."""
        A = self._scratch(self.I, self.S, self.pitch)
        self._attend(lse, A, None, None, None)
        return A

    def squares(self, A: Tensor, factor: Tensor) -> Tensor:
        """|m|^2 [I S] of attention whose tiles `factor` brings to one peak."""
        parts = self._numbers(self.I, self.width_blocks, self.S)
        self._pool(A, factor, None, parts, None)
        return parts.sum(dim=1)

    def residual(self, A: Tensor, coefficient: Tensor) -> Tensor:
        """The n = coefficient m [I S D]."""
        N = self._scratch(self.I, self.S, self.D)
        self._pool(A, None, coefficient, None, N)
        return N

    def exchange(self, N: Tensor, lse: Tensor, u_r: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """E [S I pitch] and dL/dbeta."""
        E = self._scratch(self.S, self.I, self.pitch)
        parts = self._numbers(self.I, self.patch_blocks, self.text_blocks)
        given = (self.T, self.V, N, self.nowhere, self.beta, lse, u_r, mean, E, parts)
        grid = (self.text_blocks, self.patch_blocks, self.I)
        shape = (self.S, self.I, self.P, self.D, self.pitch)
        rows = 2 * self.blocks.texts + self.blocks.patches
        self._launch("exchange", grid, rows, *given, *shape, BS=self.blocks.texts, BP=self.blocks.patches)
        return E, parts.sum()

    def to_patches(self, E: Tensor, A: Tensor, N: Tensor, scale: Tensor) -> Tensor:
        """dL/dV [I P D]."""
        d_V = self._numbers(self.I, self.P, self.D)
        given = (E, A, self.T, N, scale, d_V)
        grid = (self.patch_blocks, self.width_blocks, self.I)
        shape = (self.S, self.I, self.P, self.D, self.pitch)
        rows = self.blocks.patches + self.blocks.width
        self._launch("collect", grid, rows, *given, *shape, BP=self.blocks.patches, BD=self.blocks.width)
        return d_V

    def to_texts(self, E: Tensor) -> Tensor:
        """dL/dT [S D], up to the scale: one product over all patches of the span."""
        V = self.V if self.pitch == self.P else functional.pad(self.V, (0, 0, 0, self.pitch - self.P))
        E, V = E.view(self.S, -1), V.view(-1, self.D)
        if E.is_cuda and E.dtype != torch.float32:
            return torch.mm(E, V, out_dtype=torch.float32)
        return torch.mm(E.float(), V.float())

    def _attend(self, *given: Tensor | None) -> None:
        grid = (self.text_blocks, self.patch_blocks, self.I)
        shape = (self.S, self.P, self.D, self.pitch)
        inputs = (self.T, self.V, self.nowhere, self.beta)
        rows = self.blocks.texts + self.blocks.patches
        self._launch("attend", grid, rows, *inputs, *given, *shape, BS=self.blocks.texts, BP=self.blocks.patches)

    def _pool(self, A: Tensor, factor: Tensor | None, *given: Tensor | None) -> None:
        grid = (self.text_blocks, self.width_blocks, self.I)
        shape = (self.S, self.P, self.D, self.pitch, self.blocks.patches)
        rows = self.blocks.texts + self.blocks.width
        arguments = (A, self.V, factor, *given, *shape)
        self._launch("pool", grid, rows, *arguments, BS=self.blocks.texts, BD=self.blocks.width)

    def _launch(self, name: str, grid: tuple[int, ...], rows: int, *arguments: Any, **edges: int) -> None:
        element_size = self.V.element_size()
        with torch.cuda.device_of(self.V):
            getattr(_programs(), name)[grid](
                *arguments,
                **edges,
                BK=self.blocks.depth,
                PRECISION="ieee" if self.V.is_cuda else "interpreted",
                num_warps=self.blocks.warps,
                num_stages=self.blocks.stages(rows=rows, element_size=element_size, shared_bytes=self.shared_bytes),
            )

    def _scratch(self, *shape: int) -> Tensor:
        return self.V.new_empty(shape)

    def _numbers(self, *shape: int) -> Tensor:
        return self.V.new_empty(shape, dtype=torch.float32)


def _programs() -> ModuleType:
    from vlp.kernels import programs

    return programs


def _shared_bytes(device: torch.device) -> int:
    """Shared memory a program may have; without a card, in Triton's interpreter, that of the smallest."""
    if device.type != "cuda":
        return 99 * 2**10
    from triton.runtime import driver  # type: ignore[import-untyped, import-not-found, unused-ignore]

    return int(driver.active.utils.get_device_properties(device.index)["max_shared_mem"])


def _pitch(patches: int) -> int:
    """The length of a row of scratch memory, so that every row begins on a multiple of 32 bytes or more."""
    return -(-patches // _ALIGNED) * _ALIGNED
