"""Small studies and a small folder of shards that the tests of this package share."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vlp.data.reader import ShardReader, open_shards
from vlp.data.writer import ShardWriter
from vlp.records import (
    Certainty,
    ImageFile,
    LoadedStudy,
    Mask,
    Person,
    Region,
    Report,
    Sentence,
    Split,
    Study,
    View,
)

REPORT = "FINDINGS: No pneumothorax.  Small left\neffusion. IMPRESSION: Heart é normal."


def _sentence(text: str, words: str, finding: str, certainty: Certainty) -> Sentence:
    start = REPORT.index(words)
    return Sentence(
        start=start, end=start + len(words), section="findings", finding=finding, certainty=certainty, text=text
    )


SENTENCES = (
    _sentence("There is no pneumothorax.", "No pneumothorax.", "pneumothorax", Certainty.ABSENT),
    _sentence("There is pleural effusion.", "Small left\neffusion.", "pleural effusion", Certainty.PRESENT),
)


def make_study(
    number: int,
    *,
    split: Split | None = "train",
    views: tuple[View, ...] = ("PA",),
    report: bool = True,
    labels: bool = True,
    size: tuple[int, int] = (40, 32),
    person: str | None = None,
) -> LoadedStudy:
    """Study `number`, whose images differ from every other study's."""
    rng = np.random.default_rng(number)
    rows, columns = size
    pixels = tuple(
        np.kron(rng.integers(0, 256, (rows // 4, columns // 4)), np.ones((4, 4))).astype(np.uint8) for _ in views
    )
    images = tuple(
        ImageFile(
            id=f"image-{number}-{index}", path=None, view=view, rows=rows, columns=columns, spacing_mm=(0.5, 0.25)
        )
        for index, view in enumerate(views)
    )
    picture = np.zeros(size, dtype=bool)
    picture[4:9, 3:7] = True
    study = Study(
        id=f"study.{number}",
        person=Person(id=person or f"person-{number}", age=40.5, sex="F", groups={"site": "north"}),
        images=images,
        report=Report(text=REPORT) if report else None,
        sentences=SENTENCES if report else (),
        labels={"pneumothorax": Certainty.ABSENT, "edema": Certainty.PRESENT} if labels else {},
        regions=(
            Region(finding="edema", image=images[0].id, geometry=(1.0, 2.0, 10.5, 12.0)),
            Region(finding="nodule", image=images[0].id, geometry=(3.0, 4.5)),
            Region(finding="mass", image=images[-1].id, geometry=Mask.encode(picture)),
        ),
        source="made here",
        license="CC0",
        split=split,
        earlier=("study.before",),
        synthetic=True,
    )
    return LoadedStudy(study=study, pixels=pixels)


def with_sentences(loaded: LoadedStudy, *sentences: Sentence) -> LoadedStudy:
    return replace(loaded, study=replace(loaded.study, sentences=sentences))


@pytest.fixture(name="make_study")
def _make_study() -> Callable[..., LoadedStudy]:
    return make_study


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """11 train studies in tars of 4 (two with laterals, one lateral only, one without a sentence), 2 val, 1 test."""
    folder = tmp_path_factory.mktemp("archive") / "shards"
    with ShardWriter(folder, samples_per_shard=4, image_format="png", recipe={"made": "here"}) as writer:
        for number in range(8):
            writer.write(make_study(number, views=("lateral", "AP") if number in (2, 5) else ("PA",)))
        writer.write(make_study(8, views=("lateral",)))
        writer.write(make_study(9, report=False))
        writer.write(make_study(10, size=(32, 40)))
        for number in (20, 21):
            writer.write(make_study(number, split="val"))
        writer.write(make_study(30, split="test", report=False, labels=False))
    return folder


@pytest.fixture
def reader(shards: Path) -> ShardReader:
    return open_shards(shards)
