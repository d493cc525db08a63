"""Similarity attention and its loss in the published order of operations: what the kernels are measured against.

Written from the published formulae (RadZero, arXiv 2504.07416).  What makes it large is kept as published: every text
is copied to every image and brought to unit length there, the scores and the attention of all pairs are held, the
attended vectors of all pairs are held, and those and the copied texts are brought to unit length once more for the
cosine.  It keeps 2 [text image patch] and 4 [text image dim] for the backward pass.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

EPSILON = 1e-8
"""Added to denominators and to what a logarithm is taken of."""

LayerNormParameters = tuple[Float[Tensor, " dim"], Float[Tensor, " dim"]]
"""Gain and shift of the LayerNorm that texts and patches share."""


def similarity(
    text: Float[Tensor, "text dim"],
    patches: Float[Tensor, "image patch dim"],
    *,
    tau: Float[Tensor, ""],
    norm: LayerNormParameters | None,
) -> Float[Tensor, "text image"]:
    """Similarity of every text to every image, in the type of the inputs.

    Args:
        text: Sentence vectors.
        patches: Patch vectors, which are keys and values.
        tau: Temperature of the attention.
        norm: The shared LayerNorm; None where both inputs have unit length already.
    """
    if norm is not None:
        text = functional.layer_norm(text, text.shape[-1:], *norm)
        patches = functional.normalize(functional.layer_norm(patches, patches.shape[-1:], *norm), dim=-1)
    texts_of_images = text.expand(patches.shape[0], -1, -1)
    queries = functional.normalize(texts_of_images, dim=-1)
    scores = torch.bmm(queries, patches.transpose(1, 2)) / tau
    attention = torch.softmax(scores, dim=-1)
    attended = torch.bmm(attention, patches)
    return (functional.normalize(queries, dim=-1) * functional.normalize(attended, dim=-1)).sum(dim=-1).T


def multi_positive_nce(logits: Float[Tensor, "text image"], image_of_text: Int[Tensor, " text"]) -> Float[Tensor, ""]:
    """The published loss, float32: a text belongs to one image by its number, whatever it says.

    Text to image: its own image against all images.  Image to text: each of its texts against the texts of all other
    images, which are negatives even where their words are the same.
    """
    z = logits.float().exp()
    own = z.gather(1, image_of_text[:, None])[:, 0]
    elsewhere = image_of_text[:, None] != torch.arange(z.shape[1], device=z.device)
    other_texts = (z * elsewhere).sum(dim=0)[image_of_text]
    by_text = -torch.log(own / (z.sum(dim=1) + EPSILON) + EPSILON).mean()
    by_image = -torch.log(own / (own + other_texts + EPSILON) + EPSILON).mean()
    return (by_text + by_image) / 2
