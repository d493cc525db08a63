"""A whole model small enough to build in a test."""

import pytest
import torch

from vlp.model import ModelConfig, build
from vlp.model.align import AlignConfig
from vlp.model.towers import HuggingFaceTextConfig, TimmTowerConfig

TINY_BERT = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
TINY_VIT = {"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}


@pytest.fixture
def tiny_config():
    from vlp.data.transforms import Preprocess

    return ModelConfig(
        image=TimmTowerConfig(name="vit_tiny_patch16_224", arguments=TINY_VIT, stem="conv"),
        text=HuggingFaceTextConfig(random_init=TINY_BERT, freeze="all"),
        align=AlignConfig(layers=1, heads=2),
        dim=8,
        preprocess=Preprocess(size=32),
    )


@pytest.fixture
def tiny_model(tiny_config):
    torch.manual_seed(0)
    return build(tiny_config)


@pytest.fixture
def pixels():
    return torch.randint(0, 256, (3, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
