"""Similarity attention between sentences and patches, and the maps that explain it.  Knows nothing of the rest.

`similarity_attention` and `similarity_maps` are the whole surface.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vlp.kernels import chunked, reference

Implementation = Literal["auto", "reference", "chunked"]

__all__ = ["Implementation", "similarity_attention", "similarity_maps"]


def similarity_attention(
    text: Float[Tensor, "text dim"],
    patches: Float[Tensor, "image patch dim"],
    *,
    tau_attention: float | Float[Tensor, ""],
    padding: Bool[Tensor, "image patch"] | None = None,
    implementation: Implementation = "auto",
) -> Float[Tensor, "text image"]:
    """Similarity l_sj of every text s to every image j, in [-1, 1], with gradients to all three inputs.

    c_sjk = <t_s, v_jk>, a = softmax_k(c / tau_attention), m = sum_k a_k v_k, l = <t, m> / |m|
    (RadZero's VL-CABS, arXiv 2504.07416; keys and values are the same vectors).

    Args:
        text: Unit vectors.
        patches: Unit vectors.
        tau_attention: Attention temperature, > 0; a 0-d tensor receives a gradient.  Towards 0 the best patch
            decides, towards infinity the mean of all patches.
        padding: True where a patch takes no part: neither its value nor its gradient is ever seen.
        implementation: "reference" holds [text image patch]; "chunked" (and "auto") works in tiles.

    Returns:
        float32, or float64 for float64 texts, whatever autocast says.

    Raises:
        ValueError: for shapes that do not belong together or a temperature that is not positive.
    """
    _check(text, patches, tau_attention, padding)
    dtype = torch.float64 if text.dtype == torch.float64 else torch.float32
    tau = torch.as_tensor(tau_attention, dtype=dtype, device=text.device)
    with torch.autocast(text.device.type, enabled=False):
        if implementation == "reference":
            return reference.similarity_attention(text.to(dtype), patches.to(dtype), tau, padding)
        return chunked.similarity_attention(text.to(dtype), patches, tau, padding)


def similarity_maps(
    text: Float[Tensor, "text dim"], patches: Float[Tensor, "image patch dim"]
) -> Float[Tensor, "text image patch"]:
    """Cosines c_sjk between texts and patches (both unit vectors) in float32: comparable across prompts and images."""
    with torch.autocast(text.device.type, enabled=False):
        return reference.similarity_maps(text.float(), patches.float())


def _check(text: Tensor, patches: Tensor, tau_attention: float | Tensor, padding: Tensor | None) -> None:
    if text.ndim != 2 or patches.ndim != 3 or text.shape[1] != patches.shape[2] or patches.shape[1] == 0:
        raise ValueError(
            f"expected text [text dim] and patches [image patch dim] of one width, "
            f"got {tuple(text.shape)} and {tuple(patches.shape)}"
        )
    if padding is not None and padding.shape != patches.shape[:2]:
        raise ValueError(f"padding is {tuple(padding.shape)}, the patches are {tuple(patches.shape[:2])}")
    if isinstance(tau_attention, Tensor):
        if tau_attention.ndim != 0:
            raise ValueError("tau_attention is one number: a 0-d tensor or a float")
    elif not tau_attention > 0:
        raise ValueError("tau_attention must be above 0")
