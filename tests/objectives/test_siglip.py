"""SigLIP's loss against open_clip's, and what it does not look at."""

import pytest
import torch
from torch.nn import functional

from vlp.objectives import Pairs, multi_positive_sigmoid, siglip


def test_it_is_open_clips_loss_with_its_gradients():
    loss = pytest.importorskip("open_clip.loss", reason="open_clip is an optional dependency")
    generator = torch.Generator().manual_seed(0)
    images, texts = (
        functional.normalize(torch.randn(8, 16, generator=generator, dtype=torch.float64)).requires_grad_()
        for _ in range(2)
    )
    scale, bias = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (10.0, -10.0))
    theirs = loss.SigLipLoss()(images, texts, logit_scale=scale, logit_bias=bias)
    own = torch.eye(8) > 0
    ours = siglip(scale * texts @ images.T + bias, Pairs(positives=own.to(torch.int8), own=own))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    learned = (images, texts, scale, bias)
    for mine, other in zip(*(torch.autograd.grad(value, learned) for value in (ours, theirs)), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-14)


def test_many_texts_of_an_image_are_all_positive_and_nothing_else_is():
    logits = torch.randn(5, 2, generator=torch.Generator().manual_seed(1))
    own = torch.tensor([[1, 0], [1, 0], [1, 0], [0, 1], [0, 1]]) > 0
    pairs = Pairs(positives=torch.full((5, 2), -1, dtype=torch.int8), own=own, hardness=torch.full((5, 2), 7.0))
    expected = functional.binary_cross_entropy_with_logits(logits, own.float(), reduction="sum") / 2
    torch.testing.assert_close(siglip(logits, pairs), expected)
    plain = Pairs(positives=own.to(torch.int8), own=own)
    torch.testing.assert_close(multi_positive_sigmoid(logits, plain), expected)
