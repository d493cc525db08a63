"""Adapters begin as nothing, are all that learns, and leave nothing but better weights."""

import copy
import sys

import pytest
import torch
from pydantic import ValidationError

from vlp.errors import BackendError, ConfigError
from vlp.model import build, checkpoint
from vlp.model.adapters import LoraConfig, merge_adapters
from vlp.model.towers import HuggingFaceTextConfig, OpenClipImageConfig, TimmTowerConfig
from vlp.tensors import ImageFeatures

VIT = {"patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2}
BERT = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
SENTENCES = ["There is edema.", "There is no pleural effusion of the left lung."]
LORA = LoraConfig(rank=2)


def _image(name="vit_tiny_patch16_224", *, arguments=VIT, **options):
    torch.manual_seed(0)
    return TimmTowerConfig(name=name, arguments=arguments, **options).build(size=(32, 32), channels=1, saved=None)


def _text(**options):
    torch.manual_seed(0)
    return HuggingFaceTextConfig(random_init=BERT, **options).build(saved=None)


def _learning(tower):
    return {name for name, parameter in tower.named_parameters() if parameter.requires_grad}


def _adapted_layers(tower):
    return {name.partition(".lora_")[0].rpartition(".")[2] for name in _learning(tower)}


def _disturb(module):
    """What training would have done to the adapters."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))


def test_the_tower_begins_as_it_was_and_only_adapters_learn():
    images = torch.rand(2, 1, 32, 32)
    tower = _image(lora=LORA)
    assert torch.equal(tower.eval()(images).patches, _image().eval()(images).patches)
    names = _learning(tower)
    assert names
    assert all("lora_" in name for name in names)
    assert _adapted_layers(tower) == {"qkv", "proj", "fc1", "fc2"}
    tower.train()(images).patches.square().sum().backward()
    assert {name for name, parameter in tower.named_parameters() if parameter.grad is not None} == names


def test_what_an_adapter_adds_is_the_published_product():
    tower = _image(lora=LoraConfig(rank=2, alpha=6, targets=("mlp.fc1",))).eval()
    _disturb(tower)
    layer = tower.model.blocks[0].mlp.fc1
    x = torch.randn(5, 16)
    low, high = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    expected = layer.base_layer(x) + 6 / 2 * x @ low.T @ high.T
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize(("freeze", "blocks"), [("none", {0, 1, 2}), ("all", {0, 1, 2}), (2, {2})])
def test_frozen_blocks_have_none_unless_all_are_frozen(freeze, blocks):
    tower = _image(lora=LORA, freeze=freeze).train()
    assert {int(name.split(".")[2]) for name in _learning(tower)} == blocks
    assert not tower.frozen
    if freeze == 2:
        assert not tower.model.blocks[1].training
        assert tower.model.blocks[2].training


def test_a_text_tower_with_adapters_remembers_nothing():
    tower = _text(lora=LORA, freeze="all").eval()
    tokens = tower.tokenizer(SENTENCES)
    before = tower(tokens)
    assert before.requires_grad
    _disturb(tower)
    assert not torch.allclose(tower(tokens), before)


def test_layers_are_chosen_by_the_end_of_their_name():
    names = _learning(_text(lora=LoraConfig(targets=("query", "self.value"))))
    assert {name.partition(".lora_")[0].rpartition("self.")[2] for name in names} == {"query", "value"}
    for targets in (("quer",), ("query", "embeddings")):
        with pytest.raises(ConfigError, match=r"is called '(quer|embeddings)'; there are dense, key, query, value"):
            _text(lora=LoraConfig(targets=targets))


def test_a_convolutional_tower_without_linear_layers_is_refused():
    with pytest.raises(ConfigError, match="no linear layer"):
        _image("test_resnet", arguments={}, lora=LORA)
    assert _adapted_layers(_image("test_convnext", arguments={}, lora=LORA)) == {"fc1", "fc2"}


def test_a_layer_whose_weights_are_read_past_it_gets_none():
    """BEiT multiplies by qkv's weight itself, and torch's attention by its output's: an adapter would be ignored."""
    small = {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
    beit = _image("beit_base_patch16_224", arguments=small, lora=LORA)
    assert _adapted_layers(beit) == {"proj", "fc1", "fc2"}
    arguments = {"layers": 1, "width": 16, "head_width": 8, "patch_size": 8}
    clip = OpenClipImageConfig(name="ViT-B-32", arguments=arguments, lora=LORA).build(
        size=(32, 32), channels=3, saved=None
    )
    assert _adapted_layers(clip) == {"c_fc", "c_proj"}
    for tower, images in ((beit, torch.rand(1, 1, 32, 32)), (clip, torch.rand(1, 3, 32, 32))):
        tower.train()(images).patches.square().sum().backward()
        assert all(tower.get_parameter(name).grad is not None for name in _learning(tower))
    with pytest.raises(ConfigError, match="'qkv'"):
        _image("beit_base_patch16_224", arguments=small, lora=LoraConfig(targets=("qkv",)))


@pytest.fixture
def adapted(tiny_config):
    """A whole model with adapters on both towers that have learned something."""
    image = tiny_config.image.model_copy(update={"lora": LORA})
    text = tiny_config.text.model_copy(update={"lora": LoraConfig(rank=3, dropout=0.5)})
    torch.manual_seed(0)
    model = build(tiny_config.model_copy(update={"image": image, "text": text})).eval()
    _disturb(model)
    return model


def _says(model, pixels):
    with torch.no_grad():
        images: ImageFeatures = model.encode_images(pixels)
        return model.score(model.encode_texts(model.tokenizer(SENTENCES)), images).similarity, images.patches


def test_merged_the_model_says_the_same_under_the_names_it_had(adapted, tiny_config, pixels):
    before = _says(adapted, pixels)
    merged = copy.deepcopy(adapted)
    config = merge_adapters(merged)
    assert config == merged.config == tiny_config
    for mine, theirs in zip(_says(merged, pixels), before, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    plain = build(tiny_config).eval()
    assert plain.state_dict().keys() == merged.state_dict().keys()
    assert not any(torch.allclose(now, then, atol=1e-3) for now, then in zip(_says(plain, pixels), before, strict=True))
    plain.load_state_dict(merged.state_dict())
    for mine, theirs in zip(_says(plain, pixels), before, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    assert torch.equal(_says(adapted, pixels)[0], before[0])  # the copy was merged, not the model


def test_a_merged_checkpoint_needs_no_peft(adapted, pixels, tmp_path, monkeypatch):
    before = _says(adapted, pixels)
    merge_adapters(adapted)
    checkpoint.save(tmp_path / "merged", adapted, card={})
    monkeypatch.setitem(sys.modules, "peft", None)
    loaded = checkpoint.load(tmp_path / "merged")
    torch.testing.assert_close(_says(loaded, pixels)[0], before[0], rtol=1e-5, atol=1e-5)


def test_a_checkpoint_with_adapters_comes_back_as_it_was(adapted, pixels, tmp_path, monkeypatch):
    checkpoint.save(tmp_path / "running", adapted, card={})
    assert torch.equal(_says(checkpoint.load(tmp_path / "running"), pixels)[0], _says(adapted, pixels)[0])
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(BackendError, match=r"pip install 'vlp\[lora\]'"):
        _image(lora=LORA)


def test_without_adapters_merging_changes_nothing(tiny_model, tiny_config):
    before = {name: value.clone() for name, value in tiny_model.state_dict().items()}
    assert merge_adapters(tiny_model) == tiny_config
    assert all(torch.equal(value, before[name]) for name, value in tiny_model.state_dict().items())


def test_settings_without_sense_are_refused():
    for wrong in ({"rank": 0}, {"alpha": -1}, {"dropout": 1.0}):
        with pytest.raises(ValidationError):
            LoraConfig(**wrong)
