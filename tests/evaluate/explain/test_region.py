from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.evaluate.explain.conftest import sample_of
from tests.inference.conftest import tiny_config
from vlp.data import ShardReader
from vlp.evaluate.explain import region
from vlp.evaluate.explain.sample import Sample
from vlp.model import build
from vlp.model.scorers import SimilarityAttentionConfig
from vlp.tensors import ImageFeatures


def _features(rows: int, columns: int, images: int = 1) -> ImageFeatures:
    patches = torch.zeros(images, rows * columns, 2)
    return ImageFeatures(pooled=patches[:, 0], patches=patches, grid=(rows, columns))


def test_the_patients_left_is_the_right_of_the_grid() -> None:
    half = region.left_half(_features(2, 5)).reshape(2, 5)
    assert half.tolist() == [[False, False, False, True, True]] * 2


def test_what_is_excluded_comes_on_top_of_padding() -> None:
    features = replace(_features(1, 4, images=2), padding=torch.tensor([[True, False, False, False]] * 2))
    edited = region.without(features, np.array([False, False, False, True]))
    assert edited.padding is not None
    assert edited.padding.tolist() == [[True, False, False, True]] * 2


@pytest.mark.parametrize("global_token", [False, True])
@pytest.mark.parametrize("temperature", ["shared", 0.05])
def test_a_model_that_attends_is_recomputed(reader: ShardReader, *, global_token: bool, temperature: str) -> None:
    torch.manual_seed(1)
    scorer = SimilarityAttentionConfig(
        global_token=global_token,
        attention_temperature=temperature,  # type: ignore[arg-type]
        bias=-2.0,
    )
    model = build(tiny_config("similarity_attention").model_copy(update={"scorer": scorer}))
    row = region.measure(sample_of(model, reader, studies=4))
    assert row.outcome == "passed"
    assert row.n > 0


def test_a_model_that_looks_where_it_must_not_fails(untrained: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = untrained.engine.scores
    monkeypatch.setattr(
        untrained.engine, "scores", lambda texts, features: scores(texts, replace(features, padding=None))
    )
    row = region.measure(untrained)
    assert row.outcome == "failed"
    assert row.value is not None
    assert row.value > region.TOLERANCE


def test_a_model_without_patches_says_why(reader: ShardReader) -> None:
    row = region.measure(sample_of(build(tiny_config("cosine")), reader, studies=2))
    assert row.outcome == "not run"
    assert "no patches" in row.method
