"""What scorers share: a temperature that moves and stays in bounds, unit vectors, logits in float32."""

import math

import pytest
import torch
from pydantic import ValidationError

from vlp.model.scorers import CosineConfig, SimilarityAttentionConfig, Temperature
from vlp.tensors import ImageFeatures, TextFeatures


def test_a_temperature_starts_where_told_and_follows_its_logarithm():
    temperature = Temperature(0.2)
    assert temperature().item() == pytest.approx(0.2)
    assert temperature.log.dtype == torch.float32


@pytest.mark.parametrize(("wanted", "bound"), [(-50.0, 0.005), (50.0, 1.0)])
def test_a_temperature_is_held_in_bounds_and_can_come_back(wanted, bound):
    temperature = Temperature(0.07)
    with torch.no_grad():
        temperature.log.fill_(wanted)
    value = temperature()
    value.backward()
    assert value.item() == pytest.approx(bound, rel=1e-5)
    assert temperature.log.item() == pytest.approx(math.log(bound), rel=1e-5)
    assert temperature.log.grad.abs() > 0


def test_an_initial_temperature_out_of_bounds_is_refused():
    with pytest.raises(ValidationError, match="temperature"):
        CosineConfig(temperature=0.001)


def test_logits_are_similarity_over_temperature_in_float32_under_autocast():
    scorer = SimilarityAttentionConfig(temperature=0.25).build(dim=8)
    text = TextFeatures(pooled=torch.randn(3, 8).bfloat16())
    image = ImageFeatures(pooled=torch.randn(2, 8).bfloat16(), patches=torch.randn(2, 4, 8).bfloat16(), grid=(2, 2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = scorer(text, image)
    assert scores.similarity.dtype == scores.logits.dtype == torch.float32
    torch.testing.assert_close(scores.logits, scores.similarity / 0.25)


def test_the_layer_norm_is_shared_by_texts_and_patches():
    scorer = SimilarityAttentionConfig(layer_norm=True).build(dim=8)
    with torch.no_grad():
        scorer.norm.weight.zero_()
        scorer.norm.bias.zero_()[3] = 1.0
    text = TextFeatures(pooled=torch.randn(3, 8))
    image = ImageFeatures(pooled=torch.randn(2, 8), patches=torch.randn(2, 4, 8), grid=(2, 2))
    torch.testing.assert_close(scorer(text, image).similarity, torch.ones(3, 2))
    torch.testing.assert_close(scorer.maps(text, image), torch.ones(3, 2, 2, 2))


def test_a_bias_is_added_to_every_logit_and_learned():
    scorer = CosineConfig(temperature=0.1, bias=-10.0).build(dim=8)
    text = TextFeatures(pooled=torch.randn(3, 8))
    image = ImageFeatures(pooled=torch.randn(2, 8), patches=torch.randn(2, 4, 8), grid=(2, 2))
    scores = scorer(text, image)
    torch.testing.assert_close(scores.logits, scores.similarity / 0.1 - 10.0)
    scores.logits.sum().backward()
    assert scorer.bias.grad.item() == 6.0
    assert CosineConfig().build(dim=8).bias is None
