import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlp.heads.loss import mask_loss


def by_loops(
    logits: torch.Tensor, truth: torch.Tensor, known: torch.Tensor, valid: torch.Tensor
) -> tuple[float, float]:
    crosses, lost = [], []
    for image in range(logits.shape[0]):
        for column in range(logits.shape[1]):
            if not known[image, column]:
                continue
            cross = weight = shared = predicted = true = 0.0
            for row in range(logits.shape[2]):
                for place in range(logits.shape[3]):
                    p = 1.0 / (1.0 + math.exp(-float(logits[image, column, row, place])))
                    t, v = float(truth[image, column, row, place]), float(valid[image, row, place])
                    cross -= v * (t * math.log(p) + (1.0 - t) * math.log(1.0 - p))
                    weight += v
                    shared += v * p * t
                    predicted += v * p
                    true += v * t
            crosses.append(cross / max(weight, 1.0))
            if truth[image, column].sum() > 0:
                lost.append(1.0 - (2.0 * shared + 1.0) / (predicted + true + 1.0))
    return sum(crosses) / max(len(crosses), 1), sum(lost) / max(len(lost), 1)


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_both_terms_are_what_loops_give(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, 4, 5, generator=generator)
    truth = torch.rand(2, 3, 4, 5, generator=generator) * (torch.rand(2, 3, 1, 1, generator=generator) > 0.5)
    known = torch.rand(2, 3, generator=generator) > 0.3
    valid = (torch.rand(2, 4, 5, generator=generator) > 0.2).float()
    found = mask_loss(logits, truth, known, valid)
    assert (float(found.cross_entropy), float(found.dice)) == pytest.approx(
        by_loops(logits, truth, known, valid), abs=1e-5
    )


def test_what_is_not_known_and_what_is_padding_teaches_nothing() -> None:
    logits = torch.randn(1, 2, 3, 3, requires_grad=True)
    truth, valid = torch.ones(1, 2, 3, 3), torch.ones(1, 3, 3)
    valid[0, 0] = 0.0
    loss = mask_loss(logits, truth, torch.tensor([[True, False]]), valid)
    (loss.cross_entropy + loss.dice).backward()
    assert logits.grad is not None
    assert not logits.grad[0, 1].any()
    assert not logits.grad[0, 0, 0].any()
    assert logits.grad[0, 0, 1:].all()


def test_perfect_masks_cost_nothing_and_nothing_known_costs_nothing() -> None:
    truth = torch.zeros(1, 1, 4, 4)
    truth[..., :2] = 1.0
    perfect = mask_loss((truth - 0.5) * 60.0, truth, torch.tensor([[True]]), torch.ones(1, 4, 4))
    assert float(perfect.cross_entropy) < 1e-6
    assert abs(float(perfect.dice)) < 1e-6
    none = mask_loss(torch.randn(1, 1, 4, 4), truth, torch.tensor([[False]]), torch.ones(1, 4, 4))
    assert (float(none.cross_entropy), float(none.dice)) == (0.0, 0.0)
