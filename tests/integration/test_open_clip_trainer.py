"""Our shards and open_clip's trainer: its reading pipeline always, its whole program where its old webdataset is."""

import math
import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks.open_clip_trainer import make_shards, train, train_pattern
from vlp.data import open_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return make_shards(tmp_path_factory.mktemp("open_clip") / "shards")


def test_open_clips_reading_pipeline_gets_every_study_with_its_text(shards):
    webdataset = pytest.importorskip("webdataset")
    reader = open_shards(shards)
    pipeline = webdataset.DataPipeline(
        webdataset.SimpleShardList(train_pattern(shards, reader.manifest)),
        webdataset.split_by_worker,
        webdataset.tarfile_to_samples(),
        webdataset.select(lambda sample: "txt" in sample and ("jpg" in sample or "png" in sample)),
        webdataset.decode("pilrgb"),
        webdataset.rename(image="jpg;png;jpeg;webp", text="txt"),
        webdataset.map_dict(image=np.asarray, text=str),
        webdataset.to_tuple("image", "text"),
    )
    pairs = list(pipeline)
    keys = reader.keys("train")
    assert [text for _, text in pairs] == [reader.text(key) for key in keys]
    assert all(text.strip() for _, text in pairs)
    for (image, _), key in zip(pairs, keys, strict=True):
        assert image.shape == (96, 96, 3)
        assert np.abs(image[..., 0].astype(int) - reader.image(key, 0)).max() <= 2


@pytest.mark.slow
def test_open_clips_own_program_trains_two_steps(shards, tmp_path):
    folder = os.environ.get("VLP_OLD_WEBDATASET")
    if not folder:
        pytest.skip(
            "VLP_OLD_WEBDATASET names no folder with webdataset 0.2.86; benchmarks/open_clip_trainer.py gets it"
        )
    outcome = train(shards, Path(folder), tmp_path, steps=2)
    assert outcome.steps == 2
    # eight pairs and an untrained model: near the loss of guessing
    assert all(abs(loss - math.log(8)) < 1.5 for loss in outcome.losses)
