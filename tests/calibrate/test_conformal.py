import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mapie.classification import SplitConformalClassifier
from sklearn.base import BaseEstimator, ClassifierMixin

from vlp.calibrate import conformal
from vlp.inference.calibration import possible


class AsItIs(ClassifierMixin, BaseEstimator):
    """A classifier whose one feature is the probability of class 1."""

    def __init__(self) -> None:
        self.classes_ = np.array([0, 1])
        self.is_fitted_ = True

    def fit(self, inputs: np.ndarray, labels: np.ndarray) -> "AsItIs":
        return self

    def predict_proba(self, inputs: np.ndarray) -> np.ndarray:
        return np.stack((1.0 - inputs[:, 0], inputs[:, 0]), axis=1)

    def predict(self, inputs: np.ndarray) -> np.ndarray:
        return (inputs[:, 0] >= 0.5).astype(int)


def drawn(rows: int, *, seed: int, prevalence: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = (rng.random(rows) < prevalence).astype(int)
    return labels, 1 / (1 + np.exp(-rng.normal(2.0 * labels - 1.0, 1.2)))


def test_quantile_by_hand() -> None:
    values = np.array([0.4, 0.1, 0.3, 0.2, 0.5, 0.6, 0.7, 0.8, 0.9])
    assert conformal.quantile(values, alpha=0.1) == 0.9, "ceil(10 x .9) = 9th of 9"
    assert conformal.quantile(values, alpha=0.2) == 0.8
    assert conformal.quantile(values[:8], alpha=0.1) == 1.0, "the 9th of 8: nothing can be excluded"
    assert conformal.quantile(np.array([]), alpha=0.5) == 1.0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 200), st.floats(0.02, 0.6))
def test_quantile_leaves_enough_below(rows: int, alpha: float) -> None:
    values = np.random.default_rng(rows).random(rows)
    found = conformal.quantile(values, alpha=alpha)
    enough = math.ceil((rows + 1) * (1 - alpha) - 1e-9)
    assert found == 1.0 if enough > rows else (values <= found).sum() == enough


@pytest.mark.filterwarnings("ignore:.*has less labels")
@pytest.mark.parametrize("alpha", [0.1, 0.25])
@pytest.mark.parametrize("label", [0, 1])
def test_sets_are_those_of_mapie_conditioned_on_the_label(label: int, alpha: float) -> None:
    labels, values = drawn(300, seed=1)
    fresh = np.random.default_rng(2).random(400)
    of_label = labels == label
    reference = SplitConformalClassifier(AsItIs(), confidence_level=1 - alpha, conformity_score="lac", prefit=True)
    reference.conformalize(values[of_label, None], labels[of_label])
    expected = reference.predict_set(fresh[:, None])[1][:, label, 0]
    present, absent = possible(conformal.fit(labels, values, alpha=alpha), fresh)
    assert np.array_equal((absent, present)[label], expected)
    assert 0 < expected.sum() < 400


def test_the_promise_is_kept_for_both_labels_on_average() -> None:
    held = []
    for seed in range(300):
        labels, values = drawn(80, seed=seed)
        fresh_labels, fresh = drawn(60, seed=10_000 + seed)
        present, absent = possible(conformal.fit(labels, values, alpha=0.2), fresh)
        held.append((present[fresh_labels == 1].mean(), absent[fresh_labels == 0].mean()))
    coverage = np.nanmean(held, axis=0)
    assert (coverage > 0.79).all(), "never less than promised"
    assert (coverage < 0.84).all(), "and not everything is possible"


def test_the_rare_label_is_covered_too() -> None:
    def rare(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        labels, values = drawn(rows, seed=seed, prevalence=0.05)
        return labels, values / (values + 19 * (1 - values))  # as low as a calibrated probability of it is

    labels, values = rare(2000, 5)
    fresh_labels, fresh = rare(20_000, 6)
    present, _ = possible(conformal.fit(labels, values, alpha=0.1), fresh)
    assert present[fresh_labels == 1].mean() == pytest.approx(0.9, abs=0.06)
    # One quantile for both labels would serve the many and forget the few.
    joint = conformal.quantile(np.where(labels == 1, 1 - values, values), alpha=0.1)
    assert (1 - fresh[fresh_labels == 1] <= joint).mean() < 0.85
