"""A tiny untrained model, and drawn studies whose findings are blocks of a known grey with a mask or a box."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.evaluate.conftest import draw
from tests.inference.conftest import save_tiny
from vlp.config import validate
from vlp.data import ShardReader, open_shards
from vlp.data.writer import ShardWriter
from vlp.heads.config import SegmentationHeadConfig
from vlp.inference.engine import Engine, load

CLASSES = ("cardiomegaly", "mass", "pleural effusion")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("heads") / "model", "similarity_attention")


@pytest.fixture(scope="session")
def engine(checkpoint: Path) -> Engine:
    return load(checkpoint, device="cpu", batch_images=8)


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heads_archive") / "shards"
    rng = np.random.default_rng(0)
    with ShardWriter(folder, image_format="png") as writer:
        for split, first, number in (("train", 0, 40), ("val", 100, 16), ("test", 200, 24)):
            for each in range(first, first + number):
                writer.write(draw(each, split, rng=rng))
    return folder


@pytest.fixture(scope="session")
def reader(shards: Path) -> ShardReader:
    return open_shards(shards)


@pytest.fixture
def values(checkpoint: Path, shards: Path, tmp_path: Path) -> dict[str, Any]:
    """Values of a configuration that tests may change before `as_config`."""
    return {
        "kind": "segmentation_head",
        "output": str(tmp_path / "run"),
        "encoder": str(checkpoint),
        "shards": str(shards),
        "decoder": {"kind": "linear"},
        "batch_images": 8,
        "max_steps": 6,
        "checkpoint_every": 2,
        "resamples": 100,
        "schedule": {"warmup_steps": 2},
        "device": "cpu",
    }


def as_config(values: dict[str, Any]) -> SegmentationHeadConfig:
    return validate(SegmentationHeadConfig, values, where="test")
