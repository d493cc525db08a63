"""open_clip's towers give what open_clip itself gives, patches beside it."""

import open_clip
import pytest
import torch
from pydantic import ValidationError

from vlp.errors import BackendError, ConfigError
from vlp.model.towers import OpenClipImageConfig, OpenClipTextConfig

VIT = {"layers": 2, "width": 16, "head_width": 8, "patch_size": 8}
RESNET = {"layers": [1, 1, 1, 1], "width": 8}
TEXT = {"layers": 2, "width": 16, "heads": 2}
SENTENCES = ["There is no pneumothorax.", "T/NG-tube's tip; 3 cm above the carina, café"]


def _clip(image_size=32):
    torch.manual_seed(1)
    design = open_clip.get_model_config("ViT-B-32")
    return open_clip.CLIP(
        design["embed_dim"], design["vision_cfg"] | VIT | {"image_size": image_size}, design["text_cfg"] | TEXT
    ).eval()


def _image(size=(32, 32), name="ViT-B-32", arguments=VIT, **options):
    torch.manual_seed(0)
    config = OpenClipImageConfig(name=name, arguments=arguments, **options)
    return config.build(size=size, channels=3, saved=None).eval()


def test_the_class_token_is_clips_image_vector(tmp_path):
    clip = _clip()
    torch.save(clip.state_dict(), tmp_path / "clip.pt")
    tower = _image(weights=tmp_path / "clip.pt", pooled="cls")
    images = torch.rand(2, 3, 32, 32)
    features = tower(images)
    torch.testing.assert_close(features.pooled, clip.encode_image(images))
    assert features.patches.shape == (2, 16, 512)
    assert features.grid == (4, 4)


def test_position_embeddings_are_brought_to_another_size(tmp_path):
    torch.save(_clip(image_size=64).state_dict(), tmp_path / "clip.pt")
    tower = _image(size=(32, 48), weights=tmp_path / "clip.pt")
    assert tower(torch.rand(1, 3, 32, 48)).patches.shape == (1, 24, 512)


@pytest.mark.parametrize("side", [16, 48])
def test_an_image_of_another_size_is_seen_as_by_a_tower_made_for_it(side, tmp_path):
    """open_clip resizes position embeddings when it loads them; ours are resized when an image asks for it."""
    clip = _clip()
    torch.save(clip.state_dict(), tmp_path / "clip.pt")
    tower = _image(weights=tmp_path / "clip.pt")
    made_for_it = _image(size=(side, side), weights=tmp_path / "clip.pt")
    images = torch.rand(2, 3, side, side)
    features = tower(images)
    torch.testing.assert_close(features.patches, made_for_it(images).patches)
    assert features.grid == made_for_it.grid
    features.patches.square().sum().backward()
    assert tower.visual.positional_embedding.grad.abs().sum() > 0


def test_texts_and_tokens_are_clips_own(tmp_path):
    clip = _clip()
    torch.save(clip.state_dict(), tmp_path / "clip.pt")
    config = OpenClipTextConfig(name="ViT-B-32", arguments=TEXT, weights=tmp_path / "clip.pt")
    tower = config.build(saved=None).eval()
    ids = open_clip.SimpleTokenizer()(SENTENCES)
    tokens = tower.tokenizer(SENTENCES)
    assert torch.equal(tokens.ids.masked_fill(~tokens.mask, 0), ids[:, : tokens.ids.shape[1]])
    torch.testing.assert_close(tower(tokens), clip.encode_text(ids))


def test_a_resnet_gives_its_last_feature_map():
    tower = _image(size=(64, 96), name="RN50", arguments=RESNET, freeze=1)
    features = tower(torch.rand(2, 3, 64, 96))
    assert features.grid == (2, 3)
    assert features.patches.shape == (2, 6, 256)
    features.pooled.sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in tower.parameters())


@pytest.mark.parametrize("freeze", ["none", 1])
def test_everything_that_learns_gets_a_gradient(freeze):
    tower = _image(freeze=freeze)
    tower(torch.rand(2, 3, 32, 32)).patches.sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in tower.parameters())


def test_what_cannot_be_is_one_line(tmp_path):
    gray = OpenClipImageConfig(name="ViT-B-32", arguments=VIT)
    with pytest.raises(ConfigError, match="three channels"):
        gray.build(size=(32, 32), channels=1, saved=None)
    with pytest.raises(ConfigError, match="cannot build"):
        _image(arguments={"wings": 2})
    with pytest.raises(ConfigError, match="do not divide"):
        _image(size=(36, 36))
    with pytest.raises(BackendError, match="no such weight file"):
        _image(weights=tmp_path / "gone.pt")
    with pytest.raises(ValidationError, match="open_clip has no model"):
        OpenClipTextConfig(name="ViT-B-33")
