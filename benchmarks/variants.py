"""One problem of similarity attention, and the ways to solve it that are compared: the inputs, the loss, one process.

Run as a program it is one contender of `benchmarks.kernel`; see `benchmarks.turns`.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from benchmarks import published
from benchmarks.meter import Meter
from benchmarks.turns import Turn, serve
from vlp.kernels import UnitNorm, similarity_attention

Variant = Literal["published", "reference", "chunked", "fused"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)

Inputs = Literal["tokens", "unit"]
"""Where the problem begins: at the towers' vectors (the shared LayerNorm and the norming are part of it, as in a
training step), or at vectors of unit length."""

TEMPERATURE = 0.07
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}

_GEMM = "gemm"
_GEMM_SIDE = {"cpu": 2048, "cuda": 8192}
_GEMM_REPEATS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How large a problem is; written images x texts x patches x width."""

    images: int
    texts: int
    patches: int
    width: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """The size written as "64x512x196x768".

        Raises:
            ValueError: if it is not four numbers above 0.
        """
        numbers = [int(part) for part in text.split("x") if part.isdigit()]
        if len(numbers) != 4 or text.count("x") != 3 or min(numbers) < 1:
            raise ValueError(f"{text!r} is no size: write images x texts x patches x width, like 64x512x196x768")
        return cls(images=numbers[0], texts=numbers[1], patches=numbers[2], width=numbers[3])

    def __str__(self) -> str:
        return f"{self.images}x{self.texts}x{self.patches}x{self.width}"

    @property
    def product_flops(self) -> int:
        """Of one product of all texts with all patches, a multiplication and an addition counted as two."""
        return 2 * self.texts * self.images * self.patches * self.width

    @property
    def useful_flops(self) -> int:
        """Of forward and backward as published: scores and m, and two gradients of each: six products."""
        return 6 * self.product_flops


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """The inputs of one size; all but `image_of_text` take a gradient."""

    text: Float[Tensor, "text dim"]
    patches: Float[Tensor, "image patch dim"]
    tau: Float[Tensor, ""]
    norm: published.LayerNormParameters | None
    image_of_text: Int[Tensor, " text"]

    def forget_gradients(self) -> None:
        """Frees what a backward pass left."""
        for leaf in (self.text, self.patches, self.tau, *(self.norm or ())):
            leaf.grad = None


def make_problem(size: Size, *, dtype: torch.dtype, device: torch.device, inputs: Inputs) -> Problem:
    """Random vectors, the same for every variant; texts spread evenly over the images."""
    torch.manual_seed(0)
    text = torch.randn(size.texts, size.width, device=device, dtype=dtype)
    patches = torch.randn(size.images, size.patches, size.width, device=device, dtype=dtype)
    norm = None
    if inputs == "unit":
        text = functional.normalize(text, dim=-1)
        for image in patches:
            image.div_(image.norm(dim=-1, keepdim=True))
    else:
        gain, shift = torch.ones(2, size.width, device=device, dtype=dtype)
        norm = (gain.clone().requires_grad_(), shift.zero_().clone().requires_grad_())
    return Problem(
        text=text.requires_grad_(),
        patches=patches.requires_grad_(),
        tau=torch.tensor(TEMPERATURE, device=device).requires_grad_(),
        norm=norm,
        image_of_text=torch.arange(size.texts, device=device) * size.images // size.texts,
    )


def similarity(variant: Variant, problem: Problem) -> Float[Tensor, "text image"]:
    """The problem solved one way; ours norms as the scorer does, in float32 (float64 for float64)."""
    text, patches, norm = problem.text, problem.patches, problem.norm
    if variant == "published":
        return published.similarity(text, patches, tau=problem.tau.to(text.dtype), norm=norm)
    wide = torch.float64 if text.dtype == torch.float64 else torch.float32
    unit = None
    if norm is not None:
        unit = UnitNorm(weight=norm[0].to(wide), bias=norm[1].to(wide))
        text = unit(text.to(wide))
    return similarity_attention(text, patches, tau_attention=problem.tau, norm=unit, implementation=variant)


def forward_backward(variant: Variant, problem: Problem) -> None:
    """Similarities, the published multi-positive loss on them, and every gradient."""
    logits = similarity(variant, problem) / TEMPERATURE
    published.multi_positive_nce(logits, problem.image_of_text).backward()


def count_flops(call: Callable[[], object]) -> int:
    """Floating-point operations of all matrix products torch makes in a call, inside operators of our own as well."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profile:
        call()
    return sum(_product_flops(event.name, event.input_shapes) for event in profile.events())


def _product_flops(name: str, shapes: list[list[int]]) -> int:
    first = {"aten::mm": 0, "aten::bmm": 0, "aten::addmm": 1, "aten::baddbmm": 1}.get(name.rstrip("_"))
    if first is None:
        return 0
    *batch, rows, inner = shapes[first]
    return 2 * (batch[0] if batch else 1) * rows * inner * shapes[first + 1][-1]


def _make(spec: dict[str, Any]) -> tuple[dict[str, Any], Turn]:
    """A contender: one variant at one size, or the large matrix product whose rate is called the peak."""
    torch.set_num_threads(spec["threads"])
    device, dtype = torch.device(spec["device"]), DTYPES[spec["dtype"]]
    if spec["variant"] == _GEMM:
        return {}, _gemm(device, dtype)
    size = Size.parse(spec["size"])
    problem = make_problem(size, dtype=dtype, device=device, inputs=spec["inputs"])
    small = make_problem(
        dataclasses.replace(size, images=2, texts=2, patches=2), dtype=dtype, device=device, inputs=spec["inputs"]
    )

    def call() -> None:
        problem.forget_gradients()
        forward_backward(spec["variant"], problem)

    # Code that torch loads with the first call is no memory of the method; it is told apart here.
    libraries = Meter(device).measure(lambda: forward_backward(spec["variant"], small))
    small.forget_gradients()
    meter = Meter(device)

    def turn(wanted: str) -> dict[str, Any]:
        if wanted == "count":
            # Of the fused way torch makes but one product of nine; the rest it cannot see.
            answer: dict[str, Any] = {"flops": 0 if spec["variant"] == "fused" else count_flops(call)}
        else:
            if device.type == "cuda":
                call()  # the others' turns emptied the caches, and ours was handed back
            measured = meter.measure(call)
            answer = {"seconds": measured.seconds, "peak_bytes": measured.peak_bytes}
        problem.forget_gradients()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        return answer

    return {"libraries_bytes": libraries.peak_bytes}, turn


def _gemm(device: torch.device, dtype: torch.dtype) -> Turn:
    side = _GEMM_SIDE[device.type]
    left, right, result = torch.randn(3, side, side, device=device, dtype=dtype)
    meter = Meter(device)

    def turn(wanted: str) -> dict[str, Any]:
        fastest = min(meter.measure(lambda: torch.mm(left, right, out=result)).seconds for _ in range(_GEMM_REPEATS))
        return {"flops_per_s": 2 * side**3 / fastest}

    return turn


if __name__ == "__main__":
    serve(_make)
