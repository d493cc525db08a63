import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from vlp.heads.decoders import AnyDecoder, LinearConfig, PyramidConfig


@pytest.mark.parametrize("scale", [1, 2, 4])
@pytest.mark.parametrize("grid", [(8, 8), (5, 7), (3, 2)])
def test_a_pyramid_makes_a_grid_so_many_times_as_fine(scale: int, grid: tuple[int, int]) -> None:
    decoder = PyramidConfig(channels=8, scale=scale).build(width=12)
    made = decoder(torch.randn(2, 12, *grid))
    assert made.shape == (2, 8, scale * grid[0], scale * grid[1])
    assert (decoder.channels, decoder.scale) == (8, scale)


def test_a_linear_decoder_leaves_the_patches_alone() -> None:
    patches = torch.randn(2, 12, 4, 4)
    decoder = LinearConfig().build(width=12)
    assert torch.equal(decoder(patches), patches)
    assert (decoder.channels, decoder.scale) == (12, 1)


def test_every_weight_of_a_pyramid_is_used() -> None:
    decoder = PyramidConfig(channels=8).build(width=12)
    decoder(torch.randn(2, 12, 8, 8)).square().sum().backward()
    assert not [name for name, value in decoder.named_parameters() if value.grad is None or not value.grad.any()]


def test_a_pyramid_knows_where_it_is() -> None:
    torch.manual_seed(0)
    made = PyramidConfig(channels=8).build(width=12).eval()(torch.zeros(1, 12, 16, 16))[0]
    inside = made[:, 10:-10, 10:-10]  # far from the borders, whose padding a convolution also sees
    assert (inside[:, 0] - inside[:, -1]).abs().max() > 1e-3
    assert (inside[:, :, 0] - inside[:, :, -1]).abs().max() > 1e-3


def test_a_pyramid_knows_what_the_whole_image_is_like() -> None:
    torch.manual_seed(0)
    decoder = PyramidConfig(channels=8, scale=1).build(width=12).eval()
    patches = torch.randn(1, 12, 32, 32)
    changed = patches.clone()
    changed[:, :, -1, -1] += 50.0
    difference = (decoder(patches) - decoder(changed)).abs().amax(dim=1)[0]
    assert difference[0, 0] > 1e-4


def test_dropout_is_for_training_only() -> None:
    decoder = PyramidConfig(channels=8, dropout=0.5).build(width=12)
    patches = torch.randn(1, 12, 8, 8)
    assert not torch.equal(decoder(patches), decoder(patches))
    decoder.eval()
    assert torch.equal(decoder(patches), decoder(patches))


def test_configurations_are_told_apart_by_their_kind() -> None:
    adapter: TypeAdapter[AnyDecoder] = TypeAdapter(AnyDecoder)
    assert adapter.validate_python({"kind": "linear"}) == LinearConfig()
    assert adapter.validate_python({"kind": "pyramid", "channels": 16}) == PyramidConfig(channels=16)
    for wrong in ({"kind": "pyramid", "channels": 12}, {"kind": "pyramid", "scale": 3}, {"kind": "none"}):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)
