import pytest
import torch

from vlp.heads import network as network_module
from vlp.heads.decoders import LinearConfig, PyramidConfig
from vlp.heads.encoder import Seen
from vlp.heads.network import SegmentationNetwork
from vlp.tensors import ImageFeatures

IMAGES, GRID, WIDTH, DIM = 3, (4, 5), 16, 8


def features(width: int) -> ImageFeatures:
    return ImageFeatures(
        pooled=torch.randn(IMAGES, width), patches=torch.randn(IMAGES, GRID[0] * GRID[1], width), grid=GRID
    )


@pytest.fixture
def seen() -> Seen:
    torch.manual_seed(1)
    return Seen(tower=features(WIDTH), joint=features(DIM))


def asked(texts: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(2)
    return torch.nn.functional.normalize(torch.randn(texts, DIM), dim=-1), torch.randn(texts, IMAGES, *GRID)


def make(conditioning: str, *, classes: int = 2, scale: int = 2) -> SegmentationNetwork:
    torch.manual_seed(0)
    return SegmentationNetwork(
        PyramidConfig(channels=8, scale=scale),  # type: ignore[arg-type]
        conditioning=conditioning,  # type: ignore[arg-type]
        width=WIDTH,
        dim=DIM,
        num_classes=classes,
    ).eval()


@pytest.mark.parametrize("conditioning", ["class", "text"])
def test_one_mask_per_image_and_text(seen: Seen, conditioning: str) -> None:
    assert make(conditioning)(seen, *asked(2)).shape == (IMAGES, 2, 8, 10)


def test_by_class_it_begins_as_the_zero_shot_map(seen: Seen) -> None:
    network = SegmentationNetwork(LinearConfig(), conditioning="class", width=WIDTH, dim=DIM, num_classes=2)
    texts, maps = asked(2)
    assert torch.allclose(network(seen, texts, maps), -3.0 + 5.0 * maps.transpose(0, 1))


def test_by_text_it_answers_for_any_number_of_texts_each_by_itself(seen: Seen) -> None:
    network = make("text", classes=1)
    texts, maps = asked(5)
    whole = network(seen, texts, maps)
    order = torch.tensor([3, 0, 4, 1, 2])
    assert torch.allclose(network(seen, texts[order], maps[order]), whole[:, order], atol=1e-5)
    assert torch.allclose(network(seen, texts[2:3], maps[2:3]), whole[:, 2:3], atol=1e-5)


def test_by_text_both_the_sentence_and_its_map_are_looked_at(seen: Seen) -> None:
    network = make("text", classes=1)
    texts, maps = asked(1)
    plain = network(seen, texts, maps)
    assert not torch.allclose(network(seen, -texts, maps), plain)
    assert not torch.allclose(network(seen, texts, -maps), plain)


def test_texts_in_several_goes_give_the_same(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    network, (texts, maps) = make("text", classes=1), asked(5)
    whole = network(seen, texts, maps)
    monkeypatch.setattr(network_module, "_CELLS", 1)
    assert torch.allclose(network(seen, texts, maps), whole, atol=1e-6)


def test_both_kinds_of_features_are_looked_at(seen: Seen) -> None:
    network, (texts, maps) = make("text", classes=1), asked(1)
    plain = network(seen, texts, maps)
    for changed in (
        Seen(tower=features(WIDTH), joint=seen.joint),
        Seen(tower=seen.tower, joint=features(DIM)),
    ):
        assert not torch.allclose(network(changed, texts, maps), plain)
