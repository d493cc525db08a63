"""What brings a tower's vectors to the joint width."""

from torch import nn

from vlp.errors import ConfigError
from vlp.model.towers.tower import HeadKind


def make_head(kind: HeadKind, *, width: int, dim: int, where: str) -> nn.Module:
    """A module from `width` to `dim` along the last axis: one layer, two layers, or nothing.

    Raises:
        ConfigError: for no head between unequal widths; `where` names it.
    """
    if kind == "none":
        if width != dim:
            raise ConfigError(f"{where}.head='none' needs equal widths: the tower's is {width}, dim is {dim}")
        return nn.Identity()
    if kind == "linear":
        return nn.Linear(width, dim)
    hidden = max(width, dim)
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, dim))
