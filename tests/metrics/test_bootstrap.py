import numpy as np
import pytest

from vlp.errors import DataError
from vlp.metrics.bootstrap import (
    Resamples,
    Sampled,
    macro,
    macro_estimate,
    mean_over_patients,
    patient_bootstrap,
    ratio,
    weighted_mean,
)
from vlp.metrics.ranking import auroc, auroc_statistic


def sampled(value: float, resampled: list[float]) -> Sampled:
    return Sampled(value=value, resampled=np.array(resampled), n=4, n_patients=2, n_positive=1)


def test_a_patient_is_drawn_with_all_rows_or_not_at_all() -> None:
    draws = Resamples.draw(["b", "a", "a"], resamples=50, seed=1)
    assert draws.patients == ("a", "b")
    assert (draws.multiplicity.sum(axis=1) == 2).all()
    seen: list[np.ndarray] = []
    draws.sample(lambda weights: seen.append(weights) or weights[:, 0], ["a", "b", "a"])  # type: ignore[func-returns-value]
    everything = np.concatenate(seen)
    assert (everything[:, 0] == everything[:, 2]).all()


def test_mean_equals_a_loop_over_patients() -> None:
    rng = np.random.default_rng(0)
    patients = rng.integers(12, size=40)
    values = rng.normal(size=40)
    estimate = patient_bootstrap(weighted_mean(values), patients, resamples=300, seed=5)
    distinct = sorted({str(patient) for patient in patients})
    drawn = np.random.Generator(np.random.PCG64(5)).integers(len(distinct), size=(300, len(distinct)))
    loop = [np.mean([values[i] for p in row for i in np.flatnonzero(patients == int(distinct[p]))]) for row in drawn]
    assert estimate.value == pytest.approx(values.mean())
    assert (estimate.low, estimate.high) == pytest.approx(tuple(np.quantile(loop, (0.025, 0.975))))


def test_with_one_row_per_patient_rows_and_patients_agree() -> None:
    labels, scores = np.array([0, 1] * 20), np.linspace(0, 1, 40) ** 2
    names = [f"{i:03d}" for i in range(40)]
    assert auroc(labels, scores, patients=names, seed=3) == auroc(labels, scores, patients=names, seed=3)
    draws = Resamples.draw(names, resamples=200, seed=3)
    drawn = np.random.Generator(np.random.PCG64(3)).integers(40, size=(200, 40))
    by_patient = draws.sample(auroc_statistic(labels, scores), names).resampled
    by_row = [auroc_statistic(labels[rows], scores[rows])(np.ones((1, 40)))[0] for rows in drawn]
    assert by_patient == pytest.approx(by_row)


def test_order_of_rows_changes_nothing() -> None:
    rng = np.random.default_rng(2)
    labels, scores = rng.integers(2, size=60), rng.normal(size=60).round(1)
    patients = rng.integers(20, size=60)
    order = rng.permutation(60)
    assert auroc(labels, scores, patients=patients) == auroc(labels[order], scores[order], patients=patients[order])


def test_patients_of_rows_left_out_keep_the_draws_paired() -> None:
    draws = Resamples.draw(["a", "b", "c"], resamples=20)
    whole = draws.sample(weighted_mean(np.array([1.0, 0.0])), ["a", "b"])
    assert whole.n_patients == 2
    only_c = (draws.multiplicity[:, :2].sum(axis=1) == 0).sum()
    assert np.isnan(whole.resampled).sum() == only_c


def test_too_many_undefined_resamples_leave_no_interval() -> None:
    # One positive patient of ten is missing from (1 - 1/10)^10 = 35 % of the resamples.
    estimate = auroc([1, *[0] * 9], np.arange(10.0), patients=list("abcdefghij"))
    assert estimate.value == 0.0
    assert estimate.low is None
    assert estimate.reason == "undefined_resamples"
    assert "undefined" in estimate.method


def test_an_interval_of_no_width_is_none() -> None:
    """A perfect ranking is perfect in every resample, which is no proof that the next patient is ranked right."""
    perfect = auroc([0, 0, 0, 1, 1, 1] * 5, [0.1, 0.2, 0.3, 0.7, 0.8, 0.9] * 5)
    one_person = patient_bootstrap(weighted_mean(np.array([0.1, 0.2, 0.4])), ["a", "a", "a"])
    for estimate in (perfect, one_person):
        assert estimate.value is not None
        assert (estimate.low, estimate.high, estimate.reason) == (None, None, "degenerate_variance")
    assert str(perfect) == "1.000 [n/a]"


def test_foreign_patients_are_refused() -> None:
    with pytest.raises(DataError, match="outside the resampled set"):
        Resamples.draw(["a"], resamples=2).sample(weighted_mean(np.ones(1)), ["b"])


def test_chunks_of_resamples_fit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    values, patients = np.arange(30.0), [i % 7 for i in range(30)]
    whole = patient_bootstrap(weighted_mean(values), patients, resamples=101)
    monkeypatch.setattr("vlp.metrics.bootstrap._CHUNK_ELEMENTS", 64)
    assert patient_bootstrap(weighted_mean(values), patients, resamples=101) == whole


def test_macro_leaves_undefined_members_out_and_names_them() -> None:
    nan = float("nan")
    members = {f"label {i}": sampled(0.5 + i / 10, [0.5, 0.7]) for i in range(4)} | {"rare": sampled(nan, [nan, nan])}
    average = macro(members)
    assert average.value == pytest.approx(0.65)
    assert average.undefined == ("rare",)
    assert average.resampled == pytest.approx([0.5, 0.7])


def test_macro_with_too_many_undefined_members_is_undefined() -> None:
    nan = float("nan")
    members = {"a": sampled(0.9, [0.9]), "b": sampled(0.8, [0.8]), "c": sampled(nan, [nan])}
    estimate = macro_estimate(members)
    assert estimate.value is None
    assert estimate.reason == "too_many_nulls"
    assert estimate.undefined == ("c",)


def test_rare_members_may_be_missing_from_some_resamples() -> None:
    nan = float("nan")
    average = macro(
        {"a": sampled(0.8, [0.8, 0.6, nan]), "b": sampled(0.6, [nan, 0.4, nan]), "c": sampled(0.4, [0.4, 0.2, 0.1])}
    )
    assert average.resampled[:2] == pytest.approx([0.6, 0.4])
    assert np.isnan(average.resampled[2])


def test_macro_of_nothing_is_undefined() -> None:
    assert macro_estimate({}).value is None


def test_mean_over_patients_counts_everybody_once() -> None:
    statistic = mean_over_patients(np.array([1.0, 1.0, 1.0, 0.0]), ["a", "a", "a", "b"])
    assert statistic(np.array([[1.0, 1.0, 1.0, 1.0], [2.0, 2.0, 2.0, 0.0]])) == pytest.approx([0.5, 1.0])


def test_ratio_is_paired_and_never_infinite() -> None:
    quotient = ratio(sampled(0.6, [0.6, 0.4, 0.2]), sampled(0.3, [0.3, 0.2, 0.0]))
    assert quotient.value == pytest.approx(2.0)
    assert quotient.resampled[:2] == pytest.approx([2.0, 2.0])
    assert np.isnan(quotient.resampled[2])


def test_coverage_of_patient_intervals() -> None:
    """Shared offsets within patients: the patient interval covers the truth, a row interval does not."""
    rng = np.random.default_rng(7)
    covered = {"patients": 0, "rows": 0}
    for repetition in range(60):
        offsets = rng.normal(size=60)
        patients = np.repeat(np.arange(60), 5)
        values = np.repeat(offsets, 5) + 0.3 * rng.normal(size=300)
        for unit, names in (("patients", patients), ("rows", np.arange(300))):
            estimate = patient_bootstrap(weighted_mean(values), names, resamples=200, seed=repetition)
            covered[unit] += bool(estimate.low <= 0.0 <= estimate.high)
    assert 0.86 <= covered["patients"] / 60 <= 1.0
    assert covered["rows"] / 60 < 0.8
