from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vlp.data import ShardReader, open_shards
from vlp.data.transforms import SeenImage
from vlp.data.writer import ShardWriter
from vlp.records import Certainty, ImageFile, LoadedStudy, Person, Report, Study
from vlp.tensors import Placement

DIM = 12
SIDE = 16


class Projection:
    """Stands where an engine stands: a fixed random projection of the pixels, and of a text's letters."""

    def __init__(self, fingerprint: str = "a" * 64) -> None:
        self.fingerprint = fingerprint
        self._matrix = np.random.default_rng(7).normal(size=(SIDE * SIDE, DIM))

    def see(self, reader: Any, key: str, index: int = 0) -> SeenImage:
        return seen(reader.image(key, index))

    def embed(self, images: Sequence[np.ndarray | SeenImage]) -> np.ndarray:
        return unit(np.stack([seen(image).pixels.ravel() / 255.0 - 0.5 for image in images]) @ self._matrix)

    def looked(self, images: Sequence[np.ndarray | SeenImage]) -> SimpleNamespace:
        return SimpleNamespace(seen=[seen(image) for image in images], features=images)

    def vectors(self, features: Sequence[np.ndarray | SeenImage]) -> np.ndarray:
        return self.embed(features)

    def encode_text(self, sentences: Sequence[str]) -> np.ndarray:
        return unit(np.stack([np.random.default_rng(len(text)).normal(size=DIM) for text in sentences]))


def seen(image: np.ndarray | SeenImage) -> SeenImage:
    if isinstance(image, SeenImage):
        return image
    matrix = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
    return SeenImage(image, Placement(original=image.shape, model=image.shape, matrix=matrix), None)


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def make_study(number: int, *, views: int = 1) -> LoadedStudy:
    """Study `number`; every person has three, every second one has labels and no report."""
    rng = np.random.default_rng(number)
    person = number // 3
    study = Study(
        id=f"study-{number}",
        person=Person(id=f"person-{person}", age=50.0 + person, sex="F" if person % 2 else "M"),
        images=tuple(
            ImageFile(id=f"{number}-{view}", path=None, view="PA" if view == 0 else "lateral", rows=SIDE, columns=SIDE)
            for view in range(views)
        ),
        report=Report(text=f"FINDINGS: Words of study {number}.\nIMPRESSION: Case {number}.") if number % 2 else None,
        labels={"nodule": Certainty.PRESENT, "mass": Certainty.ABSENT} if number % 2 else {"mass": Certainty.UNCERTAIN},
        source="made",
        split="train" if person < 3 else "test",
        synthetic=True,
    )
    pixels = tuple(rng.integers(0, 256, size=(SIDE, SIDE)).astype(np.uint8) for _ in range(views))
    return LoadedStudy(study=study, pixels=pixels)


@pytest.fixture(scope="session")
def reader(tmp_path_factory: pytest.TempPathFactory) -> ShardReader:
    folder: Path = tmp_path_factory.mktemp("retrieval") / "shards"
    with ShardWriter(folder, samples_per_shard=5, image_format="png") as writer:
        for number in range(15):
            writer.write(make_study(number, views=1 + number % 2))
    return open_shards(folder)


@pytest.fixture
def engine() -> Projection:
    return Projection()
