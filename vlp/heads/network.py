"""What a segmentation head computes: encoder features in, one mask's logits per class or per text out."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from vlp.heads.decoders import AnyDecoder
from vlp.heads.encoder import Seen

Conditioning = Literal["class", "text"]

_RARE = -3.0
"""First bias of every mask: about one pixel in twenty."""
_CELLS = 4_000_000
"""Text x image x pixel cells with all their channels that are held at once."""


class SegmentationNetwork(nn.Module):
    """A decoder over what the encoder sees, read out by class or by text.

    Both readings also get the similarity map of every text: the zero-shot answer is where the head begins, and a few
    masks are enough to learn what to change about it.
    """

    def __init__(
        self, decoder: AnyDecoder, *, conditioning: Conditioning, width: int, dim: int, num_classes: int
    ) -> None:
        """The head for an encoder with a tower of `width` and a joint space of `dim`; `num_classes` masks by class."""
        super().__init__()
        self.tower_norm = nn.LayerNorm(width)
        self.joint_norm = nn.LayerNorm(dim)
        self.decoder = decoder.build(width=width + dim)
        channels = self.decoder.channels
        self.read: ClassReading | TextReading = (
            ClassReading(channels, num_classes=num_classes)
            if conditioning == "class"
            else TextReading(channels, dim=dim)
        )

    @property
    def scale(self) -> int:
        """Rows of the masks over rows of the encoder's grid."""
        return self.decoder.scale

    def forward(
        self,
        seen: Seen,
        texts: Float[Tensor, "text dim"],
        similarity: Float[Tensor, "text image rows columns"],
    ) -> Float[Tensor, "image text fine_rows fine_columns"]:
        """Logits.

        Args:
            seen: What the encoder makes of the images.
            texts: Unit vectors of the sentences, those of the classes where the head is conditioned on classes.
            similarity: Their maps on the encoder's grid (`VisionLanguageModel.maps`).
        """
        both = torch.cat((self.tower_norm(seen.tower.patches), self.joint_norm(seen.joint.patches)), dim=2)
        on_grid = both.transpose(1, 2).unflatten(2, seen.tower.grid)
        pixels = self.decoder(on_grid)
        maps = functional.interpolate(
            similarity.transpose(0, 1), size=pixels.shape[2:], mode="bilinear", align_corners=False
        )
        logits: Tensor = self.read(pixels, texts, maps)
        return logits


class ClassReading(nn.Module):
    """One linear function of a pixel's vector per class, and a share of the class's similarity map."""

    def __init__(self, channels: int, *, num_classes: int) -> None:
        super().__init__()
        self.weights = nn.Conv2d(channels, num_classes, kernel_size=1)
        nn.init.zeros_(self.weights.weight)
        nn.init.constant_(_of(self.weights.bias), _RARE)
        self.trust = nn.Parameter(torch.full((num_classes,), 5.0))
        """What a cosine is multiplied by."""

    def forward(
        self,
        pixels: Float[Tensor, "image channel rows columns"],
        texts: Float[Tensor, "text dim"],
        maps: Float[Tensor, "image text rows columns"],
    ) -> Float[Tensor, "image text rows columns"]:
        """Logits of every class; the texts themselves are not looked at, their maps are."""
        logits: Tensor = self.weights(pixels) + self.trust[:, None, None] * maps
        return logits


class TextReading(nn.Module):
    """One reading for every text there is: pixels scaled and shifted by it (FiLM, Perez et al. 2018), then read.

    h = GELU(pixel (1 + gamma(t)) + beta(t) + w map_t),  logit = conv(h) + trust map_t
    """

    def __init__(self, channels: int, *, dim: int) -> None:
        super().__init__()
        self.film = nn.Sequential(nn.Linear(dim, channels), nn.GELU(), nn.Linear(channels, 2 * channels))
        self.enter = nn.Linear(1, channels)
        middle = max(8, channels // 2)
        last = nn.Conv2d(middle, 1, kernel_size=1)
        nn.init.constant_(_of(last.bias), _RARE)
        self.leave = nn.Sequential(nn.Conv2d(channels, middle, kernel_size=3, padding=1), nn.GELU(), last)
        self.trust = nn.Parameter(torch.tensor(5.0))

    def forward(
        self,
        pixels: Float[Tensor, "image channel rows columns"],
        texts: Float[Tensor, "text dim"],
        maps: Float[Tensor, "image text rows columns"],
    ) -> Float[Tensor, "image text rows columns"]:
        """Logits of every text on every image."""
        images, channels, rows, columns = pixels.shape
        gains, shifts = self.film(texts).chunk(2, dim=1)
        step = max(1, _CELLS // (images * channels * rows * columns))
        parts = []
        for start in range(0, len(texts), step):
            some = slice(start, start + step)
            gain, shift = (values[some][None, :, :, None, None] for values in (gains, shifts))
            told = self.enter(maps[:, some, ..., None]).movedim(-1, 2)
            hidden = functional.gelu(pixels[:, None] * (1.0 + gain) + shift + told)
            parts.append(self.leave(hidden.flatten(0, 1)).unflatten(0, hidden.shape[:2])[:, :, 0])
        return torch.cat(parts, dim=1) + self.trust * maps


def _of(bias: Tensor | None) -> Tensor:
    assert bias is not None
    return bias
