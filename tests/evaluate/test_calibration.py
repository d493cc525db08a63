from typing import Any

import numpy as np
import pytest

from vlp.config import validate
from vlp.evaluate.calibration import estimate, plots
from vlp.evaluate.config import EvaluateConfig
from vlp.metrics.calibration import aurc, brier, calibration_line, expected_calibration_error


def config(**changes: Any) -> EvaluateConfig:
    values = {"checkpoint": "a", "shards": "b", "output": "c", "resamples": 200, **changes}
    return validate(EvaluateConfig, values, where="test")


def row(number: int, *, label: str | None, probability: float, gate: str | None = "", **changes: Any) -> dict[str, Any]:
    possible = [name for name, holds in (("absent", probability <= 0.7), ("present", probability >= 0.3)) if holds]
    state = {("present",): "positive", ("absent",): "negative"}.get(tuple(possible), "indeterminate")
    return {
        "study_id": f"s{number}", "patient_id": f"p{number // 2}", "finding": "mass", "status": "ok", "label": label,
        "score": probability**2, "probability": probability, "possible": possible, "state": state, "gate": gate,
        **changes,
    }  # fmt: skip


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    found = []
    for number in range(200):
        probability = float(rng.random())
        found.append(row(number, label="present" if rng.random() < probability else "absent", probability=probability))
    return found


def named(rows: list[dict[str, Any]], **changes: Any) -> dict[tuple[str, str], Any]:
    findings = tuple(sorted({one["finding"] for one in rows}))
    return {(one.metric, one.finding): one for one in estimate(rows, config(**changes), findings=findings)}


def test_figures_equal_the_plain_definitions(rows: list[dict[str, Any]]) -> None:
    results = named(rows)
    labels = np.array([int(one["label"] == "present") for one in rows])
    probability, score = (np.array([one[name] for one in rows]) for name in ("probability", "score"))
    expected = {
        "ece": expected_calibration_error(labels, probability),
        "ece_equal_mass": expected_calibration_error(labels, probability, binning="mass"),
        "ece_similarity": expected_calibration_error(labels, score),
        "brier": brier(labels, probability),
        "brier_similarity": brier(labels, score),
        "slope": calibration_line(labels, probability).slope,
        "intercept": calibration_line(labels, probability).intercept,
        "aurc": aurc(labels, probability),
        "error_forced": np.mean((probability >= 0.5) != labels),
    }
    for metric, value in expected.items():
        assert results[metric, "mass"].value == pytest.approx(value, abs=1e-6), metric
        assert results[metric, "macro"].value == pytest.approx(value, abs=1e-6), metric


def test_sets_and_states_are_counted_one_by_one(rows: list[dict[str, Any]]) -> None:
    results = named(rows)
    holds = [one["label"] in one["possible"] for one in rows]
    present = [hit for hit, one in zip(holds, rows, strict=True) if one["label"] == "present"]
    assert results["coverage", "mass"].value == pytest.approx(np.mean(holds), abs=1e-6)
    assert results["coverage_present", "mass"].value == pytest.approx(np.mean(present), abs=1e-6)
    assert results["coverage_present", "mass"].n_positive == len(present)
    assert results["set_size", "mass"].value == pytest.approx(np.mean([len(one["possible"]) for one in rows]), abs=1e-6)
    decided = [one for one in rows if one["state"] != "indeterminate"]
    wrong = [{"positive": "present", "negative": "absent"}[one["state"]] != one["label"] for one in decided]
    assert results["decided", "mass"].value == pytest.approx(len(decided) / len(rows), abs=1e-6)
    assert results["error_decided", "mass"].value == pytest.approx(np.mean(wrong), abs=1e-6)


def test_the_interval_of_an_error_holds_the_error(rows: list[dict[str, Any]]) -> None:
    """Resampling a calibrated model's rows makes every bin noisier, so that plain percentiles lie above the value."""
    for metric in ("ece", "ece_equal_mass"):
        found = named(rows)[metric, "mass"]
        assert 0.0 <= found.low <= found.value <= found.high
        assert "shifted" in found.method


def test_refused_studies_take_no_part_and_are_counted(rows: list[dict[str, Any]]) -> None:
    refused = [
        row(900 + number, label="present", probability=0.0, gate=reason)
        for number, reason in enumerate(("rotated", "rotated", "cut_off"))
    ]
    results = named(rows + refused)
    assert results["brier", "mass"].value == named(rows)["brier", "mass"].value
    gate = results["gate_refused", "all"]
    assert gate.value == pytest.approx(3 / 203, abs=1e-6)
    assert "cut_off 1, rotated 2" in gate.method
    assert ("gate_refused", "all") not in named([{**one, "gate": None} for one in rows])


def test_a_finding_that_was_not_calibrated_is_undefined_and_named(rows: list[dict[str, Any]]) -> None:
    several = [{**one, "finding": name} for one in rows for name in "abcd"]
    findings = ("a", "b", "c", "d", "mass")
    results = {(one.metric, one.finding): one for one in estimate(several, config(), findings=findings)}
    assert results["ece", "mass"].value is None
    assert "mass" in results["ece", "macro"].method
    assert results["ece", "macro"].value is not None


def test_points_of_the_plots(rows: list[dict[str, Any]]) -> None:
    drawn = plots(rows, config(), findings=("mass",))
    assert sum(count for _, _, count in drawn["after"]) == len(rows)
    labels = np.array([one["label"] == "present" for one in rows])
    probability = np.array([one["probability"] for one in rows])
    first = probability < 1 / 15
    assert drawn["after"][0][:2] == pytest.approx((probability[first].mean(), labels[first].mean()))
    shares, risks = zip(*drawn["risk"], strict=True)
    assert shares[-1] == 1.0
    assert risks[-1] == pytest.approx(np.mean((probability >= 0.5) != labels))
    assert len(drawn["risk"]) <= 100
    assert plots([], config(), findings=("mass",)) == {"before": [], "after": [], "risk": []}
