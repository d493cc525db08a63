"""What every tower is: an encoder with a known width, parts of which may be frozen.

A frozen part gets no gradient and stays in evaluation mode whatever `train()` says, so neither its dropout nor its
batch statistics move.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from vlp.config import Config
from vlp.data.tokens import Tokenizer
from vlp.errors import ConfigError
from vlp.model.adapters import LoraConfig, adapt
from vlp.model.towers.recomputation import set_recomputation
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
    lora: LoraConfig | None = None
    """Adapters that learn in place of the blocks' own weights, which all stay; with a number for `freeze` only the
    blocks above have them."""
    head: HeadKind = "linear"
    """What brings the tower's width to the joint width: a layer, two layers, or nothing where they are equal."""

    @abstractmethod
    def build(self, *, size: tuple[int, int], channels: int, saved: Path | None) -> "ImageTower":
        """The tower; from a checkpoint's `saved` folder it takes its design and no weights at all."""


class TextTowerConfig(Config, ABC):
    """What all text towers can be told."""

    freeze: Freeze = "none"
    """A number freezes the embeddings and that many lower layers; "all" also remembers sentence vectors."""
    lora: LoraConfig | None = None
    """Adapters that learn in place of the layers' own weights, which all stay; with a number for `freeze` only the
    layers above have them.  No sentence vector is remembered then."""
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

    @abstractmethod
    def blocks(self) -> Sequence[nn.Module]:
        """The smallest modules that repeat, each called once on the way up; empty where a design has none."""

    @abstractmethod
    def example(self) -> object:
        """Something small that `encode` takes, on the tower's device."""

    @abstractmethod
    def encode(self, given: Any, /) -> object:
        """What the tower makes of its input, gradients and all."""

    def save_design(self, folder: Path) -> None:
        """Writes what the configuration alone does not say and `build(saved=...)` needs."""

    def freeze(self, how: Freeze, *, lora: LoraConfig | None = None) -> None:
        """Decides what learns: all but nothing, everything, or the stem and `how` blocks; or adapters alone.

        Raises:
            ConfigError: if there are fewer blocks, or nothing to put adapters on.
            BackendError: if adapters are asked for and their library is not installed.
        """
        if how == "all":
            self.frozen = lora is None
            self.requires_grad_(False)
        elif how != "none":
            layers = self.layers()
            blocks = len(layers) - 1
            if how > blocks:
                raise ConfigError(f"freeze={how}: this tower has {blocks} blocks; give at most {blocks}, or 'all'")
            for parameters in layers[: how + 1]:
                for parameter in parameters:
                    parameter.requires_grad_(False)
        if lora is not None:
            adapt(self, lora, everywhere=how == "all")
        self.train(self.training)

    def set_checkpointing(self, on: bool) -> None:
        """Whether blocks keep only their input for the backward pass and run again in it: less memory, more time.

        Gradients are the same.  See `recomputation`.

        Raises:
            ConfigError: if the tower has no blocks.
        """
        blocks = self.blocks()
        if not blocks:
            raise ConfigError("activation checkpointing: this tower has no blocks to recompute one by one")
        set_recomputation(blocks, on)

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

    size: tuple[int, int]
    """(rows, columns) in pixels of the images it is made for; see `grid_at` for others."""
    grid: tuple[int, int]
    """(rows, columns) of patches of an image of that size."""
    channels: int
    """Channels it takes."""
    patch_px: tuple[int, int] | None = None
    """What the sides of an image must be multiples of; None where any will do."""

    def __init__(self, *, pooled: Literal["mean", "cls"], size: tuple[int, int], channels: int) -> None:
        super().__init__()
        self.size, self.channels = size, channels
        self._pooled = pooled
        self._grids: dict[tuple[int, int], tuple[int, int]] = {}

    @abstractmethod
    def encode(
        self, images: Float[Tensor, "image channel height width"], /
    ) -> tuple[Tensor | None, Float[Tensor, "image rows columns width"]]:
        """(class token [image width] or None, patches on their grid) of normalised images of any size it takes."""

    def forward(self, images: Float[Tensor, "image channel height width"]) -> ImageFeatures:
        """The features of normalised images, at the tower's own width."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            token, on_grid = self.encode(images)
        patches = on_grid.flatten(1, 2)
        if self._pooled == "mean":
            pooled = patches.mean(dim=1)
        elif token is None:
            raise ConfigError("pooled='cls': this image tower has no class token; use 'mean'")
        else:
            pooled = token
        return ImageFeatures(pooled=pooled, patches=patches, grid=(int(on_grid.shape[1]), int(on_grid.shape[2])))

    def example(self) -> Float[Tensor, "image channel height width"]:
        """One empty image."""
        return self._empty(self.size)

    def grid_at(self, size: tuple[int, int]) -> tuple[int, int]:
        """(rows, columns) of patches of images of `size` (rows, columns in pixels), found by looking at an empty one.

        Raises:
            ConfigError: if the tower does not take images of that size.
        """
        if size not in self._grids:
            self._grids[size] = self._look(size)
        return self._grids[size]

    def _look(self, size: tuple[int, int]) -> tuple[int, int]:
        self._check_division(size)
        was_training = self.training
        self.eval()
        try:
            with torch.no_grad():
                _, on_grid = self.encode(self._empty(size))
        except (AssertionError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:160]
            raise ConfigError(f"image tower: it does not take {size[0]} x {size[1]} px: {reason}") from None
        finally:
            self.train(was_training)
        return int(on_grid.shape[1]), int(on_grid.shape[2])

    def _check_division(self, size: tuple[int, int]) -> None:
        if self.patch_px is not None and any(side % patch for side, patch in zip(size, self.patch_px, strict=True)):
            raise ConfigError(
                f"image tower: patches of {self.patch_px[0]} px do not divide {size[0]} x {size[1]} px; "
                "change the size or the patch size"
            )

    def _empty(self, size: tuple[int, int]) -> Float[Tensor, "image channel height width"]:
        weight = next(self.parameters())
        return torch.zeros(1, self.channels, *size, device=weight.device, dtype=weight.dtype)


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
    def encode(self, tokens: Tokens, /) -> Float[Tensor, "text width"]:
        """One vector per text."""

    def example(self) -> Tokens:
        """One short text."""
        return self.tokenizer(["There is edema."]).to(next(self.parameters()).device)

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
