"""Decoders: from patches on the encoder's grid to one vector per pixel of a finer grid.

`linear` says what the patches hold by themselves.  `pyramid` makes several scales of the one grid, as ViTDet does for
plain transformers (Li et al. 2022, arXiv 2203.16527, section 3, "simple feature pyramid"), joins them top-down with
torchvision's feature pyramid network, and adds what the whole image is like.
"""

from abc import ABC, abstractmethod
from collections import OrderedDict
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import FeaturePyramidNetwork  # type: ignore[import-untyped]

from vlp.config import Config

_GROUPS = 8
"""Of the group norms; widths are multiples of it."""
_COORDINATES = 2
_HALVINGS = 2
"""Scales of the pyramid below the encoder's own grid: the coarsest has a quarter of its rows."""


class Decoder(nn.Module, ABC):
    """Patches on a grid in, vectors on a grid `scale` times as fine out."""

    channels: int
    """Length of the vectors it makes."""
    scale: int
    """Rows of its grid over rows of the encoder's."""

    @abstractmethod
    def forward(
        self, patches: Float[Tensor, "image width rows columns"]
    ) -> Float[Tensor, "image channel fine_rows fine_columns"]:
        """One vector per pixel of the finer grid."""


class LinearConfig(Config):
    """The patches as they are: what is read from them is a linear function of each."""

    kind: Literal["linear"] = "linear"

    def build(self, *, width: int) -> "LinearDecoder":
        """The decoder for patches of `width`."""
        return LinearDecoder(width=width)


class PyramidConfig(Config):
    """A simple feature pyramid; some hundred thousand weights."""

    kind: Literal["pyramid"] = "pyramid"
    channels: Annotated[int, Field(ge=_GROUPS, multiple_of=_GROUPS)] = 48
    """Width of every scale."""
    scale: Literal[1, 2, 4] = 2
    """How much finer than the encoder's grid masks are; what is smaller than a patch needs more than 1."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """Share of the input's channels that are left out of a step."""

    def build(self, *, width: int) -> "PyramidDecoder":
        """The decoder for patches of `width`."""
        return PyramidDecoder(self, width=width)


AnyDecoder = Annotated[LinearConfig | PyramidConfig, Field(discriminator="kind")]


class LinearDecoder(Decoder):
    """Nothing between the patches and what is read from them."""

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.channels, self.scale = width, 1

    def forward(
        self, patches: Float[Tensor, "image width rows columns"]
    ) -> Float[Tensor, "image channel fine_rows fine_columns"]:
        """The patches."""
        return patches


class PyramidDecoder(Decoder):
    """The grid `scale` times as fine, then half of that and so on down to a quarter of the encoder's, joined."""

    def __init__(self, config: PyramidConfig, *, width: int) -> None:
        super().__init__()
        self.channels, self.scale = config.channels, config.scale
        channels = config.channels
        self.drop = nn.Dropout2d(config.dropout)
        self.enter = _block(width + _COORDINATES, channels, kernel=1)
        finer = {1: 0, 2: 1, 4: 2}[config.scale]
        self.up = nn.ModuleList(_doubled(channels) for _ in range(finer))
        self.join = FeaturePyramidNetwork([channels] * (finer + 1 + _HALVINGS), channels)
        self.whole = nn.Linear(2 * channels, channels)
        self.leave = _block(channels, channels, kernel=3)

    def forward(
        self, patches: Float[Tensor, "image width rows columns"]
    ) -> Float[Tensor, "image channel fine_rows fine_columns"]:
        """All scales added up at the finest, with the image's mean and maximum added everywhere."""
        own = self.enter(torch.cat((self.drop(patches), _coordinates(patches)), dim=1))
        scales = [own]
        for double in self.up:
            scales.insert(0, double(scales[0]))
        for _ in range(_HALVINGS):
            scales.append(functional.max_pool2d(scales[-1], kernel_size=2, ceil_mode=True))
        joined = self.join(OrderedDict((str(number), scale) for number, scale in enumerate(scales))).values()
        finest = scales[0].shape[2:]
        total = sum(functional.interpolate(each, size=finest, mode="bilinear", align_corners=False) for each in joined)
        context = self.whole(torch.cat((own.mean(dim=(2, 3)), own.amax(dim=(2, 3))), dim=1))
        result: Tensor = self.leave(total + context[..., None, None])
        return result


def _block(inputs: int, outputs: int, *, kernel: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel_size=kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(_GROUPS, outputs), nn.GELU())


def _doubled(channels: int) -> nn.Sequential:
    """Twice the rows and columns."""
    convolution = nn.ConvTranspose2d(channels, channels, kernel_size=2, stride=2, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(_GROUPS, channels), nn.GELU())


def _coordinates(patches: Float[Tensor, "image width rows columns"]) -> Float[Tensor, "image 2 rows columns"]:
    """Where every patch lies, x and y in [-1, 1]: a convolution does not know, and fluid gathers below."""
    images, _, rows, columns = patches.shape
    x = torch.linspace(-1.0, 1.0, columns, device=patches.device, dtype=patches.dtype)
    y = torch.linspace(-1.0, 1.0, rows, device=patches.device, dtype=patches.dtype)
    return torch.stack((x.expand(rows, columns), y[:, None].expand(rows, columns))).expand(images, -1, -1, -1)
