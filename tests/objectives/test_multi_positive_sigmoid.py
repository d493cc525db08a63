"""Against a loop over pairs and torch's binary cross-entropy; what weights and hardness do, and do not."""

import math

import pytest
import torch
from torch.nn import functional

from vlp.objectives import Pairs, multi_positive_sigmoid


def _by_loop(z, positives, weights, hardness):
    """Term by term, in Python numbers."""
    pairs = [(i, j) for i in range(len(z)) for j in range(len(z[0]))]
    positive = [(i, j) for i, j in pairs if positives[i][j] == 1]
    mean = sum(weights[i] for i, _ in positive) / len(positive)
    total = 0.0
    for i, j in pairs:
        yes = 1 / (1 + math.exp(-z[i][j]))
        if positives[i][j] == 1:
            total -= weights[i] / mean * math.log(yes)
        elif positives[i][j] == 0:
            total -= hardness[i][j] * math.log(1 - yes)
    return total / len(z[0])


def _problem(seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(6, 5, generator=generator, dtype=torch.float64) * 2
    positives = torch.randint(-1, 2, (6, 5), generator=generator, dtype=torch.int8)
    positives[2] = 0
    hardness = torch.randint(0, 4, (6, 5), generator=generator).double()
    return logits, positives, torch.tensor([0.5, 2.0, 1.0, 0.0, 1.5, 3.0]), hardness


@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_formula(seed):
    logits, positives, weights, hardness = _problem(seed)
    pairs = Pairs(positives=positives, own=positives > 0, weights=weights, hardness=hardness)
    expected = _by_loop(logits.tolist(), positives.tolist(), weights.tolist(), hardness.tolist())
    assert multi_positive_sigmoid(logits, pairs).item() == pytest.approx(expected, abs=1e-12)


def test_it_is_binary_cross_entropy_per_image():
    logits, positives, *_ = _problem()
    positives = positives.clamp_min(0)
    expected = functional.binary_cross_entropy_with_logits(logits, positives.double(), reduction="sum") / 5
    found = multi_positive_sigmoid(logits, Pairs(positives=positives, own=positives > 0))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("logit", [-60.0, -25.0, 19.0, 25.0, 39.0, 60.0])
def test_far_from_zero_it_is_exact_to_the_last_digit(logit):
    """Shortcuts of log(1 + e^x) that are right in float32 show in float64."""
    nothing = torch.zeros(1, 1, dtype=torch.int8)
    found = multi_positive_sigmoid(torch.tensor([[logit]]).double(), Pairs(positives=nothing, own=nothing > 0))
    assert found.item() == pytest.approx(max(logit, 0.0) + math.log1p(math.exp(-abs(logit))), rel=1e-15)


def test_weights_leave_positives_as_heavy_as_negatives_need_them():
    """All logits equal: moving weight between texts costs nothing, so a bias learns the same prevalence."""
    _, positives, weights, _ = _problem()
    flat = torch.full((6, 5), -1.5)
    plain = multi_positive_sigmoid(flat, Pairs(positives=positives, own=positives > 0))
    weighed = multi_positive_sigmoid(flat, Pairs(positives=positives, own=positives > 0, weights=weights / 7))
    torch.testing.assert_close(weighed, plain)


def test_probabilities_are_those_of_the_data():
    """At the minimum over one constant logit, sigma(z) is the share of positives."""
    positives = torch.tensor([[1, 0, 0, 0], [0, 1, 0, -1]], dtype=torch.int8)
    bias = torch.tensor(2 / 7).logit().requires_grad_()
    multi_positive_sigmoid(bias.expand(2, 4), Pairs(positives=positives, own=positives > 0)).backward()
    assert bias.grad.abs() < 1e-6


def test_pieces_add_up():
    """Exact in chunks: the terms of one image do not know the others."""
    logits, positives, *_ = _problem()
    parts = [
        multi_positive_sigmoid(logits[:, [j]], Pairs(positives=positives[:, [j]], own=positives[:, [j]] > 0))
        for j in range(5)
    ]
    whole = multi_positive_sigmoid(logits, Pairs(positives=positives, own=positives > 0))
    torch.testing.assert_close(whole, torch.stack(parts).mean())
