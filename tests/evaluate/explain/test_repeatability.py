import numpy as np
import pytest
import torch

from tests.evaluate.explain.conftest import engine_of, sample_of
from tests.inference.conftest import tiny_config
from vlp.data import ShardReader
from vlp.evaluate.explain import repeatability
from vlp.evaluate.explain.sample import Sample
from vlp.model import build

DRAWING = {"resamples": 100, "seed": 0}


def test_a_model_is_like_itself_and_less_like_another(untrained: Sample) -> None:
    torch.manual_seed(5)
    other = engine_of(build(tiny_config("similarity_attention")))
    same = repeatability.measure(untrained, untrained.engine, **DRAWING)
    assert [row.value for row in same] == [pytest.approx(1.0, abs=1e-5)] * 2
    different = repeatability.measure(untrained, other, **DRAWING)
    assert [row.outcome for row in different] == ["reported"] * 2
    assert all(row.value is not None and row.value < 0.9 for row in different)


def test_without_a_second_model_nothing_is_claimed(untrained: Sample) -> None:
    rows = repeatability.measure(untrained, None, **DRAWING)
    assert {row.outcome for row in rows} == {"not run"}
    assert "--other" in rows[0].method


def test_another_preprocessing_is_not_compared(untrained: Sample, reader: ShardReader) -> None:
    other = sample_of(build(tiny_config("similarity_attention", fit="stretch")), reader, studies=2).engine
    rows = repeatability.measure(untrained, other, **DRAWING)
    assert {row.method for row in rows} == {"the other checkpoint is shown images otherwise"}


def test_a_finer_grid_is_averaged() -> None:
    fine = np.arange(32, dtype=np.float64).reshape(4, 8)
    coarse = np.ones((2, 4))
    one, other = repeatability.on_one_grid(fine, coarse)
    np.testing.assert_allclose(one, fine.reshape(2, 2, 4, 2).mean(axis=(1, 3)))
    np.testing.assert_array_equal(other, coarse)
