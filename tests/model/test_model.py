"""The whole model: what flows through it, what it refuses, what learns."""

from dataclasses import replace

import pytest
import torch

from vlp.data.statements import statements
from vlp.data.transforms import Preprocess
from vlp.errors import ConfigError, DataError
from vlp.model import ModelConfig, build
from vlp.model.align import AlignConfig
from vlp.model.scorers import CosineConfig
from vlp.model.towers import TimmTowerConfig
from vlp.objectives import Pairs, multi_positive_nce
from vlp.objectives.positives import PositivesConfig, find_positives, own_pairs
from vlp.tensors import Batch

SENTENCES = ("There is no pneumothorax.", "There is a nodule of the left upper lung.", "There may be edema.")


def _batch(model, pixels):
    """Three studies; the first sentence is in two of them."""
    said = statements((text, None) for text in SENTENCES)
    sentence, owner = torch.tensor([0, 1, 0, 2]), torch.tensor([0, 0, 1, 2])
    return Batch(
        images=pixels,
        padding=None,
        tokens=model.tokenizer(SENTENCES),
        sentence=sentence,
        owner=owner,
        flipped=torch.zeros(4, dtype=torch.bool),
        study=torch.arange(3),
        said=said,
        known=said[sentence],
        known_study=owner,
        keys=("a", "b", "c"),
        position=0,
    )


def _pairs(batch):
    found = find_positives(
        PositivesConfig(),
        said=batch.said,
        sentence=batch.sentence,
        flipped=batch.flipped,
        owner=batch.owner,
        study=batch.study,
        known=batch.known,
        known_study=batch.known_study,
    )
    return Pairs(positives=found.positives, own=own_pairs(batch.owner, batch.study, batch.flipped))


def test_a_batch_becomes_logits_of_every_text_and_image(tiny_model, pixels):
    batch = _batch(tiny_model, pixels)
    logits = tiny_model(batch)
    unique = tiny_model.score(tiny_model.encode_texts(batch.tokens), tiny_model.encode_images(pixels)).logits
    assert logits.dtype == torch.float32
    assert torch.equal(logits, unique[[0, 1, 0, 2]])


def test_everything_that_learns_gets_a_gradient_and_the_frozen_tower_none(tiny_model, pixels):
    batch = _batch(tiny_model, pixels)
    tiny_model.train()
    multi_positive_nce(tiny_model(batch), _pairs(batch)).backward()
    for name, parameter in tiny_model.named_parameters():
        assert (parameter.grad is not None) == (not name.startswith("text_tower")), name


def test_training_steps_lower_the_loss_and_move_the_temperature(tiny_model, pixels):
    batch = _batch(tiny_model, pixels)
    tiny_model.train()
    optimizer = torch.optim.AdamW(tiny_model.parameters(), lr=1e-2)
    before, losses = tiny_model.scorer.temperature().item(), []
    for _ in range(12):
        loss = multi_positive_nce(tiny_model(batch), _pairs(batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] * 0.7
    assert tiny_model.scorer.temperature().item() != before


def test_groups_hold_every_learning_parameter_once(tiny_model):
    groups = tiny_model.parameter_groups()
    held = [id(parameter) for group in groups.values() for parameter in group]
    assert sorted(held) == sorted(id(p) for p in tiny_model.parameters() if p.requires_grad)
    assert groups["text"] == []
    assert {id(p) for p in tiny_model.image_tower.parameters()} == {id(p) for p in groups["image"]}


def test_bytes_and_their_fractions_are_the_same_image(tiny_model, pixels):
    tiny_model.eval()
    torch.testing.assert_close(
        tiny_model.encode_images(pixels).pooled, tiny_model.encode_images(pixels.float() / 255).pooled
    )


def test_pixels_are_normalised_as_configured(tiny_config):
    config = tiny_config.model_copy(update={"preprocess": Preprocess(size=32, mean=0.2, std=0.4)})
    model = build(config)
    found = model.normalize(torch.full((1, 1, 32, 32), 255, dtype=torch.uint8))
    torch.testing.assert_close(found, torch.full((1, 1, 32, 32), (1 - 0.2) / 0.4))


def test_a_colour_tower_gets_the_one_channel_three_times(tiny_config, pixels):
    model = build(tiny_config.model_copy(update={"preprocess": Preprocess(size=32, channels=3)}))
    seen = model.normalize(pixels)
    assert seen.shape == (3, 3, 32, 32)
    assert torch.equal(seen[:, 0], seen[:, 2])
    assert model.encode_images(pixels).patches.shape == (3, 16, 8)


def test_maps_lie_on_the_grid_row_by_row(tiny_model, pixels):
    texts, images = tiny_model.encode_texts(tiny_model.tokenizer(SENTENCES)), tiny_model.encode_images(pixels)
    maps = tiny_model.maps(texts, images)
    assert maps.shape == (3, 3, 4, 4)
    patches = tiny_model.scorer.unit(images.patches)
    torch.testing.assert_close(maps[1, 2, 3, 1], tiny_model.embed_texts(texts)[1] @ patches[2, 3 * 4 + 1])


def test_patches_of_nothing_but_padding_take_no_part(tiny_model, pixels):
    tiny_model.eval()
    padding = torch.zeros(3, 32, 32, dtype=torch.bool)
    padding[0, :, :12] = True  # one and a half columns of patches: the half one is still of the image
    features = tiny_model.encode_images(pixels, padding=padding)
    expected = torch.zeros(3, 4, 4, dtype=torch.bool)
    expected[0, :, 0] = True
    assert torch.equal(features.padding, expected.flatten(1))
    texts = tiny_model.encode_texts(tiny_model.tokenizer(SENTENCES))
    wild = replace(features, patches=features.patches.masked_fill(features.padding[..., None], 9.0))
    assert torch.equal(tiny_model.score(texts, wild).logits, tiny_model.score(texts, features).logits)
    unpadded = tiny_model.encode_images(pixels)
    torch.testing.assert_close(features.patches[1:], unpadded.patches[1:])
    assert not torch.allclose(features.patches[0], unpadded.patches[0])


def test_a_batch_is_scored_without_its_padding(tiny_model, pixels):
    tiny_model.eval()
    padding = torch.zeros(3, 32, 32, dtype=torch.bool)
    padding[0, :, :16] = True
    batch = replace(_batch(tiny_model, pixels), padding=padding)
    texts = tiny_model.encode_texts(batch.tokens)
    expected = tiny_model.score(texts, tiny_model.encode_images(pixels, padding=padding)).logits[batch.sentence]
    logits = tiny_model(batch)
    assert torch.equal(logits, expected)
    assert not torch.allclose(logits[:, 0], tiny_model(replace(batch, padding=None))[:, 0])


def test_no_image_knows_its_neighbours(tiny_model, pixels):
    tiny_model.train()
    together = tiny_model.encode_images(pixels).patches[1]
    torch.testing.assert_close(together, tiny_model.encode_images(pixels[1:2]).patches[0])


@pytest.mark.parametrize("shape", [(2, 1, 32, 40), (2, 32, 32), (2, 2, 32, 32)])
def test_images_of_another_shape_are_refused(tiny_model, shape):
    with pytest.raises(DataError, match="images"):
        tiny_model.encode_images(torch.zeros(shape, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"image": {"size": 64}}, "size"),
        ({"image": {"channels": 3}}, "channels"),
        ({"image": {"head": "none"}}, r"model\.image\.head"),
        ({"preprocess": {"size": 36}}, "divide"),
    ],
)
def test_parts_that_do_not_fit_are_refused_in_one_line(tiny_config, changes, named):
    values = tiny_config.model_dump(mode="json")
    for part, update in changes.items():
        values[part] |= update
    import json

    config = ModelConfig.model_validate_json(json.dumps(values))
    with pytest.raises(ConfigError, match=named) as caught:
        build(config)
    assert "\n" not in str(caught.value)


def test_the_plain_clip_design_builds_too(tiny_config, pixels):
    config = tiny_config.model_copy(
        update={"scorer": CosineConfig(), "image": TimmTowerConfig(name="resnet10t", stage=2, freeze=1)}
    )
    model = build(config)
    texts = model.encode_texts(model.tokenizer(SENTENCES))
    assert model.score(texts, model.encode_images(pixels)).logits.shape == (3, 3)
    assert model.grid == (4, 4)


def test_what_the_tower_sees_can_be_remembered(tiny_model, pixels):
    tiny_model.eval()
    padding = torch.zeros(3, 32, 32, dtype=torch.bool)
    padding[0, :, :16] = True
    batch = replace(_batch(tiny_model, pixels), padding=padding)
    seen = tiny_model.image_features(pixels, padding=padding)
    assert seen.patches.shape == (3, 16, tiny_model.image_tower.width)
    assert torch.equal(tiny_model.project(seen).patches, tiny_model.encode_images(pixels, padding=padding).patches)
    remembered = replace(batch, images=pixels[:, :, :0, :0], padding=None, features=seen)
    assert torch.equal(tiny_model(remembered), tiny_model(batch))
    half = replace(remembered, features=replace(seen, pooled=seen.pooled.half(), patches=seen.patches.half()))
    torch.testing.assert_close(tiny_model(half), tiny_model(batch), rtol=1e-2, atol=1e-2)


def test_images_of_another_size_are_taken_where_that_is_asked_for(tiny_config):
    # A CNN takes any size; the grid of what it sees is then that of this size, and so is the padding's.
    tower = TimmTowerConfig(name="resnet10t", stage=2)
    model = build(tiny_config.model_copy(update={"image": tower, "align": AlignConfig(layers=0)})).eval()
    small = torch.randint(0, 256, (2, 1, 16, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    padding = torch.zeros(2, 16, 24, dtype=torch.bool)
    padding[1, :, :8] = True
    with pytest.raises(DataError, match="takes"):
        model.image_features(small)
    seen = model.image_features(small, padding=padding, resized=True)
    assert seen.patches.shape[1] == seen.grid[0] * seen.grid[1] == seen.padding.shape[1] == 6
    assert seen.padding.tolist() == [[False] * 6, [True, False, False] * 2]
