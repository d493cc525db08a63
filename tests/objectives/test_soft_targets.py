"""Against torch's cross-entropy with soft targets, a loop with ignored pairs, and the limits of the temperature."""

import math

import pytest
import torch
from torch.nn import functional

from vlp.config import validate
from vlp.errors import ConfigError
from vlp.objectives import Pairs, SoftTargetsConfig, multi_positive_nce, soft_targets


def _problem(seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(6, 5, generator=generator, dtype=torch.float64) * 3
    agreement = torch.rand(6, 5, generator=generator, dtype=torch.float64) * 2 - 1
    positives = torch.randint(-1, 2, (6, 5), generator=generator, dtype=torch.int8)
    own = (torch.rand(6, 5, generator=generator) > 0.8) & (positives > 0)
    positives[4] = -1
    positives[:, 2] = -1
    return logits, Pairs(positives=positives, own=own & (positives > 0), agreement=agreement)


def _by_loop(logits, pairs, temperature, weights):
    """Line by line; a line is a list of (logit, agreement, weight)."""
    z, a, p, own = (x.tolist() for x in (logits, pairs.agreement, pairs.positives, pairs.own))
    cell = {
        (i, j): (z[i][j], max(a[i][j], 1.0) if own[i][j] else a[i][j], weights[i])
        for i in range(len(z)) for j in range(len(z[0])) if p[i][j] != -1
    }  # fmt: skip

    def mean(lines):
        total = mass = 0.0
        for line in filter(None, lines):
            scores, wanted = (sum(math.exp(each) for each in side) for side in (
                [score for score, _, _ in line], [agreed / temperature for _, agreed, _ in line]))  # fmt: skip
            for score, agreed, weight in line:
                target = math.exp(agreed / temperature) / wanted
                total -= weight * target * math.log(math.exp(score) / scores)
                mass += weight * target
        return total / mass

    rows = [[cell[i, j] for j in range(len(z[0])) if (i, j) in cell] for i in range(len(z))]
    columns = [[cell[i, j] for i in range(len(z)) if (i, j) in cell] for j in range(len(z[0]))]
    return (mean(rows) + mean(columns)) / 2


@pytest.mark.parametrize("weights", [[1.0] * 6, [0.5, 2.0, 1.0, 0.0, 1.5, 3.0]], ids=["equal", "weighed"])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_formula(seed, weights):
    logits, pairs = _problem(seed)
    given = Pairs(positives=pairs.positives, own=pairs.own, agreement=pairs.agreement, weights=torch.tensor(weights))
    expected = _by_loop(logits, pairs, 0.3, weights)
    assert soft_targets(logits, given, temperature=0.3).item() == pytest.approx(expected, abs=1e-12)


def test_it_is_cross_entropy_with_soft_targets():
    logits, pairs = _problem()
    nothing = torch.zeros(6, 5, dtype=torch.int8)
    found = soft_targets(logits, Pairs(positives=nothing, own=nothing > 0, agreement=pairs.agreement), temperature=1.0)
    rows = functional.cross_entropy(logits, pairs.agreement.softmax(1))
    columns = functional.cross_entropy(logits.T, pairs.agreement.T.softmax(1))
    torch.testing.assert_close(found, (rows + columns) / 2, rtol=1e-12, atol=0)


def test_own_pairs_agree_and_others_may_disagree():
    """Where labels say nothing of a study's own report, or the opposite, ownership stands."""
    own = torch.eye(3) > 0
    silent = Pairs(positives=own.to(torch.int8), own=own, agreement=torch.full((3, 3), -1.0))
    said = Pairs(positives=own.to(torch.int8), own=~own & own, agreement=torch.eye(3) * 2 - 1)
    logits = torch.randn(3, 3)
    torch.testing.assert_close(
        soft_targets(logits, silent, temperature=0.5), soft_targets(logits, said, temperature=0.5)
    )


def test_a_low_temperature_is_supcon():
    positives = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 1, 0]], dtype=torch.int8)
    pairs = Pairs(positives=positives, own=positives > 0, agreement=positives * 2.0 - 1, weights=torch.rand(4))
    logits = torch.randn(4, 3)
    torch.testing.assert_close(
        soft_targets(logits, pairs, temperature=0.005), multi_positive_nce(logits, pairs, mode="supcon")
    )


def test_its_floor_is_the_entropy_of_the_targets():
    """No logits do better than the targets' own, where one side's targets can be met exactly."""
    agreement = torch.tensor([[0.4, -0.2, 0.9]], dtype=torch.float64)
    pairs = Pairs(positives=torch.zeros(1, 3, dtype=torch.int8), own=torch.zeros(1, 3) > 0, agreement=agreement)
    target = (agreement / 0.5).softmax(1)
    logits = (agreement / 0.5).requires_grad_()
    loss = soft_targets(logits, pairs, temperature=0.5)
    loss.backward()
    assert loss.item() == pytest.approx(-(target * target.log()).sum().item() / 2, abs=1e-12)
    assert logits.grad.abs().max() < 1e-12


def test_without_agreement_it_says_what_to_do():
    own = torch.eye(2) > 0
    with pytest.raises(ConfigError, match="multi_positive_nce"):
        soft_targets(torch.zeros(2, 2), Pairs(positives=own.to(torch.int8), own=own), temperature=0.1)


def test_a_temperature_is_positive():
    with pytest.raises(ConfigError, match="temperature"):
        validate(SoftTargetsConfig, {"temperature": 0.0}, where="run.yaml")
