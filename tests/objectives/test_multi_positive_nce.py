"""Against loops over pairs, the published form, and the properties that keep duplicates and siblings safe."""

import math

import pytest
import torch
from torch.nn import functional

from vlp.objectives import Pairs, clip, multi_positive_nce

MODES = ("mp", "mil", "supcon")


def _pairs(positives, **others):
    return Pairs(positives=positives.to(torch.int8), own=positives > 0, **others)


def _by_loop(logits, positives, mode, weights=None, hardness=None):
    """Term by term, in Python numbers."""
    z, p = logits.tolist(), positives.tolist()
    texts, images = len(z), len(z[0])
    weights = weights or [1.0] * texts
    hardness = hardness or [[1.0] * images] * texts

    def direction(by_text):
        lines = range(texts if by_text else images)
        total = mass = 0.0
        for line in lines:
            pairs = [(line, j) for j in range(images)] if by_text else [(i, line) for i in range(texts)]
            held = [pair for pair in pairs if p[pair[0]][pair[1]] == 1]
            negatives = sum(hardness[i][j] * math.exp(z[i][j]) for i, j in pairs if p[i][j] == 0)
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
    found = multi_positive_nce(logits, _pairs(positives), mode=mode)
    assert found.item() == pytest.approx(_by_loop(logits, positives, mode), abs=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_weights_weigh_texts_and_hardness_multiplies_negatives(mode):
    logits, positives = _problem()
    weights = [0.5, 2.0, 1.0, 0.0, 1.5, 3.0]
    hardness = torch.randint(0, 4, (6, 5), generator=torch.Generator().manual_seed(8)).double()
    pairs = _pairs(positives, weights=torch.tensor(weights), hardness=hardness)
    found = multi_positive_nce(logits, pairs, mode=mode)
    assert found.item() == pytest.approx(_by_loop(logits, positives, mode, weights, hardness.tolist()), abs=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_a_hardness_of_two_is_the_negative_twice_and_of_zero_not_at_all(mode):
    """A text of weight 0 stands as a negative only; as often as its hardness says."""
    logits, positives = _problem()
    weights = torch.tensor([1.0] * 5 + [0.0])
    positives[5] = 0
    doubled = torch.cat([logits, logits[5:]])
    twice = _pairs(torch.cat([positives, positives[5:]]), weights=torch.cat([weights, torch.zeros(1)]))
    for times, equal in ((2.0, (doubled, twice)), (0.0, (logits[:5], _pairs(positives[:5])))):
        hardness = torch.ones(6, 5)
        hardness[5] = times
        found = multi_positive_nce(logits, _pairs(positives, weights=weights, hardness=hardness), mode=mode)
        torch.testing.assert_close(found, multi_positive_nce(*equal, mode=mode))


@pytest.mark.parametrize("mode", MODES)
def test_where_no_negative_is_left_there_is_no_nan(mode):
    """A hardness of 0 is log 0: of one anchor, of every anchor."""
    logits, positives = _problem()
    for hardness in (torch.ones(6, 5), torch.zeros(6, 5)):
        hardness[2] = 0
        leaf = logits.clone().requires_grad_()
        loss = multi_positive_nce(leaf, _pairs(positives, hardness=hardness), mode=mode)
        loss.backward()
        assert torch.isfinite(leaf.grad).all()
        assert (leaf.grad[2] == 0).all()
        assert loss.item() == pytest.approx(_by_loop(logits, positives, mode, None, hardness.tolist()), abs=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_hardness_speaks_of_negatives_only(mode):
    logits, positives = _problem()
    hardness = torch.where(positives == 0, 1.0, 50.0)
    found = multi_positive_nce(logits, _pairs(positives, hardness=hardness), mode=mode)
    torch.testing.assert_close(found, multi_positive_nce(logits, _pairs(positives), mode=mode))


def _published(logits, owner):
    """algorithms 1.3 without its epsilons: what a text shares with other studies does not matter."""
    z = logits.exp()
    rows = torch.stack([-(z[s, own] / z[s].sum()).log() for s, own in enumerate(owner)]).mean()
    columns = []
    for s, own in enumerate(owner):
        others = z[owner != own, own].sum()
        columns.append(-(z[s, own] / (z[s, own] + others)).log())
    return (rows + torch.stack(columns).mean()) / 2


def test_mp_is_the_published_loss_where_nothing_collides():
    """Sentences of several images, owned; siblings leave the column's denominator only."""
    logits = torch.randn(7, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    owner = torch.tensor([0, 0, 0, 1, 1, 2, 2])
    found = multi_positive_nce(logits, _pairs(owner[:, None] == torch.arange(3)))
    torch.testing.assert_close(found, _published(logits, owner), rtol=1e-12, atol=0)


@pytest.mark.parametrize("num_reports", [2, 8])
def test_of_identical_reports_the_published_loss_has_floor_log_n_and_ours_none(num_reports):
    """One sentence, one row of logits, however often it is said: nothing can tell its owners apart."""
    owner = torch.arange(num_reports)
    same = torch.ones(num_reports, num_reports)
    row = torch.randn(num_reports, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 3
    for spread in (0.0, 0.3, 1.0):
        logits = (spread * row).expand(num_reports, -1)
        assert _published(logits, owner).item() >= math.log(num_reports) - 1e-12
        for mode in ("mp", "mil"):
            assert multi_positive_nce(logits, _pairs(same), mode=mode).item() == pytest.approx(0.0, abs=1e-12)
    assert _published(logits * 0, owner).item() == pytest.approx(math.log(num_reports))


@pytest.mark.parametrize("mode", MODES)
def test_one_positive_each_is_clip(mode):
    logits = torch.randn(5, 5, generator=torch.Generator().manual_seed(2))
    own = torch.arange(5)
    expected = (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2
    torch.testing.assert_close(multi_positive_nce(logits, _pairs(torch.eye(5)), mode=mode), expected)
    torch.testing.assert_close(clip(logits, _pairs(torch.eye(5))), expected)


@pytest.mark.parametrize("mode", ["mp", "mil"])
def test_identical_reports_have_floor_zero(mode):
    logits = torch.full((8, 8), 3.0, requires_grad=True)
    loss = multi_positive_nce(logits, _pairs(torch.ones(8, 8)), mode=mode)
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert logits.grad.abs().max() < 1e-6


@pytest.mark.parametrize("mode", MODES)
def test_ignored_pairs_stand_in_no_sum(mode):
    logits, positives = _problem()
    changed = logits.masked_fill(positives == -1, 50.0).requires_grad_()
    loss = multi_positive_nce(changed, _pairs(positives), mode=mode)
    loss.backward()
    torch.testing.assert_close(loss.detach(), multi_positive_nce(logits, _pairs(positives), mode=mode))
    assert (changed.grad[positives == -1] == 0).all()


@pytest.mark.parametrize("mode", MODES)
def test_nothing_positive_costs_nothing(mode):
    logits = torch.randn(3, 4, requires_grad=True)
    loss = multi_positive_nce(logits, _pairs(torch.zeros(3, 4)), mode=mode)
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("mode", MODES)
def test_the_published_overflow_does_not_happen(mode):
    """Cosines at temperature 0.005 reach e^200, beyond float32."""
    logits = (torch.eye(4) * 400 - 200).requires_grad_()
    right = multi_positive_nce(logits, _pairs(torch.eye(4)), mode=mode)
    wrong = multi_positive_nce(-logits, _pairs(torch.eye(4)), mode=mode)
    wrong.backward()
    assert right.item() == pytest.approx(0.0, abs=1e-6)
    assert wrong.item() == pytest.approx(400.0 + math.log(3), rel=1e-5)
    assert torch.isfinite(logits.grad).all()


def test_half_precision_logits_are_summed_in_float32():
    logits, positives = _problem()
    half = logits.bfloat16()
    found = multi_positive_nce(half, _pairs(positives))
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(_by_loop(half.double(), positives, "mp"), abs=1e-5)


@pytest.mark.parametrize("name", ["positives", "own", "hardness", "agreement", "weights"])
def test_what_does_not_belong_together_is_refused(name):
    given = {"positives": torch.zeros(3, 3, dtype=torch.int8), "own": torch.zeros(3, 3) > 0, name: torch.zeros(2, 3)}
    with pytest.raises(ValueError, match=name):
        multi_positive_nce(torch.zeros(3, 3), Pairs(**given))


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="mode"):
        multi_positive_nce(torch.zeros(3, 3), _pairs(torch.eye(3)), mode="best")
