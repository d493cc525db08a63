"""Similarity attention as it is defined.  Slow, memory-hungry, and the specification of every other kernel.

Shapes: S texts, I images, P patches an image, D the joint width.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def similarity_maps(text: Float[Tensor, "text dim"], patches: Float[Tensor, "image patch dim"]) -> Tensor:
    """Patch similarities c_sjk = <t_s, v_jk>, [text image patch]: true cosines where both inputs are unit vectors."""
    return torch.einsum("sd,ipd->sip", text, patches)


def similarity_attention(
    text: Float[Tensor, "text dim"],
    patches: Float[Tensor, "image patch dim"],
    tau_attention: Float[Tensor, ""],
    padding: Bool[Tensor, "image patch"] | None,
) -> Float[Tensor, "text image"]:
    """Similarity of every text to every image, in [-1, 1]; holds [text image patch] and [text image dim].

    A text attends to the patches of an image, and is compared with what it saw (RadZero, VL-CABS):

        a_sj. = softmax_k(c_sjk / tau_attention),   m_sj = sum_k a_sjk v_jk,   l_sj = <t_s, m_sj> / |m_sj|

    Where |m| vanishes (an image that is padding throughout, patches that cancel) the similarity is 0 without gradient.
    """
    if padding is not None:
        patches = patches.masked_fill(padding[..., None], 0.0)
    cosines = similarity_maps(text, patches)
    scaled = cosines / tau_attention
    if padding is not None:
        scaled = scaled.masked_fill(attended_nowhere(padding), float("-inf"))
    attention = torch.softmax(scaled, dim=-1)
    attended = torch.einsum("sip,ipd->sid", attention, patches)
    square = attended.square().sum(dim=-1)
    vanishes = square <= smallest_square(square.dtype)
    length = square.masked_fill(vanishes, 1.0).sqrt()
    return (torch.einsum("sd,sid->si", text, attended) / length).masked_fill(vanishes, 0.0)


def attended_nowhere(padding: Bool[Tensor, "image patch"]) -> Bool[Tensor, "image patch"]:
    """Patches the softmax leaves out: the padding, except in an image that is nothing else (its vectors are zero)."""
    return padding & ~padding.all(dim=-1, keepdim=True)


def smallest_square(dtype: torch.dtype) -> float:
    """|m|^2 at or below which the direction of m is rounding noise."""
    return float(torch.finfo(dtype).eps) ** 2
