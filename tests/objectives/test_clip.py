"""Plain CLIP: cross-entropy against a permutation, duplicates as negatives, and nothing else accepted."""

import pytest
import torch
from torch.nn import functional

from vlp.errors import ConfigError
from vlp.objectives import ClipConfig, clip


def test_it_is_symmetric_cross_entropy_of_a_permutation():
    logits = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    owner = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    positives = functional.one_hot(owner, 6)
    rows = functional.cross_entropy(logits, owner)
    columns = functional.cross_entropy(logits.T, owner.argsort())
    torch.testing.assert_close(clip(logits, positives), (rows + columns) / 2)


def test_identical_sentences_are_negatives_of_each_other():
    loss = clip(torch.zeros(4, 4), torch.eye(4))
    assert loss.item() == pytest.approx(torch.tensor(4.0).log().item())
    assert ClipConfig().duplicates_are_positive is False


@pytest.mark.parametrize(
    "positives",
    [torch.ones(2, 2), torch.tensor([[1, 0], [1, 0]]), torch.tensor([[1, 0, 0], [0, 1, 0]]), torch.zeros(2, 2)],
)
def test_other_than_one_to_one_is_refused_with_the_way_out(positives):
    with pytest.raises(ConfigError, match="sentences_per_study=1"):
        clip(torch.zeros(positives.shape), positives)
