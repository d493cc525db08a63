"""Align layers: transformer blocks between an image tower and the joint space.

They let a frozen tower's patches speak to each other in the language of reports (RadZero, arXiv 2504.07416: two
DINOv2 blocks, trained from scratch).
"""

from typing import Annotated

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from vlp.config import Config
from vlp.errors import ConfigError
from vlp.model.towers.recomputation import set_recomputation
from vlp.tensors import ImageFeatures


class AlignConfig(Config):
    """How many align layers, and of what shape; 0 layers are none."""

    layers: Annotated[int, Field(ge=0)] = 0
    heads: Annotated[int, Field(ge=1)] = 4
    mlp_ratio: Annotated[float, Field(gt=0.0)] = 4.0
    layer_scale: Annotated[float, Field(gt=0.0)] = 1.0
    """What the learned per-channel scale of every branch starts with; 1 as published."""
    global_token: bool = True
    """Whether the image's pooled vector takes part as one more token, and its output is the new pooled vector;
    otherwise that is the mean of the patches."""


class Align(nn.Module):
    """The align layers of a model; features in, features of the same width out."""

    def __init__(self, config: AlignConfig, *, width: int) -> None:
        """Raises ConfigError if the width is no multiple of the heads."""
        super().__init__()
        if config.layers and width % config.heads:
            raise ConfigError(f"align.heads={config.heads} does not divide the image tower's width {width}")
        self._global_token = config.global_token
        self.blocks = nn.ModuleList(_Block(config, width) for _ in range(config.layers))

    def set_checkpointing(self, on: bool) -> None:
        """Whether blocks keep only their input for the backward pass, as `Tower.set_checkpointing` has it."""
        set_recomputation(self.blocks, on)

    def forward(self, features: ImageFeatures) -> ImageFeatures:
        """The features after all blocks, of any grid; padding is attended to by none, and no part of a mean."""
        padding = features.padding
        if len(self.blocks) == 0:
            return features
        tokens = features.patches
        if self._global_token:
            tokens = torch.cat((features.pooled[:, None], tokens), dim=1)
            padding = None if padding is None else functional.pad(padding, (1, 0), value=False)
        attended = None if padding is None else ~(padding & ~padding.all(dim=1, keepdim=True))[:, None, None]
        for block in self.blocks:
            tokens = block(tokens, attended)
        if self._global_token:
            pooled, tokens = tokens[:, 0], tokens[:, 1:]
        else:
            pooled = mean_of_patches(tokens, features.padding)
        return ImageFeatures(pooled=pooled, patches=tokens, grid=features.grid, padding=features.padding)


def mean_of_patches(
    patches: Float[Tensor, "image patch dim"], padding: Bool[Tensor, "image patch"] | None
) -> Float[Tensor, "image dim"]:
    """Mean over the patches that are not padding; 0 for an image that is nothing else."""
    if padding is None:
        return patches.mean(dim=1)
    counted = (~padding)[..., None]
    return (patches * counted).sum(dim=1) / counted.sum(dim=1).clamp_min(1)


class _Block(nn.Module):
    """x + scale * attention(norm(x)), then x + scale * mlp(norm(x))."""

    def __init__(self, config: AlignConfig, width: int) -> None:
        super().__init__()
        self.heads = config.heads
        self.attention_norm = nn.LayerNorm(width, eps=1e-6)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.attention_scale = nn.Parameter(torch.full((width,), config.layer_scale))
        self.mlp_norm = nn.LayerNorm(width, eps=1e-6)
        hidden = int(width * config.mlp_ratio)
        widen, narrow = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.mlp = nn.Sequential(widen, nn.GELU(), narrow)
        self.mlp_scale = nn.Parameter(torch.full((width,), config.layer_scale))
        for layer in (self.query_key_value, self.output, widen, narrow):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(
        self, tokens: Float[Tensor, "image token width"], attended: Bool[Tensor, "image 1 1 token"] | None
    ) -> Float[Tensor, "image token width"]:
        tokens = tokens + self.attention_scale * self._attention(self.attention_norm(tokens), attended)
        result: Tensor = tokens + self.mlp_scale * self.mlp(self.mlp_norm(tokens))
        return result

    def _attention(self, tokens: Tensor, attended: Tensor | None) -> Tensor:
        images, length, width = tokens.shape
        parts = self.query_key_value(tokens).view(images, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=attended)
        result: Tensor = self.output(mixed.transpose(1, 2).reshape(images, length, width))
        return result
