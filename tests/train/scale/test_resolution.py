"""Stages by the step alone, impossible sizes refused before a run begins, and shrinking that loses nothing."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from vlp.errors import ConfigError
from vlp.model.towers import TimmTowerConfig
from vlp.train.scale.resolution import ResolutionStage, ResolutionStages, check_stages, shrink, size_at

STAGES = (ResolutionStage(until=0.25, size=128), ResolutionStage(until=0.5, size=(160, 192)))


def test_a_stage_lasts_for_its_share_of_the_steps():
    sizes = [size_at(STAGES, step=step, max_steps=8, full=(224, 224)) for step in range(9)]
    assert sizes == [(128, 128)] * 2 + [(160, 192)] * 2 + [(224, 224)] * 5
    assert size_at((), step=0, max_steps=8, full=(224, 208)) == (224, 208)
    whole = (ResolutionStage(until=1.0, size=64),)
    assert size_at(whole, step=7, max_steps=8, full=(224, 224)) == (64, 64)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=5, unique=True), st.integers(1, 300))
def test_every_stage_has_its_steps_in_order(ends, max_steps):
    stages = tuple(ResolutionStage(until=end, size=10 + number) for number, end in enumerate(sorted(ends)))
    sizes = [size_at(stages, step=step, max_steps=max_steps, full=(99, 99))[0] for step in range(max_steps)]
    assert sizes == sorted(sizes)
    for number, end in enumerate(sorted(ends)):
        share = sum(size <= 10 + number for size in sizes) / max_steps
        assert end <= share <= end + 1 / max_steps or share == 1.0


def test_stages_that_do_not_follow_each_other_are_refused():
    adapter = TypeAdapter(ResolutionStages)
    assert adapter.validate_python(STAGES) == STAGES
    for ends in ((0.5, 0.25), (0.5, 0.5)):
        with pytest.raises(ValidationError, match="after the one before it"):
            adapter.validate_python(tuple(ResolutionStage(until=end, size=64) for end in ends))
    for until in (0.0, 1.1):
        with pytest.raises(ValidationError):
            ResolutionStage(until=until, size=64)


@pytest.mark.parametrize(
    ("size", "said"), [(64, "larger"), ((16, 24), "distort"), (20, "do not divide"), (16, None), ((24, 24), None)]
)
def test_sizes_a_run_could_not_go_through_are_refused_before_it_begins(size, said):
    config = TimmTowerConfig(
        name="vit_tiny_patch16_224", arguments={"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
    )
    tower = config.build(size=(32, 32), channels=1, saved=None)
    stages = (ResolutionStage(until=0.5, size=size),)
    if said is None:
        check_stages(stages, full=(32, 32), tower=tower)
        return
    with pytest.raises(ConfigError, match=said):
        check_stages(stages, full=(32, 32), tower=tower)


def test_shrinking_by_a_whole_factor_keeps_the_mean_and_the_kind():
    images = torch.randint(0, 256, (2, 1, 48, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    smaller, padding = shrink(images, padding=None, size=(24, 32))
    assert smaller.dtype == torch.uint8
    assert smaller.shape == (2, 1, 24, 32)
    assert padding is None
    assert smaller.float().mean().item() == pytest.approx(images.float().mean().item(), abs=1.0)


def test_a_shrunk_radiograph_is_what_an_area_filter_makes_of_it():
    """OpenCV's area filter is what the loader shrinks by; a nearest-pixel or unfiltered resize is far from it."""
    rows, columns = np.mgrid[0:120, 0:120]
    picture = (127 + 60 * np.sin(rows / 9.0) + 60 * np.cos(columns / 13.0)).astype(np.uint8)
    noisy = np.clip(picture + np.random.default_rng(0).normal(0, 30, picture.shape), 0, 255).astype(np.uint8)
    smaller, _ = shrink(torch.from_numpy(noisy)[None, None], padding=None, size=(40, 40))
    expected = cv2.resize(noisy, (40, 40), interpolation=cv2.INTER_AREA).astype(np.float64)
    ours = np.abs(smaller[0, 0].numpy() - expected).mean()
    nearest = np.abs(noisy[1::3, 1::3] - expected).mean()
    assert ours < 5.0
    assert ours < 0.25 * nearest


def test_extreme_pixels_do_not_wrap_around():
    images = torch.zeros(1, 1, 9, 9, dtype=torch.uint8)
    images[..., 4:] = 255
    smaller, _ = shrink(images, padding=None, size=(4, 4))
    row = smaller[0, 0, 0].tolist()
    assert row == sorted(row)
    assert (row[0], row[-1]) == (0, 255)


def test_a_pixel_is_padding_only_where_all_it_covers_is():
    padding = torch.zeros(2, 12, 12, dtype=torch.bool)
    padding[0, :, :5] = True
    padding[1, 7:] = True
    images = torch.zeros(2, 1, 12, 12, dtype=torch.uint8)
    _, smaller = shrink(images, padding=padding, size=(4, 6))
    covers_any = ~padding.view(2, 4, 3, 6, 2).permute(0, 1, 3, 2, 4).flatten(3).all(dim=3)
    assert torch.equal(~smaller, covers_any)
    assert smaller[0, 0].tolist() == [True, True, False, False, False, False]


def test_the_full_size_is_left_alone():
    images, padding = torch.zeros(1, 1, 8, 8, dtype=torch.uint8), torch.zeros(1, 8, 8, dtype=torch.bool)
    same, same_padding = shrink(images, padding=padding, size=(8, 8))
    assert same is images
    assert same_padding is padding
    with pytest.raises(AssertionError, match="smaller"):
        shrink(images, padding=None, size=(4, 9))
