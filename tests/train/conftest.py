"""A tiny folder of shards made of random pixels, and a tiny configuration that trains on it in a second."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlp.config import validate
from vlp.data.writer import ShardWriter
from vlp.records import Certainty, ImageFile, LoadedStudy, Person, Report, Split, Study
from vlp.reports.findings import sentence_from_label
from vlp.train.config import TrainConfig

FINDINGS = ("pleural effusion", "pneumothorax", "cardiomegaly")
NUM_TRAIN, NUM_VAL = 22, 12


def make_study(number: int, split: Split) -> LoadedStudy:
    """A study whose first finding, if present, brightens the image; every third has a lateral view as well."""
    rng = np.random.default_rng(number)
    labels = {name: (Certainty.PRESENT if rng.random() < 0.5 else Certainty.ABSENT) for name in FINDINGS}
    views = ("PA", "lateral") if number % 3 == 0 else ("AP",)
    images = tuple(
        ImageFile(id=f"image-{number}-{index}", path=None, view=view, rows=40, columns=40)
        for index, view in enumerate(views)
    )
    bright = 60 if labels[FINDINGS[0]] is Certainty.PRESENT else 0
    sentences = tuple(sentence_from_label(name, certainty) for name, certainty in labels.items())
    study = Study(
        id=f"study-{number}",
        person=Person(id=f"person-{number}"),
        images=images,
        report=Report(text="Findings: " + " ".join(sentence.text for sentence in sentences)),
        sentences=sentences,
        labels=labels,
        source="random",
        split=split,
        synthetic=True,
    )
    pixels = tuple(rng.integers(0, 120, size=(40, 40), dtype=np.uint8) + np.uint8(bright) for _ in views)
    return LoadedStudy(study=study, pixels=pixels)


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train") / "shards"
    with ShardWriter(folder, image_format="png") as writer:
        for number in range(NUM_TRAIN):
            writer.write(make_study(number, "train"))
        for number in range(NUM_TRAIN, NUM_TRAIN + NUM_VAL):
            writer.write(make_study(number, "val"))
    return folder


TINY_MODEL: dict[str, Any] = {
    "image": {
        "kind": "timm",
        "name": "vit_tiny_patch16_224",
        "arguments": {"patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2, "proj_drop_rate": 0.1},
    },
    "text": {
        "kind": "huggingface",
        "random_init": {
            "model_type": "bert",
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 32,
        },
    },
    "dim": 16,
    "scorer": {"kind": "similarity_attention"},
    "preprocess": {"size": 32},
}


def tiny_values(shards: Path, output: Path) -> dict[str, Any]:
    """Values of a configuration that tests may change before `as_config`."""
    return {
        "output": str(output),
        "shards": str(shards),
        "model": {**TINY_MODEL},
        "objective": {"kind": "multi_positive_nce"},
        "loader": {"batch_studies": 8, "workers": 0},
        "optimizer": {"lr": 1e-3},
        "schedule": {"warmup_steps": 2},
        "max_steps": 5,
        "checkpoint_every": 100,
        "zero_shot": {"every": 0},
        "wandb": {"mode": "disabled"},
    }


def as_config(values: dict[str, Any]) -> TrainConfig:
    return validate(TrainConfig, values, where="test")


@pytest.fixture
def values(shards: Path, tmp_path: Path) -> dict[str, Any]:
    return tiny_values(shards, tmp_path / "run")
