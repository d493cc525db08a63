"""The model: two towers, align layers, heads and a scorer; built from a `ModelConfig`, kept as a folder.

`build(config)` makes one, `checkpoint.save` and `checkpoint.load` carry it.
"""

from vlp.model.align import AlignConfig
from vlp.model.model import ModelConfig, VisionLanguageModel, build
from vlp.model.scorers import AnyScorer
from vlp.model.towers import AnyImageTower, AnyTextTower

__all__ = ["AlignConfig", "AnyImageTower", "AnyScorer", "AnyTextTower", "ModelConfig", "VisionLanguageModel", "build"]
