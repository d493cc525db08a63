import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from sklearn.calibration import _SigmoidCalibration
from sklearn.isotonic import IsotonicRegression

from vlp.calibrate.scores import (
    LEAST,
    Table,
    cross_validated,
    fit,
    fit_isotonic,
    fit_platt,
    fit_temperature,
    method_of,
)
from vlp.inference.calibration import Isotonic, Platt, Temperature
from vlp.inference.pooling import logit, sigma
from vlp.metrics.calibration import expected_calibration_error


def drawn(rows: int, *, seed: int = 0, overconfident: float = 2.0, shift: float = 1.0) -> Table:
    """Scores whose log odds are `overconfident` times the true ones, and `shift` too high."""
    rng = np.random.default_rng(seed)
    true = rng.normal(-1.0, 1.5, size=rows)
    logits = overconfident * true + shift
    return Table(
        logits=logits,
        similarity=sigma(logits),
        labels=(rng.random(rows) < sigma(true)).astype(int),
        folds=np.arange(rows) % 5,
    )


def test_platt_equals_scikit_learns() -> None:
    table = drawn(300)
    reference = _SigmoidCalibration().fit(table.logits, table.labels)
    found = fit_platt(table.logits, table.labels)
    assert found.slope == pytest.approx(-reference.a_, rel=1e-3)
    assert found.bias == pytest.approx(-reference.b_, abs=1e-3)
    assert found.slope == pytest.approx(0.5, abs=0.12), "the truth behind the drawn scores"


def test_separated_scores_keep_a_finite_slope() -> None:
    logits = np.array([-3.0, -2.5, -2.0, 2.0, 2.5, 3.0])
    found = fit_platt(logits, np.array([0, 0, 0, 1, 1, 1]))
    assert 0.1 < found.slope < 10
    assert found.apply(logits)[-1] < 0.9, "three studies of a kind make nobody sure"


@pytest.mark.parametrize("logits", [-np.arange(40.0), np.full(40, 2.5)], ids=["the wrong way round", "constant"])
def test_a_score_that_says_nothing_gives_everyone_the_prevalence(logits: np.ndarray) -> None:
    labels = np.repeat([0, 1], [30, 10])
    found = fit_platt(logits, labels)
    assert found.slope == 0.0
    assert found.apply(logits) == pytest.approx(np.full(40, 0.25), abs=0.02)


def test_temperature_makes_all_labels_most_probable() -> None:
    tables = [drawn(400, seed=1, shift=0.0), drawn(300, seed=2, shift=0.0)]
    logits = np.concatenate([table.logits for table in tables])
    labels = np.concatenate([table.labels for table in tables])

    def loss(temperature: float) -> float:
        p = 1 / (1 + np.exp(-logits / temperature))
        return float(-np.where(labels == 1, np.log(p), np.log(1 - p)).mean())

    expected = minimize_scalar(loss, bounds=(0.1, 10), method="bounded", options={"xatol": 1e-8}).x
    assert fit_temperature(tables).temperature == pytest.approx(expected, rel=1e-4)
    assert expected == pytest.approx(2.0, abs=0.3)


def test_isotonic_follows_scikit_learns_and_never_is_certain() -> None:
    table = drawn(500, seed=3)
    found = fit_isotonic(table.logits, table.labels)
    reference = IsotonicRegression(out_of_bounds="clip").fit(table.logits, table.labels)
    grid = np.linspace(-8, 8, 201)
    assert np.abs(found.apply(grid) - reference.predict(grid)).max() < 0.03
    assert 0 < found.apply(np.array([-100.0]))[0] < found.apply(np.array([100.0]))[0] < 1
    assert (np.diff(found.apply(grid)) > 0).all()


def test_isotonic_only_where_both_labels_have_enough() -> None:
    labels = np.repeat([0, 1], [500, 200])
    many = Table(logits=np.zeros(700), similarity=np.zeros(700), labels=labels, folds=np.arange(700) % 5)
    few = many.part(np.arange(700) < 699)
    assert method_of(many, "auto") == method_of(many, "isotonic") == "isotonic"
    assert method_of(few, "auto") == method_of(few, "isotonic") == "platt"
    assert method_of(many, "platt") == "platt"
    assert method_of(few, "temperature") == "temperature"


def test_findings_share_one_temperature_and_keep_their_own_else() -> None:
    tables = {"a": drawn(100, seed=1), "b": drawn(100, seed=2), "c": drawn(100, seed=3), "d": drawn(100, seed=4)}
    maps = fit(tables, {"a": "temperature", "b": "temperature", "c": "platt", "d": "isotonic"})
    assert isinstance(maps["a"], Temperature)
    assert maps["a"] == maps["b"] == fit_temperature([tables["a"], tables["b"]])
    assert isinstance(maps["c"], Platt)
    assert isinstance(maps["d"], Isotonic)


def test_tables_that_are_too_small_say_why() -> None:
    table = drawn(400)
    assert table.lacks() is None
    few = table.part((table.labels == 0) | (np.cumsum(table.labels) < LEAST))
    assert few.lacks() == f"{LEAST - 1} studies with it, fewer than {LEAST}"
    assert table.part(table.labels == 1).lacks() == f"0 studies without it, fewer than {LEAST}"
    one_patient = table.part((table.labels == 0) | (table.folds == 2))
    assert "too few patients" in str(one_patient.lacks())


@pytest.mark.parametrize("method", ["platt", "isotonic", "temperature"])
def test_calibration_mends_what_is_overconfident(method) -> None:
    table = drawn(1500, seed=7, shift=0.0 if method == "temperature" else 1.0)
    figures = cross_validated({"a": table}, {"a": method}, alpha=0.1)["a"]
    assert figures.ece_before == pytest.approx(expected_calibration_error(table.labels, table.similarity))
    assert figures.ece_before > 0.08
    assert figures.ece_cv < 0.04
    assert figures.brier_cv < figures.brier_before
    assert figures.coverage_present_cv == pytest.approx(0.9, abs=0.03)
    assert figures.coverage_absent_cv == pytest.approx(0.9, abs=0.03)


def test_no_study_is_judged_by_itself() -> None:
    """With labels that nothing predicts, only a study's own label could make probabilities look good."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=300)
    table = Table(
        logits=logits, similarity=sigma(logits), labels=rng.integers(2, size=300), folds=np.repeat(np.arange(5), 60)
    )
    figures = cross_validated({"a": table}, {"a": "isotonic"}, alpha=0.1)["a"]
    in_sample = fit_isotonic(table.logits, table.labels).apply(table.logits)
    assert ((in_sample - table.labels) ** 2).mean() < table.labels.var() < figures.brier_cv


def test_logits_of_scores_come_back() -> None:
    values = np.array([-5.0, 0.0, 5.0])
    assert logit(sigma(values)) == pytest.approx(values)
