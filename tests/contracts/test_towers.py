"""What every tower promises.  One example per member of the unions; a member without one fails."""

from typing import get_args

import pytest
import torch

from benchmarks.memory import saved_bytes
from vlp.errors import ConfigError
from vlp.model.adapters import LoraConfig
from vlp.model.towers import (
    AnyImageTower,
    AnyTextTower,
    HuggingFaceImageConfig,
    HuggingFaceTextConfig,
    OpenClipImageConfig,
    OpenClipTextConfig,
    TimmTowerConfig,
)

SIZE = (32, 48)
DINO = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8, "image_size": 32}
BERT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
CLIP_IMAGE = {"layers": 2, "width": 16, "head_width": 8, "patch_size": 8}
CLIP_TEXT = {"layers": 2, "width": 16, "heads": 2}
SENTENCES = ("There is edema.", "There is no pleural effusion of the left lung.", "There may be a hernia.")

IMAGES = {
    TimmTowerConfig: {"name": "vit_tiny_patch16_224", "arguments": {"patch_size": 8, "embed_dim": 16, "depth": 2,
                                                                     "num_heads": 2}},
    HuggingFaceImageConfig: {"random_init": {"model_type": "dinov2"} | DINO},
    OpenClipImageConfig: {"name": "ViT-B-32", "arguments": CLIP_IMAGE},
}  # fmt: skip
TEXTS = {
    HuggingFaceTextConfig: {"random_init": {"model_type": "bert"} | BERT},
    OpenClipTextConfig: {"name": "ViT-B-32", "arguments": CLIP_TEXT},
}


def test_every_member_has_an_example():
    assert set(get_args(get_args(AnyImageTower)[0])) == set(IMAGES)
    assert set(get_args(get_args(AnyTextTower)[0])) == set(TEXTS)


def _build(kind, *, saved=None, **options):
    torch.manual_seed(0)
    if kind in IMAGES:
        return kind(**IMAGES[kind], **options).build(size=SIZE, channels=3, saved=saved)
    return kind(**TEXTS[kind], **options).build(saved=saved)


def _output(tower):
    if hasattr(tower, "tokenizer"):
        return tower(tower.tokenizer(SENTENCES))
    return tower(torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(0))).patches


both = pytest.mark.parametrize("kind", [*IMAGES, *TEXTS], ids=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", IMAGES, ids=lambda kind: kind.__name__)
def test_patches_fill_the_grid(kind):
    tower = _build(kind)
    features = tower(torch.rand(2, 3, *SIZE))
    rows, columns = features.grid
    assert tower.grid == features.grid == (4, 6)
    assert features.patches.shape == (2, rows * columns, tower.width)
    assert features.pooled.shape == (2, tower.width)


@pytest.mark.parametrize("kind", TEXTS, ids=lambda kind: kind.__name__)
def test_a_text_is_one_vector_whatever_stands_beside_it(kind):
    tower = _build(kind).eval()
    together = _output(tower)
    assert together.shape == (3, tower.width)
    torch.testing.assert_close(together[:1], tower(tower.tokenizer(SENTENCES[:1])))


@both
@pytest.mark.parametrize("freeze", ["none", 1, "all"])
def test_what_is_frozen_gets_no_gradient_and_the_rest_does(kind, freeze):
    tower = _build(kind, freeze=freeze).train()
    output = _output(tower)
    learning = [parameter for parameter in tower.parameters() if parameter.requires_grad]
    assert output.requires_grad == bool(learning) == (freeze != "all")
    if learning:
        output.sum().backward()
    assert all((parameter.grad is not None) == parameter.requires_grad for parameter in tower.parameters())


@both
def test_freezing_more_leaves_less(kind):
    counts = [sum(p.requires_grad for p in _build(kind, freeze=how).parameters()) for how in ("none", 1, 2, "all")]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[1] > counts[2] >= counts[3] == 0


@both
def test_every_parameter_is_in_one_layer_and_every_block_above_the_stem(kind):
    tower = _build(kind)
    layers = [[id(parameter) for parameter in layer] for layer in tower.layers()]
    named = [id(parameter) for parameter in tower.parameters()]
    assert sorted(each for layer in layers for each in layer) == sorted(named)
    depths = [{index for index, layer in enumerate(layers) if id(parameter) in layer}
              for block in tower.blocks() for parameter in block.parameters()]  # fmt: skip
    assert {min(depth) for depth in depths} == set(range(1, len(layers)))


@both
def test_recomputed_blocks_keep_less_and_give_the_same_gradients(kind):
    kept, gradients = [], []
    for recomputed in (False, True):
        tower = _build(kind).train()
        tower.set_checkpointing(recomputed)
        kept.append(saved_bytes(lambda: _output(tower)))  # noqa: B023
        torch.manual_seed(1)
        _output(tower).square().sum().backward()
        gradients.append({name: value.grad for name, value in tower.named_parameters() if value.requires_grad})
    assert kept[1] < 0.6 * kept[0]
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(value, gradients[1][name]) for name, value in gradients[0].items())
    tower.set_checkpointing(False)
    assert saved_bytes(lambda: _output(tower)) == kept[0]


@pytest.mark.parametrize("kind", IMAGES, ids=lambda kind: kind.__name__)
def test_images_of_another_size_have_a_grid_of_their_own(kind):
    tower = _build(kind)
    for size, grid in (((16, 24), (2, 3)), ((40, 56), (5, 7)), (SIZE, (4, 6))):
        features = tower(torch.rand(2, 3, *size))
        assert tower.grid_at(size) == features.grid == grid
        assert features.patches.shape == (2, grid[0] * grid[1], tower.width)
        features.patches.sum().backward()
    assert tower.grid == (4, 6)
    assert all(parameter.grad is not None for parameter in tower.parameters() if parameter.requires_grad)
    with pytest.raises(ConfigError, match="patches of 8 px do not divide 20 x 24 px"):
        tower.grid_at((20, 24))


@both
def test_adapters_learn_alone_and_begin_as_nothing(kind):
    tower, plain = _build(kind, lora=LoraConfig(rank=2)).eval(), _build(kind).eval()
    torch.testing.assert_close(_output(tower), _output(plain))
    _output(tower.train()).square().sum().backward()
    learning = {name for name, value in tower.named_parameters() if value.requires_grad}
    assert learning == {name for name, value in tower.named_parameters() if value.grad is not None}
    assert learning
    assert all("lora_" in name for name in learning)
    members = {id(value) for layer in tower.layers() for value in layer}
    assert all(id(tower.get_parameter(name)) in members for name in learning)


@both
def test_saved_and_built_again_it_is_the_same(kind, tmp_path):
    tower = _build(kind).eval()
    tower.save_design(tmp_path)
    if hasattr(tower, "tokenizer"):
        tower.tokenizer.save(tmp_path / "tokenizer")
    again = _build(kind, saved=tmp_path).eval()
    again.load_state_dict(tower.state_dict())
    assert torch.equal(_output(again), _output(tower))
