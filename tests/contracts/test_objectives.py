"""What every objective promises.  A new member of the union is checked without being named here."""

from typing import get_args

import pytest
import torch

from vlp.config import dump
from vlp.objectives import AnyObjective

OBJECTIVES = [member() for member in get_args(get_args(AnyObjective)[0])]
pytestmark = pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: objective.kind)


def _logits(scale=1.0, seed=0):
    return torch.randn(6, 6, generator=torch.Generator().manual_seed(seed)) * scale


def test_it_is_one_finite_number_with_a_gradient(objective):
    logits = _logits().requires_grad_()
    loss = objective(logits, torch.eye(6, dtype=torch.int8))
    loss.backward()
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()
    assert logits.grad.abs().max() > 0


def test_order_does_not_matter(objective):
    logits, positives = _logits(), torch.eye(6)
    texts, images = torch.randperm(6), torch.randperm(6)
    permuted = objective(logits[texts][:, images], positives[texts][:, images])
    torch.testing.assert_close(permuted, objective(logits, positives))


def test_better_scores_cost_less(objective):
    logits, positives = _logits(), torch.eye(6)
    worse, better = (objective(logits + step * positives, positives) for step in (0.0, 1.0))
    assert better < worse


def test_gradients_raise_positives_and_lower_negatives(objective):
    logits = _logits().requires_grad_()
    objective(logits, torch.eye(6)).backward()
    positive = torch.eye(6) > 0
    assert (logits.grad[positive] < 0).all()
    assert (logits.grad[~positive] > 0).all()


@pytest.mark.parametrize("scale", [1e-6, 1e4])
def test_extreme_logits_stay_finite(objective, scale):
    logits = _logits(scale).requires_grad_()
    loss = objective(logits, torch.eye(6))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_ignored_pairs_get_no_gradient(objective):
    positives = torch.eye(6, dtype=torch.int8)
    positives[0, 1] = positives[4, 2] = -1
    logits = _logits().requires_grad_()
    objective(logits, positives).backward()
    assert (logits.grad[positives == -1] == 0).all()


def test_it_says_which_positives_it_wants_and_survives_yaml(objective):
    assert isinstance(objective.duplicates_are_positive, bool)
    assert f"kind: {objective.kind}" in dump(objective)
