import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.evaluate.explain.conftest import SidedModel, sample_of
from vlp.data import ShardReader
from vlp.data.transforms import Preprocess
from vlp.evaluate.explain import deletion
from vlp.evaluate.explain.sample import Sample
from vlp.tensors import ImageFeatures, Scores, TextFeatures


class UpsideDown(SidedModel):
    """Its maps point away from what its scores rest on."""

    def maps(self, text: TextFeatures, images: ImageFeatures) -> torch.Tensor:
        return -super().maps(text, images)

    def score(self, text: TextFeatures, images: ImageFeatures) -> Scores:
        return SidedModel().score(text, images)


def test_patches_are_ranked_from_the_highest_and_padding_is_left_out() -> None:
    values = np.array([[0.1, 0.9, np.nan], [0.5, 0.9, -1.0]])
    np.testing.assert_array_equal(deletion.ranks(values), [[0.6, 0.0, np.nan], [0.4, 0.2, 0.8]])


@given(st.integers(0, 10), st.sampled_from(deletion.WAYS))
def test_as_many_patches_are_replaced_as_the_share_says(step: int, way: deletion.Way) -> None:
    values = np.random.default_rng(step).random((5, 4))
    ranked = deletion.ranks(values)
    share = deletion.SHARES[step]
    hidden = deletion.replaced(ranked, share, way, size=(15, 8))
    cells = hidden.reshape(5, 3, 4, 2).any(axis=(1, 3))
    assert (hidden.reshape(5, 3, 4, 2).all(axis=(1, 3)) == cells).all(), "whole patches only"
    expected = round(share * 20)
    assert cells.sum() == (expected if way == "deletion" else 20 - expected)
    if way == "deletion" and 0 < expected < 20:
        assert values[cells].min() > values[~cells].max()


def test_what_stands_in_knows_nothing_of_padding() -> None:
    pixels = np.full((20, 40), 200, dtype=np.uint8)
    seen = Preprocess(size=40).apply(pixels)  # letterbox: bars above and below
    assert seen.padding is not None
    assert set(np.unique(deletion.filled(seen, "mean"))) == {200}
    noise = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    blurred = deletion.filled(Preprocess(size=64).apply(noise), "blur")
    assert blurred.std() < 0.15 * noise.std()
    assert abs(blurred.mean() - noise.mean()) < 5


def test_a_moved_map_keeps_its_values_and_not_their_places() -> None:
    values = np.random.default_rng(0).random((8, 8))
    moved = deletion.moved(values, np.random.default_rng(1))
    np.testing.assert_array_equal(np.sort(moved, axis=None), np.sort(values, axis=None))
    there, here = (np.unravel_index(one.argmax(), one.shape) for one in (moved, values))
    assert all((a - b) % 8 in range(2, 7) for a, b in zip(there, here, strict=True))


def test_area_is_the_integral() -> None:
    assert deletion.area(deletion.SHARES**1) == pytest.approx(0.5)
    assert deletion.area(np.full((2, 11), 0.3)) == pytest.approx([0.3, 0.3])


def test_maps_that_point_at_what_matters_pass(sided: Sample) -> None:
    rows, curves = deletion.measure(sided, resamples=200, seed=0)
    assert curves is not None
    judged = [row for row in rows if row.rule]
    assert [(row.test, row.outcome) for row in judged] == [(way, "passed") for way in deletion.WAYS for _ in range(2)]
    assert len(rows) == 8
    assert curves.values["deletion", "mean", "map"].shape == (len(sided.one_each(most=40)), deletion.STEPS + 1)
    # Both ways begin and end at the same pictures.
    for fill in deletion.FILLS:
        going, coming = curves.values["deletion", fill, "map"], curves.values["insertion", fill, "map"]
        np.testing.assert_allclose(going[:, [0, -1]], coming[:, [-1, 0]], atol=1e-6)


def test_maps_that_point_elsewhere_fail(reader: ShardReader) -> None:
    """The planted fault."""
    rows, _ = deletion.measure(sample_of(UpsideDown(), reader, studies=12), resamples=200, seed=0)
    judged = [row for row in rows if row.rule]
    assert {row.outcome for row in judged} == {"failed"}
    assert all(row.value is not None and row.value < 0 for row in judged)


def test_the_same_seed_gives_the_same_figures(reader: ShardReader) -> None:
    sample = sample_of(SidedModel(), reader, studies=4)
    first, second = (deletion.measure(sample, resamples=100, seed=3)[0] for _ in range(2))
    assert first == second
