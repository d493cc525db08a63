"""timm towers: grids of transformers and CNNs, local weights, and what cannot be."""

import pytest
import timm
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from vlp.errors import BackendError, ConfigError
from vlp.model.towers import TimmTowerConfig

VIT = {"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}


def _build(name="vit_tiny_patch16_224", size=(32, 48), channels=1, **options):
    torch.manual_seed(0)
    return TimmTowerConfig(name=name, **options).build(size=size, channels=channels, saved=None)


@pytest.mark.parametrize(
    ("options", "grid", "width"),
    [
        ({"arguments": VIT}, (4, 6), 16),
        ({"arguments": VIT, "stem": "conv"}, (4, 6), 16),
        ({"arguments": VIT | {"class_token": False, "reg_tokens": 2}}, (4, 6), 16),
        ({"name": "test_resnet"}, (1, 2), 96),
        ({"name": "test_resnet", "stage": 2}, (4, 6), 48),
        ({"name": "test_convnext"}, (1, 1), 64),
    ],
    ids=["vit", "conv_stem", "registers", "cnn", "cnn_stage", "convnext"],
)
def test_features_have_the_grid(options, grid, width):
    tower = _build(**options)
    features = tower(torch.rand(2, 1, 32, 48))
    assert features.grid == tower.grid == grid
    assert features.patches.shape == (2, grid[0] * grid[1], width)
    assert features.pooled.shape == (2, width)


def test_a_feature_map_is_flattened_row_by_row():
    tower = _build("test_resnet", stage=2).eval()
    images = torch.rand(1, 1, 32, 48)
    feature_map = tower.model.forward_intermediates(images, indices=[2], intermediates_only=True)[0]
    assert torch.equal(tower(images).patches[0, 2 * 6 + 5], feature_map[0, :, 2, 5])


def test_leftovers_of_a_head_do_not_wait_for_a_gradient():
    tower = _build("test_convnext")
    tower(torch.rand(2, 1, 32, 48)).patches.sum().backward()
    assert all(parameter.grad is not None for parameter in tower.parameters() if parameter.requires_grad)


def test_stages_of_a_cnn_freeze_with_their_statistics():
    tower = _build("test_resnet", freeze=1).train()
    before = {name: value.clone() for name, value in tower.model.named_buffers()}
    tower(torch.rand(2, 1, 32, 48))
    moved = {name for name, value in tower.model.named_buffers() if not torch.equal(value, before[name])}
    assert any(name.startswith("layer2") for name in moved)
    assert not any(name.startswith(("bn1", "conv1", "layer1")) for name in moved)


def test_local_weights_are_those_of_the_model(tmp_path):
    torch.manual_seed(5)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=7, img_size=(32, 48), in_chans=3, **VIT)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    tower = _build(channels=3, arguments=VIT, weights=tmp_path / "w.safetensors").eval()
    images = torch.rand(2, 3, 32, 48)
    torch.testing.assert_close(tower(images).patches, model.eval().forward_features(images)[:, 1:])


def test_position_embeddings_are_brought_to_another_size(tmp_path):
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=64, in_chans=1, **VIT)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    tower = _build(arguments=VIT, weights=tmp_path / "w.safetensors")
    assert tower.model.pos_embed.shape == (1, 25, 16)
    assert torch.equal(tower.model.blocks[1].attn.qkv.weight, model.blocks[1].attn.qkv.weight)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"arguments": VIT, "size": (36, 48)}, "do not divide"),
        ({"arguments": VIT | {"patch_size": 12}, "stem": "conv", "size": (36, 48)}, "power of 2"),
        ({"arguments": VIT | {"wings": 2}}, "wings"),
        ({"arguments": VIT | {"class_token": False}, "pooled": "cls"}, "no class token"),
        ({"name": "test_resnet", "stage": 9}, "no stage 9"),
    ],
)
def test_what_cannot_be_is_one_line(options, said):
    with pytest.raises(ConfigError, match=said) as caught:
        _build(**options)
    assert "\n" not in str(caught.value)


def test_a_transformer_of_one_block_freezes_too():
    tower = _build(arguments=VIT | {"depth": 1}, freeze=1)
    assert [len(layer) > 0 for layer in tower.layers()] == [True, True]
    assert not any(parameter.requires_grad for parameter in tower.parameters())


@pytest.mark.parametrize(
    ("options", "size", "grid"),
    [
        ({"arguments": VIT}, (16, 56), (2, 7)),
        ({"arguments": VIT, "stem": "conv"}, (16, 56), (2, 7)),
        ({"arguments": VIT | {"class_token": False, "reg_tokens": 2}}, (16, 56), (2, 7)),
        ({"name": "eva02_tiny_patch14_224", "arguments": VIT | {"patch_size": 8}}, (16, 56), (2, 7)),
        ({"name": "test_resnet"}, (64, 100), (2, 4)),
        ({"name": "test_resnet", "stage": 2}, (64, 100), (8, 13)),
    ],
    ids=["vit", "conv_stem", "registers", "eva", "cnn", "cnn_stage"],
)
def test_images_of_another_size_have_a_grid_of_their_own(options, size, grid):
    tower = _build(**options).eval()
    own = tower.grid
    assert tower.grid_at(size) == grid
    features = tower(torch.rand(2, 1, *size))
    assert features.grid == grid
    assert features.patches.shape == (2, grid[0] * grid[1], tower.width)
    assert tower.grid == tower(torch.rand(1, 1, 32, 48)).grid == own


def test_a_size_a_design_cannot_take_is_one_line():
    tower = _build("beit_base_patch16_224", arguments=VIT, size=(32, 32))
    assert tower.grid_at((32, 32)) == (4, 4)
    with pytest.raises(ConfigError, match="does not take 16 x 16 px") as caught:
        tower.grid_at((16, 16))
    assert "\n" not in str(caught.value)


def test_looking_at_another_size_moves_nothing():
    tower = _build("test_resnet").train()
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    tower.grid_at((64, 64))
    assert tower.model.training
    assert all(torch.equal(value, before[name]) for name, value in tower.state_dict().items())


@pytest.mark.parametrize(
    ("name", "number"), [("test_resnet", 4), ("test_convnext", 9), ("test_efficientnet", 5), ("regnety_002", 13)]
)
def test_blocks_are_the_smallest_that_repeat_and_all_are_called(name, number):
    tower = _build(name, size=(64, 64))
    blocks, called = tower.blocks(), set()
    for block in blocks:
        block.register_forward_hook(lambda block, *_: called.add(block))
    tower(torch.rand(2, 1, 64, 64))
    assert len(blocks) == number
    assert called == set(blocks)


def test_an_unknown_name_is_refused_with_close_ones():
    with pytest.raises(ValidationError, match="timm has no model"):
        TimmTowerConfig(name="vit_tiny_patch16_9999")


def test_weights_of_another_model_are_refused(tmp_path):
    save_file({"w": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(BackendError, match="not in it"):
        _build(arguments=VIT, weights=tmp_path / "w.safetensors")


def test_a_checkpoints_design_asks_for_no_weights(tmp_path):
    config = TimmTowerConfig(name="vit_tiny_patch16_224", arguments=VIT, pretrained=True, weights=tmp_path / "gone.pth")
    assert config.build(size=(32, 32), channels=1, saved=tmp_path).grid == (4, 4)
