"""Plain CLIP: cross-entropy against a permutation, open_clip's own loss, and nothing but one to one accepted."""

import math

import pytest
import torch
from torch.nn import functional

from vlp.errors import ConfigError
from vlp.objectives import Pairs, clip


def _pairs(own, **others):
    return Pairs(positives=own.to(torch.int8), own=own > 0, **others)


def test_it_is_symmetric_cross_entropy_of_a_permutation():
    logits = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    owner = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    rows = functional.cross_entropy(logits, owner)
    columns = functional.cross_entropy(logits.T, owner.argsort())
    torch.testing.assert_close(clip(logits, _pairs(functional.one_hot(owner, 6))), (rows + columns) / 2)


def test_it_is_open_clips_loss_with_its_gradients():
    loss = pytest.importorskip("open_clip.loss", reason="open_clip is an optional dependency")
    generator = torch.Generator().manual_seed(2)
    images, texts = (
        functional.normalize(torch.randn(8, 16, generator=generator, dtype=torch.float64)).requires_grad_()
        for _ in range(2)
    )
    theirs = loss.ClipLoss()(images, texts, logit_scale=20.0)
    ours = clip(20.0 * texts @ images.T, _pairs(torch.eye(8)))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    for mine, other in zip(*(torch.autograd.grad(value, (images, texts)) for value in (ours, theirs)), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-14)


def test_what_else_is_true_does_not_matter():
    """Identical sentences are negatives of each other: floor log n, which the other objectives avoid."""
    pairs = Pairs(positives=torch.ones(4, 4, dtype=torch.int8), own=torch.eye(4) > 0, hardness=torch.full((4, 4), 9.0))
    assert clip(torch.zeros(4, 4), pairs).item() == pytest.approx(math.log(4))


def test_a_text_that_counts_nothing_is_one_more_negative():
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(3))
    weights = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0])
    own = torch.arange(3)
    expected = (functional.cross_entropy(logits[:3], own) + functional.cross_entropy(logits.T, own)) / 2
    torch.testing.assert_close(clip(logits, _pairs(torch.eye(5, 3), weights=weights)), expected)


@pytest.mark.parametrize(
    "own",
    [
        torch.ones(2, 2),
        torch.tensor([[1, 0], [1, 0]]),
        torch.tensor([[1, 0, 0], [0, 1, 0]]),
        torch.tensor([[1, 0], [0, 1], [0, 0]]),
        torch.zeros(2, 2),
    ],
)
def test_other_than_one_to_one_is_refused_with_the_way_out(own):
    with pytest.raises(ConfigError, match="sentences_per_study=1"):
        clip(torch.zeros(own.shape), _pairs(own))


def test_a_text_that_counts_nothing_has_no_image():
    with pytest.raises(ConfigError, match="one text with one image"):
        clip(torch.zeros(2, 2), _pairs(torch.eye(2), weights=torch.tensor([1.0, 0.0])))


def test_where_the_verdict_cannot_be_awaited_the_loss_is_not_a_number():
    """In a compiled graph, as on a GPU, nothing is read back; a wrong batch is still never trained on quietly."""
    compiled = torch.compile(
        lambda logits, positives, own: clip(logits, Pairs(positives=positives, own=own)),
        backend="eager",
        fullgraph=True,
    )
    logits, eye = torch.randn(3, 3), torch.eye(3)
    torch.testing.assert_close(compiled(logits, eye.to(torch.int8), eye > 0), clip(logits, _pairs(eye)))
    assert compiled(logits, eye.to(torch.int8), torch.ones(3, 3) > 0).isnan()
