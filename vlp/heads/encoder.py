"""The encoder under a head: a trained model's image side, frozen, or with its last blocks learning along."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from vlp.data.transforms import SeenImage
from vlp.errors import ConfigError
from vlp.inference.engine import Engine
from vlp.model import VisionLanguageModel
from vlp.tensors import ImageFeatures, TextFeatures, stack_padding

Thaw = int | Literal["all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What an encoder makes of images: the tower's own features and those of the joint space, on one grid."""

    tower: ImageFeatures
    joint: ImageFeatures


class Encoder(nn.Module):
    """The image side of an engine's model.

    Where blocks thaw it works on a copy of their weights: the engine goes on as it was.  Normalisation statistics and
    dropout never move: heads learn from few images.
    """

    def __init__(self, engine: Engine, *, thaw: Thaw = 0) -> None:
        """`thaw` is how many of the tower's last blocks learn, with all that follows them.

        Raises:
            ConfigError: if the tower has fewer blocks.
        """
        super().__init__()
        self.thawed = thaw != 0
        shared = engine.model
        if self.thawed:
            kept = (shared.text_tower, shared.text_head, shared.scorer)
            shared = copy.deepcopy(shared, {id(part): part for part in kept})
            _thaw(shared, thaw)
        self._engine = engine
        self._model = [shared]
        """In a list, so that the model is no part of this module's weights; `learned` names those that are."""

    def see(self, images: Sequence[SeenImage]) -> Seen:
        """Features of images at the model's size."""
        pixels = torch.from_numpy(np.stack([image.pixels for image in images]))[:, None].to(self._engine.device)
        padding = stack_padding([image.padding for image in images])
        return self.projected(self.tower_features(pixels, padding))

    def tower_features(self, pixels: Tensor, padding: Tensor | None) -> ImageFeatures:
        """The tower's own features of uint8 pixels [image 1 height width]."""
        model = self._model[0]
        with torch.set_grad_enabled(self.thawed and torch.is_grad_enabled()):
            return model.image_features(pixels, padding=None if padding is None else padding.to(model.device))

    def projected(self, tower: ImageFeatures) -> Seen:
        """The tower's features together with what the rest of the encoder makes of them."""
        with torch.set_grad_enabled(self.thawed and torch.is_grad_enabled()):
            return Seen(tower=tower, joint=self._model[0].project(tower))

    def texts(self, texts: Sequence[str]) -> Tensor:
        """The texts' features before they are brought to unit length [text dim], without history.

        Raises:
            DataError: for a text that is empty or longer than the text tower reads.
        """
        return self._engine.text_vectors(texts).clone()

    def units(self, texts: Tensor) -> Float[Tensor, "text dim"]:
        """Unit vectors of what `texts` gives."""
        with torch.no_grad():
            return self._engine.model.embed_texts(TextFeatures(pooled=texts)).float()

    def maps(self, texts: Tensor, seen: Seen) -> Float[Tensor, "text image rows columns"]:
        """Cosines of what `texts` gives with the patches."""
        with torch.set_grad_enabled(self.thawed and torch.is_grad_enabled()):
            return self._model[0].maps(TextFeatures(pooled=texts), seen.joint).float()

    def learned(self) -> dict[str, nn.Parameter]:
        """What thawed, by its name in the model; nothing of a frozen encoder."""
        if not self.thawed:
            return {}
        return {name: value for name, value in self._model[0].named_parameters() if value.requires_grad}

    def load_learned(self, weights: dict[str, Tensor]) -> None:
        """Puts weights where `learned` names them."""
        own = self.learned()
        assert set(own) == set(weights), "weights of another design"
        with torch.no_grad():
            for name, value in weights.items():
                own[name].copy_(value)


def _thaw(model: VisionLanguageModel, thaw: Thaw) -> None:
    model.requires_grad_(False)
    tower = model.image_tower
    layers = tower.layers()
    blocks = len(layers) - 1
    if thaw != "all" and thaw > blocks:
        raise ConfigError(f"thaw: the image tower has {blocks} blocks; give at most {blocks}, or all")
    for parameters in layers if thaw == "all" else layers[-thaw:]:
        for parameter in parameters:
            parameter.requires_grad_(True)
    tower.frozen = False
    for part in (model.align, model.image_head):
        part.requires_grad_(True)
    model.eval()
