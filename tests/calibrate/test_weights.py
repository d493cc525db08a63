import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlp.calibrate import weights
from vlp.inference.classify import Evidence
from vlp.inference.pooling import sigma
from vlp.prompts.descriptors import load_descriptors


def drawn(rows: int, true: list[float], *, seed: int = 0, bias: float = -0.5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    odds = rng.normal(size=(rows, len(true)))
    return odds, (rng.random(rows) < sigma(odds @ np.array(true) + bias)).astype(int)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), cost=st.sampled_from(weights.COSTS))
def test_the_solution_is_the_best_there_is(seed: int, cost: float) -> None:
    """The conditions of a minimum of a convex function over w >= 0, from the formula in the module's docstring."""
    odds, labels = drawn(60, [1.0, 0.0, -1.0], seed=seed)
    found, bias = weights.solve(odds, labels, cost=cost)
    residual = sigma(odds @ found + bias) - labels
    slope = cost * residual @ odds + (found - 1 / 3)
    assert cost * residual.sum() == pytest.approx(0.0, abs=1e-3)
    assert (found >= 0).all()
    assert np.abs(slope[found > 0]).max(initial=0.0) < 1e-3
    assert (slope[found == 0] > -1e-3).all()


def test_what_speaks_for_a_finding_is_found() -> None:
    odds, labels = drawn(3000, [2.0, 0.5, 0.0, -0.3])
    found, bias = weights.solve(odds, labels, cost=10.0)
    assert found[:2] == pytest.approx([2.0, 0.5], abs=0.25)
    assert found[2] < 0.1
    assert found[3] == 0.0, "what speaks against it does not count for it"
    assert bias == pytest.approx(-0.5, abs=0.2)


def test_without_anything_to_learn_all_weigh_alike() -> None:
    odds, labels = drawn(50, [1.0, 0.0])
    assert weights.solve(odds, labels, cost=1e-9)[0] == pytest.approx([0.5, 0.5], abs=1e-4)


def test_totals_are_made_without_the_studys_patient() -> None:
    odds, labels = drawn(100, [1.5, 0.0])
    folds = np.arange(100) % 4
    before = weights.learn(odds, labels, folds)
    changed = labels.copy()
    changed[folds == 2] = 1 - changed[folds == 2]
    after = weights.learn(odds, changed, folds)
    # Its own labels may move a study's total by the constant that all studies share, not by its weights.
    if before.cost == after.cost:
        moved = (after.totals - before.totals)[folds == 2]
        assert np.ptp(moved) < 1e-6
    assert not np.allclose(before.weights, after.weights)


def test_folds_of_other_prevalence_do_not_turn_scores_around() -> None:
    """The rarer a finding is among the others, the higher their bias would set a fold rich in it below the rest."""
    rng = np.random.default_rng(3)
    folds = np.repeat(np.arange(5), 40)
    labels = (rng.random(200) < np.array([0.05, 0.1, 0.2, 0.3, 0.5])[folds]).astype(int)
    odds = rng.normal(size=(200, 3)) * 0.05  # next to nothing to go by
    totals = weights.learn(odds, labels, folds).totals
    assert abs(np.corrcoef(totals, labels)[0, 1]) < 0.15


def test_the_strength_of_the_pull_follows_the_studies() -> None:
    def usual(rows: int, true: list[float]) -> float:
        drawings = [drawn(rows, true, seed=seed) for seed in range(7)]
        return float(np.median([weights.learn(*drawing, np.arange(rows) % 5).cost for drawing in drawings]))

    assert usual(400, [3.0, 0.0, 0.0]) >= 1.0, "one descriptor alone tells, and tells much"
    assert usual(40, [1 / 8] * 8) <= 0.01, "few studies, and nothing tells more than else"


def test_pooling_by_the_weights_gives_their_totals() -> None:
    descriptors = load_descriptors()
    names = ("mass", "pleural effusion", "nodule")
    asked = [descriptors.of(name) for name in names]
    pairs = tuple(pair for group in asked for pair in group)
    probability = np.random.default_rng(0).uniform(0.05, 0.95, size=(30, len(pairs)))
    evidence = Evidence(
        findings=names,
        descriptors=pairs,
        starts=tuple(np.cumsum([0, *(len(group) for group in asked)])[:-1].tolist()),
        positive=probability,
        negative=probability,
        probability=probability,
        num_images=(1,) * 30,
        prompts="both",
        temperature=None,
        vocabulary="",
    )
    labels = np.arange(30) % 2
    learned = {name: weights.learn(weights.odds_of(evidence, name), labels, np.arange(30) // 10) for name in names[:2]}
    pooling = weights.pooling_of(evidence, learned)
    totals = pooling.totals(probability, evidence.groups)
    for column, name in enumerate(names[:2]):
        odds = np.log(probability / (1 - probability))[:, evidence.groups.columns(column)]
        assert totals[:, column] == pytest.approx(odds @ learned[name].weights + learned[name].bias)
    odds = np.log(probability / (1 - probability))[:, evidence.groups.columns(2)]
    assert totals[:, 2] == pytest.approx(odds.mean(axis=1)), "nothing was learned of nodules"
