"""The similarity attention scorer: its two temperatures, its global token, its padding, its embedding."""

import pytest
import torch
from torch.nn import functional

from vlp.kernels import similarity_attention
from vlp.model.scorers import SimilarityAttentionConfig
from vlp.tensors import ImageFeatures, TextFeatures


def _features(padding=None):
    generator = torch.Generator().manual_seed(0)
    text = TextFeatures(pooled=torch.randn(4, 8, generator=generator))
    patches = torch.randn(3, 6, 8, generator=generator)
    pooled = torch.randn(3, 8, generator=generator)
    return text, ImageFeatures(pooled=pooled, patches=patches, grid=(2, 3), padding=padding)


def _unit(vectors):
    return functional.normalize(functional.layer_norm(vectors, (8,)), dim=-1)


@pytest.mark.parametrize("implementation", ["auto", "reference", "chunked"])
def test_it_is_the_kernel_on_normed_unit_vectors(implementation):
    text, image = _features()
    scorer = SimilarityAttentionConfig(attention_temperature=0.3, implementation=implementation).build(dim=8)
    expected = similarity_attention(
        _unit(text.pooled), _unit(image.patches), tau_attention=0.3, implementation="reference"
    )
    torch.testing.assert_close(scorer(text, image).similarity, expected)


def test_one_optimiser_step_moves_both_temperatures():
    """Kept in half precision, as published, they would stand still (a step is below half their last digit)."""
    text, image = _features()
    scorer = SimilarityAttentionConfig().build(dim=8)
    optimizer = torch.optim.AdamW(scorer.parameters(), lr=1e-4)
    before = scorer.temperature().item(), scorer.attention_temperature().item()
    functional.cross_entropy(scorer(text, image).logits, torch.tensor([0, 1, 2, 0])).backward()
    optimizer.step()
    assert scorer.temperature().item() != before[0]
    assert scorer.attention_temperature().item() != before[1]


def test_a_shared_temperature_is_one_parameter_with_both_gradients():
    text, image = _features()
    shared = SimilarityAttentionConfig(attention_temperature="shared").build(dim=8)
    apart = SimilarityAttentionConfig(attention_temperature=0.07).build(dim=8)
    assert sum("log" in name for name, _ in shared.named_parameters()) == 1
    for scorer in (shared, apart):
        scorer(text, image).logits.square().sum().backward()
    torch.testing.assert_close(
        shared.temperature.log.grad, apart.temperature.log.grad + apart.attention_temperature.log.grad
    )


def test_the_global_token_is_one_more_patch_but_not_in_the_map():
    text, image = _features()
    scorer = SimilarityAttentionConfig(global_token=True).build(dim=8)
    more = torch.cat((image.pooled[:, None], image.patches), dim=1)
    expected = similarity_attention(_unit(text.pooled), _unit(more), tau_attention=0.07, implementation="reference")
    torch.testing.assert_close(scorer(text, image).similarity, expected)
    assert scorer.maps(text, image).shape == (4, 3, 2, 3)


@pytest.mark.parametrize("global_token", [True, False])
def test_padding_changes_nothing(global_token):
    padding = torch.zeros(3, 6, dtype=torch.bool)
    padding[1, 3:] = True
    text, image = _features(padding)
    scorer = SimilarityAttentionConfig(global_token=global_token).build(dim=8)
    changed = ImageFeatures(
        pooled=image.pooled,
        patches=image.patches.masked_fill(padding[..., None], 7.0),
        grid=image.grid,
        padding=padding,
    )
    assert torch.equal(scorer(text, changed).similarity, scorer(text, image).similarity)
    assert torch.equal(scorer.embed_images(changed), scorer.embed_images(image))


def test_the_embedding_is_what_attention_everywhere_compares_with():
    text, image = _features()
    scorer = SimilarityAttentionConfig(attention_temperature=1.0).build(dim=8)
    with torch.no_grad():
        scorer.attention_temperature.log.fill_(20.0)
    scorer.eval()
    torch.testing.assert_close(
        scorer(text, image).similarity, scorer.embed_texts(text) @ scorer.embed_images(image).T, atol=1e-5, rtol=0
    )
