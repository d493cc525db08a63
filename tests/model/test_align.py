"""Align layers: shapes, the global token, and padding that nobody attends to."""

import pytest
import torch

from benchmarks.memory import saved_bytes
from vlp.errors import ConfigError
from vlp.model.align import Align, AlignConfig, mean_of_patches
from vlp.tensors import ImageFeatures


def _features(padding=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return ImageFeatures(
        pooled=torch.randn(2, 8, generator=generator),
        patches=torch.randn(2, 6, 8, generator=generator),
        grid=(2, 3),
        padding=padding,
    )


def _align(**options):
    torch.manual_seed(0)
    return Align(AlignConfig(**({"layers": 2, "heads": 2} | options)), width=8)


def test_no_layers_change_nothing():
    features = _features()
    assert _align(layers=0)(features) is features


@pytest.mark.parametrize("global_token", [True, False])
def test_patches_and_pooled_learn_from_each_other(global_token):
    align = _align(global_token=global_token)
    features = _features()
    features.patches.requires_grad_()
    aligned = align(features)
    assert aligned.patches.shape == (2, 6, 8)
    assert aligned.grid == (2, 3)
    (gradient,) = torch.autograd.grad(aligned.patches[0, 0].sum(), features.patches, retain_graph=True)
    assert (gradient[0].abs().sum(dim=-1) > 0).all()
    assert (gradient[1] == 0).all()
    if not global_token:
        torch.testing.assert_close(aligned.pooled, aligned.patches.mean(dim=1))


@pytest.mark.parametrize("global_token", [True, False])
def test_padding_is_attended_to_by_none(global_token):
    padding = torch.zeros(2, 6, dtype=torch.bool)
    padding[0, 4:] = True
    align = _align(global_token=global_token)
    plain = _features(padding)
    wild = ImageFeatures(
        pooled=plain.pooled,
        patches=plain.patches.masked_fill(padding[..., None], 100.0),
        grid=plain.grid,
        padding=padding,
    )
    torch.testing.assert_close(align(wild).pooled, align(plain).pooled)
    torch.testing.assert_close(align(wild).patches[~padding], align(plain).patches[~padding])


def test_a_block_is_pre_norm_attention_and_mlp():
    """torch's own encoder layer with the same numbers gives the same answer."""
    align = _align(layers=1, global_token=False)
    block = align.blocks[0]
    layer = torch.nn.TransformerEncoderLayer(
        8, 2, dim_feedforward=32, dropout=0.0, activation="gelu", norm_first=True, batch_first=True, layer_norm_eps=1e-6
    )
    with torch.no_grad():
        layer.self_attn.in_proj_weight.copy_(block.query_key_value.weight)
        layer.self_attn.out_proj.weight.copy_(block.output.weight)
        layer.linear1.weight.copy_(block.mlp[0].weight)
        layer.linear2.weight.copy_(block.mlp[2].weight)
        for bias in (
            layer.self_attn.in_proj_bias,
            layer.self_attn.out_proj.bias,
            layer.linear1.bias,
            layer.linear2.bias,
        ):
            bias.zero_()
    torch.testing.assert_close(align(_features()).patches, layer(_features().patches))


def test_a_small_scale_is_almost_nothing():
    features = _features()
    torch.testing.assert_close(_align(layer_scale=1e-9)(features).patches, features.patches)


def test_recomputed_blocks_keep_less_and_give_the_same_gradients():
    kept, gradients = [], []
    for recomputed in (False, True):
        align = _align(layers=3)
        align.set_checkpointing(recomputed)
        kept.append(saved_bytes(lambda: align(_features()).patches))  # noqa: B023
        align(_features()).patches.square().sum().backward()
        gradients.append([value.grad for value in align.parameters()])
    assert kept[1] < 0.6 * kept[0]
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_any_grid_will_do():
    align = _align()
    small = ImageFeatures(pooled=torch.randn(2, 8), patches=torch.randn(2, 2, 8), grid=(1, 2))
    aligned = align(small)
    assert aligned.grid == (1, 2)
    assert aligned.patches.shape == (2, 2, 8)


def test_mean_of_patches_leaves_padding_out():
    padding = torch.tensor([[False, True, False], [True, True, True]])
    patches = torch.tensor([[[1.0], [9.0], [3.0]], [[5.0], [5.0], [5.0]]])
    assert mean_of_patches(patches, padding).tolist() == [[2.0], [0.0]]


def test_heads_must_divide_the_width():
    with pytest.raises(ConfigError, match="heads=3"):
        _align(heads=3)
