from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from vlp.data.transforms import Preprocess
from vlp.inference.engine import Engine, load
from vlp.model import ModelConfig, build, checkpoint
from vlp.model.scorers import CosineConfig, SimilarityAttentionConfig
from vlp.model.towers import HuggingFaceTextConfig, TimmTowerConfig

SIZE, PATCH = 64, 8


def tiny_config(scorer: Literal["cosine", "similarity_attention"], *, fit: str = "letterbox") -> ModelConfig:
    """A whole model of random weights that takes milliseconds."""
    return ModelConfig(
        image=TimmTowerConfig(
            name="vit_tiny_patch16_224", arguments={"patch_size": PATCH, "embed_dim": 32, "depth": 1, "num_heads": 2}
        ),
        text=HuggingFaceTextConfig(
            max_tokens=96,
            random_init={
                "model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
                "intermediate_size": 32, "max_position_embeddings": 96,
            },
        ),
        dim=24,
        scorer=CosineConfig() if scorer == "cosine" else SimilarityAttentionConfig(),
        preprocess=Preprocess(size=SIZE, fit=fit),
    )  # fmt: skip


def save_tiny(
    folder: Path, scorer: Literal["cosine", "similarity_attention"], *, seed: int = 0, **card: object
) -> Path:
    torch.manual_seed(seed)
    checkpoint.save(folder, build(tiny_config(scorer)), card=card)
    return folder


@pytest.fixture(scope="session", params=["cosine", "similarity_attention"])
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder, once with each scorer."""
    return save_tiny(tmp_path_factory.mktemp("tiny") / request.param, request.param)


@pytest.fixture(scope="session")
def engine(tiny: Path) -> Engine:
    return load(tiny, device="cpu", batch_images=4)


@pytest.fixture(scope="session")
def pictures() -> list[np.ndarray]:
    """Square, wide and tall images of several sizes."""
    rng = np.random.default_rng(5)
    shapes = [(64, 64), (90, 50), (41, 77), (128, 128), (33, 200), (64, 64)]
    return [rng.integers(0, 256, size=shape).astype(np.uint8) for shape in shapes]
