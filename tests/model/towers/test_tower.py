"""Freezing, and a frozen text tower's memory."""

import pytest
import torch

from vlp.errors import ConfigError
from vlp.model.towers import HuggingFaceTextConfig, TimmTowerConfig
from vlp.tensors import Tokens

BERT = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
VIT = {"patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2, "proj_drop_rate": 0.5}
SENTENCES = ("There is edema.", "There is no pleural effusion of the left lung.", "Hernia.")


def _text(**options):
    torch.manual_seed(0)
    return HuggingFaceTextConfig(random_init=BERT, **options).build(saved=None)


def _image(**options):
    torch.manual_seed(0)
    config = TimmTowerConfig(name="vit_tiny_patch16_224", arguments=VIT, **options)
    return config.build(size=(16, 24), channels=1, saved=None)


def test_a_frozen_tower_stays_in_evaluation_mode():
    tower = torch.nn.Sequential(_image(freeze="all")).train()[0]
    assert not any(module.training for module in tower.modules())
    images = torch.rand(2, 1, 16, 24)
    assert torch.equal(tower(images).patches, tower(images).patches)
    assert not tower(images).patches.requires_grad


def test_lower_blocks_freeze_with_the_stem_and_lose_their_dropout():
    tower = _image(freeze=2).train()
    learning = {name for name, parameter in tower.named_parameters() if parameter.requires_grad}
    assert all(name.startswith(("model.blocks.2.", "model.norm.")) for name in learning)
    assert learning
    assert not tower.model.blocks[1].training
    assert tower.model.blocks[2].training


def test_more_blocks_than_there_are_are_refused():
    with pytest.raises(ConfigError, match="3 blocks"):
        _image(freeze=4)
    with pytest.raises(ConfigError, match="3 blocks"):
        _text(freeze=4)


def test_a_tower_without_blocks_cannot_recompute_them(monkeypatch):
    tower = _image()
    monkeypatch.setattr(type(tower), "blocks", lambda _: [])
    with pytest.raises(ConfigError, match="no blocks"):
        tower.set_checkpointing(True)


def test_frozen_and_recomputed_blocks_do_not_disturb_each_other():
    gradients = []
    images = torch.rand(2, 1, 16, 24, generator=torch.Generator().manual_seed(0))
    for recomputed in (False, True):
        tower = _image(freeze=2).train()
        tower.set_checkpointing(recomputed)
        torch.manual_seed(1)
        tower(images).patches.square().sum().backward()
        gradients.append({name: value.grad for name, value in tower.named_parameters() if value.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(value, gradients[1][name]) for name, value in gradients[0].items())


def test_a_class_token_is_taken_when_asked_for():
    images = torch.rand(2, 1, 16, 24)
    mean, token = _image().eval(), _image(pooled="cls").eval()
    torch.testing.assert_close(mean(images).pooled, mean(images).patches.mean(dim=1))
    torch.testing.assert_close(token(images).pooled, token.model.forward_features(images)[:, 0])


def test_a_frozen_text_tower_computes_a_sentence_once(monkeypatch):
    tower = _text(freeze="all").train()
    tokens = tower.tokenizer(SENTENCES)
    first = tower(tokens)

    def forbidden(_):
        raise AssertionError("encoded again")

    monkeypatch.setattr(tower, "encode", forbidden)
    again = tower(Tokens(ids=tokens.ids[[2, 0, 0]], mask=tokens.mask[[2, 0, 0]]))
    assert torch.equal(again, first[[2, 0, 0]])


def test_a_remembered_vector_is_the_encoders_whatever_the_padding():
    tower = _text(freeze="all")
    tokens = tower.tokenizer(SENTENCES)
    with torch.no_grad():
        torch.testing.assert_close(tower(tokens), tower.encode(tokens))
    alone = _text(freeze="all")
    assert torch.equal(alone(alone.tokenizer(SENTENCES[:1])), tower(tokens)[:1])


def test_new_weights_are_not_answered_from_memory():
    tower = _text(freeze="all")
    tokens = tower.tokenizer(SENTENCES)
    before = tower(tokens)
    state = {name: value + 0.1 * torch.rand_like(value) for name, value in tower.state_dict().items()}
    tower.load_state_dict(state)
    assert not torch.allclose(tower(tokens), before)
    parent = torch.nn.ModuleDict({"text": tower})
    remembered = tower(tokens)
    parent.load_state_dict({f"text.{name}": value + 0.1 for name, value in state.items()})
    assert not torch.allclose(tower(tokens), remembered)


def test_a_text_tower_that_learns_does_not_remember():
    tower = _text(freeze=1).eval()
    tokens = tower.tokenizer(SENTENCES)
    before = tower(tokens)
    assert before.requires_grad
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.add_(torch.rand_like(parameter) * parameter.requires_grad)
    assert not torch.allclose(tower(tokens), before)


def test_no_texts_are_no_error():
    tower = _text(freeze="all")
    none = Tokens(ids=torch.zeros(0, 4, dtype=torch.int64), mask=torch.zeros(0, 4, dtype=torch.bool))
    assert tower(none).shape == (0, 16)
