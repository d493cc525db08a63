"""A tiny folder of shards made of random pixels, and a tiny configuration that trains on it in a second."""

import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.nn.functional import normalize

from vlp.config import validate
from vlp.data.writer import ShardWriter
from vlp.model.model import VisionLanguageModel
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
    return write_shards(tmp_path_factory.mktemp("train") / "shards")


def write_shards(folder: Path) -> Path:
    """Shards of studies of random pixels; `folder` again."""
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


@pytest.fixture
def in_float64() -> Callable[[VisionLanguageModel], VisionLanguageModel]:
    """Makes a model, which is float32 by design, compute in float64, so that only a wrong sum can differ."""

    def change(model: VisionLanguageModel) -> VisionLanguageModel:
        model = model.double()
        single = model.normalize

        def pixels(_: Any, images: torch.Tensor) -> torch.Tensor:
            return single(images).double()

        def unit(scorer: Any, vectors: torch.Tensor) -> torch.Tensor:
            return normalize(scorer.norm(vectors), dim=-1)

        model.normalize = MethodType(pixels, model)  # type: ignore[method-assign]
        model.scorer.unit = MethodType(unit, model.scorer)  # type: ignore[method-assign]
        return model

    return change


def still_model() -> dict[str, Any]:
    """The tiny model without dropout: what it says depends on what it sees alone."""
    image = TINY_MODEL["image"] | {"arguments": {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}}
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    text = TINY_MODEL["text"] | {"random_init": TINY_MODEL["text"]["random_init"] | still}
    return TINY_MODEL | {"image": image, "text": text}


@pytest.fixture
def still_values(values: dict[str, Any]) -> dict[str, Any]:
    return values | {"model": still_model()}


Work = Callable[[int], None]
Ranks = Callable[[int, Work], list[int | None]]
LAUNCHED = {"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1", "GROUP_RANK": "0"}


def _rank(rank: int, work: Work, environment: Mapping[str, str]) -> None:
    torch.set_num_threads(1)  # a forked process has none of its parent's threads
    os.environ.update(environment)
    try:
        work(rank)
    except Exception:
        traceback.print_exc()
        os._exit(1)


def _forked(works: Mapping[int, tuple[Work, Mapping[str, str]]], *, limit_s: float = 120.0) -> list[int | None]:
    """Runs a piece of work in a process each; returns their exit codes.  Forked: nothing is imported anew."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_rank, args=(rank, *each)) for rank, each in works.items()]
    for process in processes:
        process.start()
    until = time.monotonic() + limit_s
    try:
        for process in processes:
            process.join(max(0.0, until - time.monotonic()))
        return [process.exitcode for process in processes]
    finally:
        for process in processes:
            process.kill()


@pytest.fixture
def connected(tmp_path: Path) -> Ranks:
    """Runs work on so many connected processes (gloo) and returns their exit codes."""

    def run(world: int, work: Work) -> list[int | None]:
        meet = tmp_path / f"meet-{world}-{time.monotonic_ns()}"

        def connect_first(rank: int) -> None:
            dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=world)
            work(rank)
            dist.destroy_process_group()

        return _forked({rank: (connect_first, {}) for rank in range(world)})

    return run


@pytest.fixture
def by_torchrun() -> Ranks:
    """Runs work on so many processes that find in their environment what torchrun puts there."""

    def run(world: int, work: Work) -> list[int | None]:
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        common = LAUNCHED | {"MASTER_PORT": str(store.port), "WORLD_SIZE": str(world),
                             "TORCHELASTIC_USE_AGENT_STORE": "True"}  # fmt: skip
        return _forked({rank: (work, common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(world)})

    return run
