"""A checkpoint gives back exactly what was saved, or one line that says why not."""

import json
import shutil

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from vlp.errors import CheckpointError
from vlp.model import build, checkpoint
from vlp.model.towers import HuggingFaceImageConfig, OpenClipTextConfig

SENTENCES = ("There is no pneumothorax.", "There is a nodule of the left upper lung.")


def _answers(model, pixels):
    model.eval()
    with torch.no_grad():
        texts = model.encode_texts(model.tokenizer(SENTENCES))
        return model.score(texts, model.encode_images(pixels)).logits


@pytest.fixture
def saved(tiny_model, tmp_path):
    folder = tmp_path / "checkpoint"
    checkpoint.save(folder, tiny_model, card={"steps": 7})
    return folder


def test_the_round_trip_is_exact(tiny_model, saved, pixels):
    loaded = checkpoint.load(saved)
    assert torch.equal(_answers(loaded, pixels), _answers(tiny_model, pixels))
    assert loaded.config == tiny_model.config
    assert not loaded.training


def test_other_towers_travel_with_their_designs(tiny_config, tmp_path, pixels):
    design = {
        "model_type": "dinov2",
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "patch_size": 8,
        "image_size": 16,
    }
    model = build(
        tiny_config.model_copy(
            update={
                "image": HuggingFaceImageConfig(random_init=design),
                "text": OpenClipTextConfig(name="ViT-B-32", arguments={"width": 16, "layers": 1, "heads": 2}),
            }
        )
    )
    checkpoint.save(tmp_path / "c", model, card={})
    assert torch.equal(_answers(checkpoint.load(tmp_path / "c"), pixels), _answers(model, pixels))


def test_the_text_source_is_not_needed_to_load(tiny_config, saved, pixels, tiny_model, tmp_path):
    """A model built from a local text folder loads after that folder has gone."""
    source = tmp_path / "text"
    shutil.copytree(saved / "text_tower", source)
    for file in (saved / "tokenizer").iterdir():
        shutil.copy(file, source)
    weights = {name.removeprefix("model."): value for name, value in tiny_model.text_tower.state_dict().items()}
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    text = tiny_config.text.model_copy(update={"path": str(source), "random_init": None})
    model = build(tiny_config.model_copy(update={"text": text}))
    checkpoint.save(tmp_path / "own", model, card={})
    shutil.rmtree(source)
    assert torch.equal(_answers(checkpoint.load(tmp_path / "own"), pixels), _answers(model, pixels))


def test_the_folder_says_what_it_is(saved):
    names = {path.name for path in saved.iterdir()}
    assert names == {"config.yaml", "weights.safetensors", "tokenizer", "text_tower", "card.json", "README.md"}
    card = checkpoint.read_card(saved)
    assert card["steps"] == 7
    assert len(card["weights_sha256"]) == 64
    assert "not a medical device" in (saved / "README.md").read_text()


def test_saving_again_replaces_and_leaves_nothing_beside(tiny_model, saved):
    checkpoint.save(saved, tiny_model, card={"steps": 8})
    assert checkpoint.read_card(saved)["steps"] == 8
    assert [path.name for path in saved.parent.iterdir()] == ["checkpoint"]


def test_a_save_that_fails_leaves_the_old_one(tiny_model, saved, pixels, monkeypatch):
    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="space"):
        checkpoint.save(saved, tiny_model, card={"steps": 8})
    assert checkpoint.read_card(saved)["steps"] == 7
    assert [path.name for path in saved.parent.iterdir()] == ["checkpoint"]


def _rewrite(folder, change):
    """Changes weights and gives the card their checksum, so that the next check is reached."""
    weights = load_file(folder / "weights.safetensors")
    change(weights)
    save_file(weights, folder / "weights.safetensors")
    _seal(folder)


def _seal(folder):
    card = json.loads((folder / "card.json").read_text())
    card["weights_sha256"] = checkpoint._sha256(folder / "weights.safetensors")
    (folder / "card.json").write_text(json.dumps(card))


def _flip(folder):
    file = folder / "weights.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)


def _truncate(folder):
    file = folder / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    _seal(folder)


def _replace(folder, old, new):
    file = folder / "config.yaml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


DAMAGE = {
    "no folder": (lambda folder: shutil.rmtree(folder), "no checkpoint"),
    "no card": (lambda folder: (folder / "card.json").unlink(), "card.json is missing"),
    "no weights": (lambda folder: (folder / "weights.safetensors").unlink(), "weights.safetensors is missing"),
    "no tokenizer": (lambda folder: shutil.rmtree(folder / "tokenizer"), "tokenizer.json is missing"),
    "no architecture": (lambda folder: shutil.rmtree(folder / "text_tower"), "another design"),
    "broken card": (lambda folder: (folder / "card.json").write_text("{"), "not JSON"),
    "other format": (lambda folder: (folder / "card.json").write_text('{"format": 99}'), "another format"),
    "one bit": (_flip, "checksum"),
    "cut short": (_truncate, "damaged"),
    "unknown key": (lambda folder: _replace(folder, "dim: 8", "dim: 8\nextra: 1"), "extra"),
    "broken yaml": (lambda folder: _replace(folder, "dim: 8", "dim: [8"), "YAML"),
    "other shape": (lambda folder: _replace(folder, "embed_dim: 16", "embed_dim: 32"), "tensors differ"),
    "tensor gone": (lambda folder: _rewrite(folder, lambda w: w.pop("scorer.temperature.log")), "scorer.temperature"),
    "tensor more": (lambda folder: _rewrite(folder, lambda w: w.update(x=torch.zeros(1))), "1 tensors differ"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_one_line(saved, damage):
    harm, said = DAMAGE[damage]
    harm(saved)
    with pytest.raises(CheckpointError, match=said) as caught:
        checkpoint.load(saved)
    assert "\n" not in str(caught.value)


def test_what_a_killed_save_left_is_cleared_by_the_next(tiny_model, saved, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.shutil, "rmtree", lambda *_, **__: None)  # a killed process cleans nothing up
        patch.setattr(checkpoint, "take_place", lambda *_: None)
        checkpoint.save(saved, tiny_model, card={})
    assert len(list(saved.parent.iterdir())) == 2
    checkpoint.save(saved, tiny_model, card={"steps": 9})
    assert checkpoint.read_card(saved)["steps"] == 9
    assert [path.name for path in saved.parent.iterdir()] == ["checkpoint"]


def test_a_kill_between_the_two_renames_leaves_the_older_model(tiny_model, saved, monkeypatch):
    renames = []

    def rename_once(source, target):
        if renames:
            raise KeyboardInterrupt
        renames.append(source)
        source.rename(target)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.os, "rename", rename_once)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(saved, tiny_model, card={"steps": 8})
    found = checkpoint.latest(saved)
    assert found is not None
    assert checkpoint.read_card(found)["steps"] == 7
    checkpoint.save(saved, tiny_model, card={"steps": 8})
    assert checkpoint.latest(saved) == saved
    assert [path.name for path in saved.parent.iterdir()] == ["checkpoint"]


def test_weights_that_cannot_be_written_are_one_plain_error(tiny_model, tmp_path, monkeypatch):
    def full(*_):
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(CheckpointError, match=r"cannot be written.*No space"):
        checkpoint.save(tmp_path / "model", tiny_model, card={})
    assert list(tmp_path.iterdir()) == []
