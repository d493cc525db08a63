"""Pairs and logits belong together, or are refused by name."""

import dataclasses

import pytest
import torch

from vlp.objectives.pairs import Pairs, anchor_weights, exact


def _pairs(**changes):
    positives = torch.zeros(3, 2, dtype=torch.int8)
    return dataclasses.replace(Pairs(positives=positives, own=positives == 1), **changes)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("positives", torch.zeros(2, 3, dtype=torch.int8)),
        ("own", torch.zeros(3, 1, dtype=torch.bool)),
        ("hardness", torch.ones(3)),
        ("agreement", torch.ones(1, 2)),
        ("weights", torch.ones(2)),
    ],
)
def test_what_has_another_shape_is_named(name, value):
    with pytest.raises(ValueError, match=f"^{name} "):
        exact(torch.zeros(3, 2), _pairs(**{name: value}))


def test_half_precision_logits_become_float32_and_float64_stays():
    assert exact(torch.zeros(3, 2, dtype=torch.bfloat16), _pairs()).dtype == torch.float32
    assert exact(torch.zeros(3, 2, dtype=torch.float64), _pairs()).dtype == torch.float64
    with pytest.raises(ValueError, match="logits"):
        exact(torch.zeros(3), _pairs())


def test_without_weights_every_text_counts_once():
    z = torch.zeros(3, 2, dtype=torch.float64)
    assert anchor_weights(_pairs(), z).tolist() == [1, 1, 1]
    weights = anchor_weights(_pairs(weights=torch.tensor([1.0, 0.0, 2.0])), z)
    assert weights.tolist() == [1, 0, 2]
    assert weights.dtype == torch.float64
