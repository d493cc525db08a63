"""The convolutional stem: the grid of the patch it stands for, and no mixing of images."""

import pytest
import torch

from vlp.errors import ConfigError
from vlp.model.towers.stem import ConvStem


def _stem(patch_size, size=(64, 96), width=24):
    torch.manual_seed(0)
    return ConvStem(img_size=size, patch_size=patch_size, in_chans=1, embed_dim=width, bias=True)


@pytest.mark.parametrize(("patch_size", "convolutions"), [(2, 1), (8, 3), (16, 4)])
def test_the_grid_is_that_of_the_patch(patch_size, convolutions):
    stem = _stem(patch_size)
    assert stem.grid_size == (64 // patch_size, 96 // patch_size)
    assert stem(torch.rand(2, 1, 64, 96)).shape == (2, stem.num_patches, 24)
    assert sum(isinstance(layer, torch.nn.Conv2d) for layer in stem.convolutions) == convolutions


def test_patches_are_row_by_row():
    stem = _stem(8).eval()
    image = torch.zeros(1, 1, 64, 96)
    image[0, 0, 40:48, 16:24] = 5.0
    change = (stem(image) - stem(torch.zeros(1, 1, 64, 96))).abs().sum(dim=-1)
    assert change.argmax() == 5 * 12 + 2


def test_on_their_grid_patches_are_the_same_at_any_size():
    torch.manual_seed(0)
    on_grid = ConvStem(img_size=(64, 96), patch_size=8, in_chans=1, embed_dim=24, output_fmt="NHWC")
    images = torch.rand(2, 1, 64, 96)
    assert torch.equal(on_grid(images).flatten(1, 2), _stem(8)(images))
    assert on_grid(torch.rand(2, 1, 32, 40)).shape == (2, 4, 5, 24)
    assert on_grid.dynamic_feat_size((32, 40)) == (4, 5)


def test_images_do_not_see_each_other_even_in_training():
    stem = _stem(8).train()
    images = torch.rand(3, 1, 64, 96)
    torch.testing.assert_close(stem(images)[1:2], stem(images[1:2]))


@pytest.mark.parametrize("patch_size", [1, 12, 14])
def test_a_patch_that_is_no_power_of_two_is_refused(patch_size):
    with pytest.raises(ConfigError, match="power of 2"):
        _stem(patch_size)
