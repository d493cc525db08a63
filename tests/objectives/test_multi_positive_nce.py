"""Against loops over pairs, the published form, and the properties that keep duplicates and siblings safe."""

import math

import pytest
import torch
from torch.nn import functional

from vlp.objectives import multi_positive_nce

MODES = ("mp", "mil", "supcon")


def _by_loop(logits, positives, mode, weights=None):
    """Term by term, in Python numbers."""
    z, p = logits.tolist(), positives.tolist()
    texts, images = len(z), len(z[0])
    weights = weights or [1.0] * texts

    def direction(by_text):
        lines = range(texts if by_text else images)
        total = mass = 0.0
        for line in lines:
            pairs = [(line, j) for j in range(images)] if by_text else [(i, line) for i in range(texts)]
            held = [pair for pair in pairs if p[pair[0]][pair[1]] == 1]
            negatives = sum(math.exp(z[i][j]) for i, j in pairs if p[i][j] == 0)
            good = sum(math.exp(z[i][j]) for i, j in held)
            for i, j in held:
                own = math.exp(z[i][j])
                ratio = {
                    "mp": own / (own + negatives),
                    "mil": good / (good + negatives),
                    "supcon": own / (good + negatives),
                }[mode]
                count = sum(value == 1 for value in p[i]) if by_text or mode == "mp" else len(held)
                total -= weights[i] / count * math.log(ratio)
                mass += weights[i] / count
        return total / mass

    return (direction(by_text=True) + direction(by_text=False)) / 2


def _problem(seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(6, 5, generator=generator, dtype=torch.float64) * 2
    positives = torch.randint(-1, 2, (6, 5), generator=generator)
    positives[2] = 0
    positives[:, 3] = positives[:, 3].clamp_max(0)
    return logits, positives


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_formula(mode, seed):
    logits, positives = _problem(seed)
    found = multi_positive_nce(logits, positives, mode=mode)
    assert found.item() == pytest.approx(_by_loop(logits, positives, mode), abs=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_weights_weigh_texts(mode):
    logits, positives = _problem()
    weights = [0.5, 2.0, 1.0, 0.0, 1.5, 3.0]
    found = multi_positive_nce(logits, positives, mode=mode, weights=torch.tensor(weights))
    assert found.item() == pytest.approx(_by_loop(logits, positives, mode, weights), abs=1e-12)


def test_mp_is_the_published_loss_without_its_epsilon():
    """algorithms 1.3: sentences of several images, owned; siblings leave the column's denominator only."""
    logits = torch.randn(7, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    owner = torch.tensor([0, 0, 0, 1, 1, 2, 2])
    z = logits.exp()
    rows = torch.stack([-(z[s, owner[s]] / z[s].sum()).log() for s in range(7)]).mean()
    columns = []
    for s in range(7):
        column = z[:, owner[s]]
        others = column[owner != owner[s]].sum()
        columns.append(-(column[s] / (column[s] + others)).log())
    expected = (rows + torch.stack(columns).mean()) / 2
    positives = (owner[:, None] == torch.arange(3)).to(torch.int8)
    torch.testing.assert_close(multi_positive_nce(logits, positives), expected)


@pytest.mark.parametrize("mode", MODES)
def test_one_positive_each_is_cross_entropy(mode):
    logits = torch.randn(5, 5, generator=torch.Generator().manual_seed(2))
    own = torch.arange(5)
    expected = (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2
    torch.testing.assert_close(multi_positive_nce(logits, torch.eye(5), mode=mode), expected)


@pytest.mark.parametrize("mode", ["mp", "mil"])
def test_identical_reports_have_floor_zero(mode):
    logits = torch.full((8, 8), 3.0, requires_grad=True)
    loss = multi_positive_nce(logits, torch.ones(8, 8, dtype=torch.int8), mode=mode)
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert logits.grad.abs().max() < 1e-6


@pytest.mark.parametrize("mode", MODES)
def test_ignored_pairs_stand_in_no_sum(mode):
    logits, positives = _problem()
    changed = logits.masked_fill(positives == -1, 50.0).requires_grad_()
    loss = multi_positive_nce(changed, positives, mode=mode)
    loss.backward()
    torch.testing.assert_close(loss.detach(), multi_positive_nce(logits, positives, mode=mode))
    assert (changed.grad[positives == -1] == 0).all()


@pytest.mark.parametrize("mode", MODES)
def test_nothing_positive_costs_nothing(mode):
    logits = torch.randn(3, 4, requires_grad=True)
    loss = multi_positive_nce(logits, torch.zeros(3, 4), mode=mode)
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("mode", MODES)
def test_the_published_overflow_does_not_happen(mode):
    """Cosines at temperature 0.005 reach e^200, beyond float32."""
    logits = (torch.eye(4) * 400 - 200).requires_grad_()
    right = multi_positive_nce(logits, torch.eye(4), mode=mode)
    wrong = multi_positive_nce(-logits, torch.eye(4), mode=mode)
    wrong.backward()
    assert right.item() == pytest.approx(0.0, abs=1e-6)
    assert wrong.item() == pytest.approx(400.0 + math.log(3), rel=1e-5)
    assert torch.isfinite(logits.grad).all()


def test_half_precision_logits_are_summed_in_float32():
    logits, positives = _problem()
    half = logits.bfloat16()
    found = multi_positive_nce(half, positives)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(_by_loop(half.double(), positives, "mp"), abs=1e-5)


@pytest.mark.parametrize(
    ("positives", "options"),
    [(torch.zeros(2, 3), {}), (torch.zeros(3, 3), {"weights": torch.ones(2)}), (torch.zeros(3, 3), {"mode": "no"})],
)
def test_what_does_not_belong_together_is_refused(positives, options):
    with pytest.raises(ValueError, match=r"logits|weights|mode"):
        multi_positive_nce(torch.zeros(3, 3), positives, **options)
