"""Similarity attention between sentences and patches, and the maps that explain it.  Knows nothing of the rest.

`similarity_attention`, `similarity_maps` and `UnitNorm` are the whole surface.
"""

import functools
import logging
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vlp.kernels import chunked, operator, reference
from vlp.kernels.unit import UnitNorm

Implementation = Literal["auto", "reference", "chunked", "fused"]

SMALLEST_TAU, LARGEST_TAU = 1e-6, 1e9
"""Attention temperatures outside are a mistake: the best patch alone decides, or none does, long before."""

__all__ = ["Implementation", "UnitNorm", "similarity_attention", "similarity_maps"]


def similarity_attention(
    text: Float[Tensor, "text dim"],
    patches: Float[Tensor, "image patch dim"],
    *,
    tau_attention: float | Float[Tensor, ""],
    padding: Bool[Tensor, "image patch"] | None = None,
    norm: UnitNorm | None = None,
    implementation: Implementation = "auto",
    budget_bytes: int | None = None,
) -> Float[Tensor, "text image"]:
    """Similarity l_sj of every text s to every image j, in [-1, 1], with gradients to all float inputs.

    c_sjk = <t_s, v_jk>, a = softmax_k(c / tau_attention), m = sum_k a_k v_k, l = <t, m> / |m|
    (RadZero's VL-CABS, arXiv 2504.07416; keys and values are the same vectors).

    Args:
        text: Unit vectors.
        patches: Unit vectors; with `norm`, vectors as they come, which are normed here, span by span.
        tau_attention: Attention temperature, in [1e-6, 1e9]; a 0-d tensor receives a gradient.  Towards 0 the best
            patch decides, towards infinity the mean of all patches.
        padding: True where a patch takes no part: neither its value nor its gradient is ever seen.  To leave out a
            global token, mark it as padding.
        norm: How `patches` are brought to unit length, if they are not.
        implementation: "reference" holds [text image patch]; "chunked" works in tiles, on any device; "fused" is for
            NVIDIA GPUs from Ampere on; "auto" takes "fused" for half-precision patches on such a GPU, else "chunked",
            and says which, once.
        budget_bytes: What tiles may take beside inputs, outputs and their gradients; the result does not depend on it
            but for rounding.  None: by device.

    Returns:
        float32, or float64 for float64 texts, whatever autocast says.

    Raises:
        ValueError: naming the argument, for shapes that do not belong together, no texts, a temperature out of its
            range, or numbers that are not finite (looked for on a CPU; on a GPU looking would make it wait).
    """
    _check(text, patches, padding, norm)
    dtype = operator.accumulated(text)
    tau = _temperature(tau_attention, text)
    with torch.autocast(text.device.type, enabled=False):
        chosen = _chosen(text, patches) if implementation == "auto" else implementation
        if chosen == "reference":
            vectors = patches.to(dtype)
            if norm is not None:
                vectors = norm(vectors if padding is None else vectors.masked_fill(padding[..., None], 0.0))
            similarity = reference.similarity_attention(text.to(dtype), vectors, tau, padding)
        else:
            if budget_bytes is None:
                on_cpu = text.device.type == "cpu"
                budget_bytes = chunked.CPU_BUDGET_BYTES if on_cpu else chunked.DEVICE_BUDGET_BYTES
            weight, bias, eps = (None, None, 0.0) if norm is None else (norm.weight, norm.bias, norm.eps)
            learns = (value for value in (text, patches, tau, weight, bias) if value is not None)
            keep = torch.is_grad_enabled() and any(value.requires_grad for value in learns)
            similarity, *_ = operator.similarity_attention(
                text, patches, tau, padding, weight, bias, eps, norm is not None, chosen, budget_bytes, keep
            )
    if _can_look(similarity) and not bool(similarity.isfinite().all()):
        raise ValueError(_what_is_broken(text, patches, padding, norm))
    return similarity


def similarity_maps(
    text: Float[Tensor, "text dim"], patches: Float[Tensor, "image patch dim"]
) -> Float[Tensor, "text image patch"]:
    """Cosines c_sjk between texts and patches (both unit vectors) in float32: comparable across prompts and images."""
    with torch.autocast(text.device.type, enabled=False):
        return reference.similarity_maps(text.float(), patches.float())


def _chosen(text: Tensor, patches: Tensor) -> Implementation:
    chosen: Implementation = "chunked"
    if patches.is_cuda and patches.dtype in (torch.bfloat16, torch.float16):
        # Float32 stays with torch: a card's library multiplies it faster than programs that may not round to 10 bits.
        from vlp.kernels import fused

        chosen = "fused" if fused.usable(text, patches) else "chunked"
    _announce(chosen, patches.device.type, patches.dtype)
    return chosen


@functools.cache
def _announce(chosen: Implementation, device: str, dtype: torch.dtype) -> None:
    # Not `vlp.log`: kernels know nothing of the rest.  Its handler listens to this logger all the same.
    logging.getLogger(__name__).info("similarity attention: %s on %s, patches in %s", chosen, device, dtype)


def _check(text: Tensor, patches: Tensor, padding: Tensor | None, norm: UnitNorm | None) -> None:
    if text.ndim != 2 or patches.ndim != 3 or text.shape[1] != patches.shape[2] or patches.shape[1] == 0:
        raise ValueError(
            f"expected text [text dim] and patches [image patch dim] of one width, "
            f"got {tuple(text.shape)} and {tuple(patches.shape)}"
        )
    if text.shape[0] == 0:
        raise ValueError("text: there are no sentences")
    for name, value in (("text", text), ("patches", patches)):
        if not value.is_floating_point():
            raise ValueError(f"{name}: expected floating point numbers, got {value.dtype}")
    if padding is not None and padding.shape != patches.shape[:2]:
        raise ValueError(f"padding is {tuple(padding.shape)}, the patches are {tuple(patches.shape[:2])}")
    if norm is not None and norm.weight is not None and norm.weight.shape != text.shape[1:]:
        raise ValueError(f"norm.weight is {tuple(norm.weight.shape)}, the vectors are {text.shape[1]} wide")


def _temperature(tau: float | Tensor, text: Tensor) -> Tensor:
    if isinstance(tau, Tensor):
        if tau.ndim != 0:
            raise ValueError("tau_attention is one number: a 0-d tensor or a float")
        value = float(tau.detach()) if _can_look(tau) else None
    else:
        value = tau
    if value is not None and not SMALLEST_TAU <= value <= LARGEST_TAU:
        raise ValueError(f"tau_attention is {value:g}; it must be in [{SMALLEST_TAU:g}, {LARGEST_TAU:g}]")
    return torch.as_tensor(tau, dtype=operator.accumulated(text), device=text.device)


def _can_look(value: Tensor) -> bool:
    """Whether reading the numbers costs no waiting, and they are there: not on GPUs, in fakes or in a trace."""
    return (
        type(value) in (Tensor, torch.nn.Parameter) and value.device.type == "cpu" and not torch.compiler.is_compiling()
    )


def _what_is_broken(text: Tensor, patches: Tensor, padding: Tensor | None, norm: UnitNorm | None) -> str:
    seen = patches if padding is None else patches.masked_fill(padding[..., None], 0.0)
    named = {"text": text, "patches": seen}
    if norm is not None and norm.weight is not None and norm.bias is not None:
        named |= {"norm.weight": norm.weight, "norm.bias": norm.bias}
    broken = [name for name, value in named.items() if not bool(value.isfinite().all())]
    if broken:
        return f"{' and '.join(broken)}: numbers that are not finite (NaN or infinite)"
    return "text and patches: finite, but too large for their products to be"
