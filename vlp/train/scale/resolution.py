"""Progressive resolution: small images while a model learns the coarse, the full size towards the end.

A step on images of half the side costs about a quarter.  The loader always makes the full size; a step shrinks its
batch on the device, so the order, the augmentation and the cache are the same at every size (after Touvron et al. 2019,
arXiv 1906.06423, and the resolution schedules of Tan & Le 2021, arXiv 2104.00298).
"""

import itertools
from collections.abc import Sequence
from typing import Annotated

import torch
from jaxtyping import Bool, Shaped
from pydantic import AfterValidator, Field, PositiveInt
from torch import Tensor
from torch.nn import functional

from vlp.config import Config
from vlp.errors import ConfigError
from vlp.model.towers import ImageTower

_LARGEST_DISTORTION = 0.05
"""How much more one side may shrink than the other: enough for whole patches, too little to see."""


class ResolutionStage(Config):
    """A size, and until when it is trained at."""

    until: Annotated[float, Field(gt=0.0, le=1.0)]
    """Share of the run's steps after which the next stage begins."""
    size: PositiveInt | tuple[PositiveInt, PositiveInt]
    """Side of the square image in pixels, or (rows, columns)."""

    @property
    def rows_columns(self) -> tuple[int, int]:
        """(rows, columns) in pixels."""
        return self.size if isinstance(self.size, tuple) else (self.size, self.size)


def _one_after_another(stages: tuple[ResolutionStage, ...]) -> tuple[ResolutionStage, ...]:
    ends = [stage.until for stage in stages]
    if any(later <= earlier for earlier, later in itertools.pairwise(ends)):
        raise ValueError(f"every stage must end after the one before it, not until {ends}")
    return stages


ResolutionStages = Annotated[tuple[ResolutionStage, ...], AfterValidator(_one_after_another)]
"""Stages in the order of their ends; after the last one the size is what `preprocess` makes."""


def size_at(stages: Sequence[ResolutionStage], *, step: int, max_steps: int, full: tuple[int, int]) -> tuple[int, int]:
    """(rows, columns) that `step` (counted from 0) of `max_steps` is trained at; a function of the step alone."""
    return next((stage.rows_columns for stage in stages if step < stage.until * max_steps), full)


def check_stages(stages: Sequence[ResolutionStage], *, full: tuple[int, int], tower: ImageTower) -> None:
    """Refuses sizes before the run begins that would stop it in the middle.

    Raises:
        ConfigError: if a size is larger than the full one or of another shape, or the tower does not take it.
    """
    for stage in stages:
        rows, columns = stage.rows_columns
        shares = rows / full[0], columns / full[1]
        name = f"resolution: {rows} x {columns} px"
        if max(shares) > 1.0:
            raise ConfigError(f"{name} is larger than the {full[0]} x {full[1]} px that model.preprocess makes")
        if abs(shares[0] / shares[1] - 1.0) > _LARGEST_DISTORTION:
            raise ConfigError(f"{name} would distort the {full[0]} x {full[1]} px that model.preprocess makes")
        tower.grid_at((rows, columns))


def shrink(
    images: Shaped[Tensor, "image channel height width"],
    *,
    padding: Bool[Tensor, "image height width"] | None,
    size: tuple[int, int],
) -> tuple[Shaped[Tensor, "image channel rows columns"], Bool[Tensor, "image rows columns"] | None]:
    """Images and their padding at a smaller size, on the device they are on.

    Every new pixel is a weighted mean over the old ones it covers (bilinear with antialiasing), rounded.  It is padding
    only where all of those are, so no part of an image is lost.

    Args:
        images: uint8.
        padding: True at pixels that show nothing of their image.
        size: (rows, columns), no larger than they are.
    """
    if tuple(images.shape[2:]) == size:
        return images, padding
    assert all(new <= old for new, old in zip(size, images.shape[2:], strict=True)), "images are only made smaller"
    smooth = functional.interpolate(images.float(), size=size, mode="bilinear", antialias=True, align_corners=False)
    smaller = smooth.round_().clamp_(0.0, 255.0).to(torch.uint8)
    if padding is None:
        return smaller, None
    shown: Tensor = functional.adaptive_max_pool2d((~padding)[:, None].float(), size)
    return smaller, shown[:, 0] == 0
