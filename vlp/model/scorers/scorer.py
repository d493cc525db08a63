"""What every scorer is: it says how well texts fit images, and owns what is learned for that and kept for use."""

import math
from abc import ABC, abstractmethod
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from vlp.config import Config
from vlp.kernels import similarity_maps
from vlp.tensors import ImageFeatures, Scores, TextFeatures

SMALLEST_TEMPERATURE = 0.005
LARGEST_TEMPERATURE = 1.0

InitialTemperature = Annotated[float, Field(ge=SMALLEST_TEMPERATURE, le=LARGEST_TEMPERATURE)]


class ScorerConfig(Config, ABC):
    """What all scorers can be told."""

    temperature: InitialTemperature = 0.07
    """What a similarity is divided by to become a logit; learned from here, within [0.005, 1]."""
    bias: float | None = None
    """What is added to every logit, learned from here; null for none.  Sigmoid objectives need one (-10 as SigLIP has
    it): most pairs are negative, and the bias says so from the start."""
    layer_norm: bool = True
    """One learned LayerNorm that texts and patches share before they are brought to unit length, as published."""

    @abstractmethod
    def build(self, *, dim: int) -> "Scorer":
        """The scorer for vectors of the joint width."""


class Temperature(nn.Module):
    """A learned temperature, kept as its logarithm in float32 and held within its bounds while training.

    The parameter itself is brought back after a step that left the bounds, so its gradient never dies there.
    """

    def __init__(self, initial: float) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor(math.log(initial), dtype=torch.float32))

    def forward(self) -> Float[Tensor, ""]:
        """The temperature."""
        if self.training:
            with torch.no_grad():
                self.log.clamp_(math.log(SMALLEST_TEMPERATURE), math.log(LARGEST_TEMPERATURE))
        return self.log.exp()


class Scorer(nn.Module, ABC):
    """Features of texts and images in, similarities and logits out."""

    def __init__(self, config: ScorerConfig, *, dim: int) -> None:
        super().__init__()
        self.temperature = Temperature(config.temperature)
        self.bias = None if config.bias is None else nn.Parameter(torch.tensor(config.bias, dtype=torch.float32))
        self.norm: nn.Module = nn.LayerNorm(dim) if config.layer_norm else nn.Identity()

    @abstractmethod
    def similarity(self, text: TextFeatures, image: ImageFeatures) -> Float[Tensor, "text image"]:
        """In [-1, 1], float32."""

    @abstractmethod
    def embed_images(self, image: ImageFeatures) -> Float[Tensor, "image dim"]:
        """One unit vector per image, for comparing images with each other and with `embed_texts`."""

    def forward(self, text: TextFeatures, image: ImageFeatures) -> Scores:
        """Similarities, and logits = similarity / temperature + bias, both float32 whatever autocast says."""
        with torch.autocast(text.pooled.device.type, enabled=False):
            similarity = self.similarity(text, image)
            logits = similarity / self.temperature()
            return Scores(similarity=similarity, logits=logits if self.bias is None else logits + self.bias)

    def embed_texts(self, text: TextFeatures) -> Float[Tensor, "text dim"]:
        """One unit vector per text."""
        return self.unit(text.pooled)

    def maps(self, text: TextFeatures, image: ImageFeatures) -> Float[Tensor, "text image rows columns"]:
        """Cosine between every text and every patch: true similarities, comparable across prompts.

        Patches that are padding keep the value they have; whoever draws the map in original pixels cuts them off.
        """
        flat = similarity_maps(self.embed_texts(text), self.unit(image.patches))
        return flat.unflatten(2, image.grid)

    def unit(self, vectors: Float[Tensor, "*shape dim"]) -> Float[Tensor, "*shape dim"]:
        """The vectors normed as texts and patches are, and brought to unit length, in float32 (float64 stays)."""
        with torch.autocast(vectors.device.type, enabled=False):
            return functional.normalize(
                self.norm(vectors if vectors.dtype == torch.float64 else vectors.float()), dim=-1
            )
