"""Early convolutions for a vision transformer: patches seen through a few small filters instead of one large one.

After Xiao et al. 2021, "Early convolutions help transformers see better" (arXiv 2106.14881), with group
normalisation, so that an image's features never depend on its neighbours in the batch.
"""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from vlp.errors import ConfigError

_GROUP_CHANNELS = 8


class ConvStem(nn.Module):
    """3x3 convolutions of stride 2 down to the patch stride, then a 1x1 projection: stands in for timm's PatchEmbed.

    A patch of 8 px takes 3 convolutions, one of 16 px takes 4; channels double up to the model's width.
    """

    def __init__(
        self,
        *,
        img_size: int | tuple[int, int],
        patch_size: int,
        in_chans: int,
        embed_dim: int,
        output_fmt: str | None = None,
        **_: Any,
    ) -> None:
        """Takes what timm hands to an `embed_layer`; what concerns its other embeddings is ignored."""
        super().__init__()
        steps = patch_size.bit_length() - 1
        if patch_size != 2**steps or steps < 1:
            raise ConfigError(f"stem='conv' needs a patch size that is a power of 2, not {patch_size}")
        rows, columns = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.img_size = (rows, columns)
        self.patch_size = (patch_size, patch_size)
        self.grid_size = (rows // patch_size, columns // patch_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        self._on_grid = output_fmt == "NHWC"
        layers: list[nn.Module] = []
        width = in_chans
        for step in range(steps):
            wider = _whole_groups(embed_dim >> (steps - 1 - step))
            layers += [
                nn.Conv2d(width, wider, kernel_size=3, stride=2, padding=1, bias=False),
                nn.GroupNorm(wider // _GROUP_CHANNELS, wider),
                nn.GELU(),
            ]
            width = wider
        self.convolutions = nn.Sequential(*layers)
        self.proj = nn.Conv2d(width, embed_dim, kernel_size=1)

    def feat_ratio(self) -> int:
        """Pixels a side of a patch."""
        return self.patch_size[0]

    def dynamic_feat_size(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """(rows, columns) of patches of images of a size."""
        return img_size[0] // self.patch_size[0], img_size[1] // self.patch_size[1]

    def forward(self, images: Float[Tensor, "image channel height width"]) -> Float[Tensor, "image *patch width"]:
        """One vector per patch, on their grid where timm asks for that (NHWC), else row by row."""
        on_grid: Tensor = self.proj(self.convolutions(images)).permute(0, 2, 3, 1)
        return on_grid if self._on_grid else on_grid.flatten(1, 2)


def _whole_groups(channels: int) -> int:
    return max(_GROUP_CHANNELS, channels // _GROUP_CHANNELS * _GROUP_CHANNELS)
