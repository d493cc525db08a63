"""What every tower is: an encoder with a known width, parts of which may be frozen.

A frozen part gets no gradient and stays in evaluation mode whatever `train()` says, so neither its dropout nor its
batch statistics move.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from vlp.config import Config
from vlp.data.tokens import Tokenizer
from vlp.errors import ConfigError
from vlp.tensors import ImageFeatures, Tokens

PositiveInt = Annotated[int, Field(ge=1)]
Freeze = Literal["none", "all"] | PositiveInt
HeadKind = Literal["linear", "mlp", "none"]

_CACHE_ENTRIES = 200_000


class ImageTowerConfig(Config, ABC):
    """What all image towers can be told."""

    size: PositiveInt | tuple[PositiveInt, PositiveInt] | None = None
    """Side of the square image in pixels, or (rows, columns); unset: what `preprocess` makes."""
    channels: Literal[1, 3] | None = None
    """Channels the tower takes; unset: what `preprocess` makes."""
    pooled: Literal["mean", "cls"] = "mean"
    """What the image as a whole is: the mean of its patches or the class token."""
    freeze: Freeze = "none"
    """A number freezes the stem and that many blocks (stages, for a CNN) after it."""
    head: HeadKind = "linear"
    """What brings the tower's width to the joint width: a layer, two layers, or nothing where they are equal."""

    @abstractmethod
    def build(self, *, size: tuple[int, int], channels: int, saved: Path | None) -> "ImageTower":
        """The tower; from a checkpoint's `saved` folder it takes its design and no weights at all."""


class TextTowerConfig(Config, ABC):
    """What all text towers can be told."""

    freeze: Freeze = "none"
    """A number freezes the embeddings and that many lower layers; "all" also remembers sentence vectors."""
    head: HeadKind = "linear"
    """What brings the tower's width to the joint width: a layer, two layers, or nothing where they are equal."""

    @abstractmethod
    def build(self, *, saved: Path | None) -> "TextTower":
        """The tower; from a checkpoint's `saved` folder it takes design and tokenizer and no weights at all."""


class Tower(nn.Module, ABC):
    """An encoder whose lower layers, or all of it, may be frozen."""

    width: int
    """Length of the vectors it makes."""
    frozen = False
    """True where nothing in it learns."""

    @abstractmethod
    def layers(self) -> Sequence[Sequence[nn.Parameter]]:
        """Its parameters from the input up: the stem, then every block, the last with what follows it."""

    def save_design(self, folder: Path) -> None:
        """Writes what the configuration alone does not say and `build(saved=...)` needs."""

    def freeze(self, how: Freeze) -> None:
        """Freezes nothing, everything, or the stem and `how` blocks.

        Raises:
            ConfigError: if there are fewer blocks.
        """
        if how == "none":
            return
        if how == "all":
            self.frozen = True
            self.requires_grad_(False)
        else:
            layers = self.layers()
            blocks = len(layers) - 1
            if how > blocks:
                raise ConfigError(f"freeze={how}: this tower has {blocks} blocks; give at most {blocks}, or 'all'")
            for parameters in layers[: how + 1]:
                for parameter in parameters:
                    parameter.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "Tower":
        """As `nn.Module.train`, with frozen parts kept in evaluation mode."""
        super().train(mode)
        _still(self)
        return self


def _still(module: nn.Module) -> None:
    """Puts the largest wholly frozen parts into evaluation mode."""
    parameters = list(module.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        for part in module.modules():
            part.training = False
        return
    for child in module.children():
        _still(child)


class ImageTower(Tower):
    """Images in, one vector per patch and one for the whole out."""

    grid: tuple[int, int]
    """(rows, columns) of patches."""
    channels: int
    """Channels it takes."""

    def __init__(self, *, pooled: Literal["mean", "cls"]) -> None:
        super().__init__()
        self._pooled = pooled

    @abstractmethod
    def encode(self, images: Float[Tensor, "image channel height width"]) -> tuple[Tensor | None, Tensor]:
        """(class token [image width] or None, patches [image patch width] row by row) of normalised images."""

    def forward(self, images: Float[Tensor, "image channel height width"]) -> ImageFeatures:
        """The features of normalised images, at the tower's own width."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            token, patches = self.encode(images)
        if self._pooled == "mean":
            pooled = patches.mean(dim=1)
        elif token is None:
            raise ConfigError("pooled='cls': this image tower has no class token; use 'mean'")
        else:
            pooled = token
        return ImageFeatures(pooled=pooled, patches=patches, grid=self.grid)


class TextTower(Tower):
    """Tokens in, one vector per text out.

    A wholly frozen tower computes each distinct sentence once, alone, in float32, and remembers the vector: so a
    vector depends on nothing but its sentence, and an interrupted run that goes on sees the same numbers.
    """

    tokenizer: Tokenizer

    def __init__(self) -> None:
        super().__init__()
        self._remembered: dict[bytes, Tensor] = {}
        self.register_load_state_dict_post_hook(lambda tower, _: tower.forget())

    @abstractmethod
    def encode(self, tokens: Tokens) -> Float[Tensor, "text width"]:
        """One vector per text."""

    def forward(self, tokens: Tokens) -> Float[Tensor, "text width"]:
        """One vector per text, at the tower's own width."""
        if not self.frozen:
            return self.encode(tokens)
        ids, lengths = tokens.ids.cpu(), tokens.mask.sum(dim=1).tolist()
        rows = [row[:length] for row, length in zip(ids, lengths, strict=True)]
        vectors = [self._recall(row, tokens.ids.device) for row in rows]
        if not vectors:
            return torch.zeros(0, self.width, device=tokens.ids.device)
        return torch.stack(vectors).to(tokens.ids.device)

    def forget(self) -> None:
        """Drops the remembered vectors; loading weights does so."""
        self._remembered.clear()

    @torch.no_grad()
    def _recall(self, row: Tensor, device: torch.device) -> Tensor:
        key = row.numpy().tobytes()
        vector = self._remembered.get(key)
        if vector is None:
            if len(self._remembered) >= _CACHE_ENTRIES:
                self.forget()
            ids = row[None].to(device)
            with torch.autocast(device.type, enabled=False):
                encoded = self.encode(Tokens(ids=ids, mask=torch.ones_like(ids, dtype=torch.bool)))
            vector = self._remembered[key] = encoded[0].float().cpu()
        return vector
