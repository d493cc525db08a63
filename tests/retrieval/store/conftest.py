from dataclasses import replace
from pathlib import Path

import pytest

from tests.inference.conftest import save_tiny
from tests.retrieval.conftest import SIDE, make_study
from vlp.data import ShardReader, open_shards
from vlp.data.writer import ShardWriter
from vlp.inference.engine import Engine, load
from vlp.records import LoadedStudy, Region


def located(number: int) -> LoadedStudy:
    """Study `number` with two views, a region on each, and one that lies beside its image."""
    loaded = make_study(number, views=2)
    regions = (
        Region(finding="nodule", image=f"{number}-0", geometry=(2.0, 3.0, 9.0, 11.0)),
        Region(finding="mass", image=f"{number}-1", geometry=(5.0, 6.0)),
        Region(finding="mass", image=f"{number}-1", geometry=(SIDE + 1.0, 0.0, SIDE + 5.0, 4.0)),
    )
    return LoadedStudy(study=replace(loaded.study, regions=regions), pixels=loaded.pixels)


@pytest.fixture(scope="session", params=["cosine", "similarity_attention"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """A whole model of random weights, once with each scorer."""
    return load(save_tiny(tmp_path_factory.mktemp("model") / request.param, request.param), device="cpu")


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> ShardReader:
    """Nine studies for training in three shards and three for testing in one; study 1 has regions."""
    folder: Path = tmp_path_factory.mktemp("archive") / "shards"
    with ShardWriter(folder, samples_per_shard=3, image_format="png") as writer:
        for number in range(12):
            writer.write(located(number) if number == 1 else make_study(number, views=1 + number % 2))
    return open_shards(folder)
