"""Similarity attention (VL-CABS of RadZero, arXiv 2504.07416): a text is compared with what it attends to.

The same cosines are the attention's logits and the explanation map, so the map is not a by-product but the reason.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from vlp.kernels import Implementation, UnitNorm, similarity_attention
from vlp.model.align import mean_of_patches
from vlp.model.scorers.scorer import InitialTemperature, Scorer, ScorerConfig, Temperature
from vlp.tensors import ImageFeatures, TextFeatures


class SimilarityAttentionConfig(ScorerConfig):
    """How a text attends to patches.  Published: attention_temperature "shared", global_token true."""

    kind: Literal["similarity_attention"] = "similarity_attention"
    attention_temperature: InitialTemperature | Literal["shared"] = 0.07
    """Sharpness of the attention, learned apart from the logits' temperature or shared with it."""
    global_token: bool = False
    """Whether the image's pooled vector is one more thing to attend to.  What goes there is missing from the map."""
    implementation: Implementation = "auto"

    def build(self, *, dim: int) -> "SimilarityAttention":
        """The scorer."""
        return SimilarityAttention(self, dim=dim)


class SimilarityAttention(Scorer):
    """l = <t, m> / |m| with m the patches a text attends to; see `vlp.kernels`."""

    def __init__(self, config: SimilarityAttentionConfig, *, dim: int) -> None:
        super().__init__(config, dim=dim)
        sharpness = config.attention_temperature
        self.attention_temperature = None if sharpness == "shared" else Temperature(sharpness)
        self._global_token = config.global_token
        self._implementation: Implementation = config.implementation

    def similarity(self, text: TextFeatures, image: ImageFeatures) -> Float[Tensor, "text image"]:
        """By similarity attention over the patches that are not padding."""
        if not (len(text.pooled) and len(image.patches)):
            return text.pooled.new_zeros(len(text.pooled), len(image.patches), dtype=torch.float32)
        patches, padding = self._attended(image)
        tau = self.temperature if self.attention_temperature is None else self.attention_temperature
        return similarity_attention(
            self.embed_texts(text),
            patches,
            tau_attention=tau(),
            padding=padding,
            norm=self._unit_norm(),
            implementation=self._implementation,
        )

    def embed_images(self, image: ImageFeatures) -> Float[Tensor, "image dim"]:
        """The mean of the unit patch vectors, at unit length.

        It is what a text that attends everywhere alike would be compared with, so it lies in the space the objective
        trains; the tower's own pooled vector does not.
        """
        return functional.normalize(mean_of_patches(self.unit(image.patches), image.padding), dim=-1)

    def _attended(self, image: ImageFeatures) -> tuple[Tensor, Bool[Tensor, "image patch"] | None]:
        patches, padding = image.patches, image.padding
        if self._global_token:
            patches = torch.cat((image.pooled[:, None].to(patches.dtype), patches), dim=1)
            padding = None if padding is None else functional.pad(padding, (1, 0), value=False)
        return patches, padding

    def _unit_norm(self) -> UnitNorm:
        """`unit`, as the kernel takes it: inside, so that no normed copy of the patches is kept for backward."""
        if isinstance(self.norm, nn.LayerNorm):
            return UnitNorm(weight=self.norm.weight, bias=self.norm.bias, eps=self.norm.eps)
        return UnitNorm()
