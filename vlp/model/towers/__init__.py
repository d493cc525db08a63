"""Towers: images or texts in, vectors out.  A new one is one file and one name in a union here."""

from typing import Annotated

from pydantic import Field

from vlp.model.towers.huggingface import HuggingFaceImageConfig, HuggingFaceTextConfig
from vlp.model.towers.open_clip import OpenClipImageConfig, OpenClipTextConfig
from vlp.model.towers.timm import TimmTowerConfig
from vlp.model.towers.tower import ImageTower, ImageTowerConfig, TextTower, TextTowerConfig, Tower

AnyImageTower = Annotated[TimmTowerConfig | HuggingFaceImageConfig | OpenClipImageConfig, Field(discriminator="kind")]
AnyTextTower = Annotated[HuggingFaceTextConfig | OpenClipTextConfig, Field(discriminator="kind")]

__all__ = [
    "AnyImageTower",
    "AnyTextTower",
    "HuggingFaceImageConfig",
    "HuggingFaceTextConfig",
    "ImageTower",
    "ImageTowerConfig",
    "OpenClipImageConfig",
    "OpenClipTextConfig",
    "TextTower",
    "TextTowerConfig",
    "TimmTowerConfig",
    "Tower",
]
