"""The global cosine: one vector for the text, one for the whole image, as CLIP has it."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from vlp.model.scorers.scorer import Scorer, ScorerConfig
from vlp.tensors import ImageFeatures, TextFeatures


class CosineConfig(ScorerConfig):
    """Cosine of text and pooled image: the baseline for every scorer that looks at patches."""

    kind: Literal["cosine"] = "cosine"
    layer_norm: bool = False
    """CLIP has none."""

    def build(self, *, dim: int) -> "Cosine":
        """The scorer."""
        return Cosine(self, dim=dim)


class Cosine(Scorer):
    """<t, v> of unit vectors."""

    def similarity(self, text: TextFeatures, image: ImageFeatures) -> Float[Tensor, "text image"]:
        """Cosine between each text and each image's pooled vector."""
        return self.embed_texts(text) @ self.embed_images(image).T

    def embed_images(self, image: ImageFeatures) -> Float[Tensor, "image dim"]:
        """The pooled vector, at unit length: the one the objective trains."""
        return self.unit(image.pooled)
