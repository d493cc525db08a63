import copy

import numpy as np
import pytest
import torch

from vlp.errors import ConfigError
from vlp.heads.encoder import Encoder
from vlp.inference.engine import Engine


@pytest.fixture
def images(engine: Engine) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.integers(0, 256, size=shape).astype(np.uint8) for shape in ((64, 64), (90, 50))]


def test_frozen_it_sees_what_the_engine_sees(engine: Engine, images: list[np.ndarray]) -> None:
    looked = engine.looked(images)
    encoder = Encoder(engine)
    seen = encoder.see(looked.seen)
    assert torch.allclose(seen.joint.patches, looked.features.patches, atol=1e-6)
    assert torch.allclose(seen.tower.pooled, looked.tower, atol=1e-6)
    assert seen.joint.padding is not None
    texts = encoder.texts(["There is edema.", "There is a mass."])
    maps = encoder.maps(texts, seen).numpy()
    features = engine.features(images)[0]
    padding = np.asarray(features.padding).reshape(2, *features.grid)
    expected = engine.maps_of(["There is edema.", "There is a mass."], features)
    assert np.allclose(maps[:, ~padding], expected[:, ~padding], atol=1e-5)
    assert np.allclose(
        encoder.units(texts).numpy(), engine.encode_text(["There is edema.", "There is a mass."]), atol=1e-6
    )


def test_frozen_nothing_of_it_learns(engine: Engine, images: list[np.ndarray]) -> None:
    encoder = Encoder(engine)
    seen = encoder.see(engine.looked(images).seen)
    assert not seen.joint.patches.requires_grad
    assert not encoder.learned()
    assert not list(encoder.parameters())


def test_what_thaws_learns_and_the_engine_stays_as_it_was(engine: Engine, images: list[np.ndarray]) -> None:
    before = copy.deepcopy(engine.model.state_dict())
    encoder = Encoder(engine, thaw=1)
    seen_images = engine.looked(images).seen
    names = set(encoder.learned())
    assert any(name.startswith("image_tower.model.blocks.0") for name in names)
    assert any(name.startswith("image_head") for name in names)
    assert not any("patch_embed" in name or name.startswith(("text", "scorer")) for name in names)
    seen = encoder.see(seen_images)
    (seen.joint.patches.square().sum() + seen.tower.patches.square().sum()).backward()
    torch.optim.SGD(encoder.learned().values(), lr=0.1).step()
    assert not torch.allclose(encoder.see(seen_images).joint.patches, seen.joint.patches)
    assert all(torch.equal(value, before[name]) for name, value in engine.model.state_dict().items())
    assert not any(value.grad is not None for value in engine.model.parameters())


def test_all_thaws_the_stem_too(engine: Engine) -> None:
    assert any("patch_embed" in name for name in Encoder(engine, thaw="all").learned())


def test_learned_weights_travel_to_another_copy(engine: Engine, images: list[np.ndarray]) -> None:
    first, second = Encoder(engine, thaw=1), Encoder(engine, thaw=1)
    with torch.no_grad():
        for value in first.learned().values():
            value.add_(0.05)
    seen_images = engine.looked(images).seen
    assert not torch.equal(first.see(seen_images).joint.patches, second.see(seen_images).joint.patches)
    second.load_learned({name: value.detach() for name, value in first.learned().items()})
    assert torch.equal(first.see(seen_images).joint.patches, second.see(seen_images).joint.patches)


def test_more_blocks_than_there_are_is_one_line(engine: Engine) -> None:
    with pytest.raises(ConfigError, match=r"thaw: the image tower has \d+ blocks"):
        Encoder(engine, thaw=99)
