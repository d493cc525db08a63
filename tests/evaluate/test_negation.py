from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from vlp.config import validate
from vlp.evaluate.config import EvaluateConfig
from vlp.evaluate.negation import estimate


def config(**changes: Any) -> EvaluateConfig:
    values = {"checkpoint": "a", "shards": "b", "output": "c", "resamples": 200, **changes}
    return validate(EvaluateConfig, values, where="test")


def row(number: int, label: str | None, affirmed: float, denied: float, **changes: Any) -> dict[str, Any]:
    return {
        "study_id": f"s{number}", "patient_id": f"p{number // 2}", "finding": "mass", "status": "ok", "label": label,
        "pos": affirmed, "neg": -denied, "pnc": 1.0 / (1.0 + np.exp(denied - affirmed)), **changes,
    }  # fmt: skip


def named(rows: list[dict[str, Any]], **changes: Any) -> dict[tuple[str, str], Any]:
    found = estimate(rows, config(**changes), findings=("mass",))
    return {(one.metric, one.finding): one for one in found}


def test_figures_equal_scikit_learn_and_a_count() -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice(["present", "absent", "uncertain"], size=80)
    rows = [row(i, str(label), *rng.normal(size=2) + (label == "present")) for i, label in enumerate(labels)]
    results = named(rows)
    sure = [one for one in rows if one["label"] != "uncertain"]
    truth = [int(one["label"] == "present") for one in sure]
    for name in ("pos", "neg", "pnc"):
        expected = roc_auc_score(truth, [one[name] for one in sure])
        assert results[f"auroc_{name}", "mass"].value == pytest.approx(expected, abs=1e-6)
    right = [(one["pos"] > -one["neg"]) == bool(label) for one, label in zip(sure, truth, strict=True)]
    assert results["polarity_accuracy", "mass"].value == pytest.approx(np.mean(right), abs=1e-6)
    present = [hit for hit, label in zip(right, truth, strict=True) if label]
    assert results["polarity_accuracy_present", "mass"].value == pytest.approx(np.mean(present), abs=1e-6)
    assert results["polarity_accuracy_present", "mass"].n_positive == sum(truth)
    assert results["polarity_accuracy_absent", "mass"].n_positive == 0


def test_a_model_that_ignores_no_is_found_out() -> None:
    """Both sentences rank studies alike: POS is good, NEG is POS upside down, and half of the pairs are told wrong."""
    rng = np.random.default_rng(1)
    rows = []
    for number in range(60):
        label = ("present", "absent")[number % 2]
        logit = rng.normal() + 3.0 * (label == "present")
        rows.append(row(number, label, logit, logit))
    results = named(rows)
    assert results["auroc_pos", "mass"].value > 0.9
    assert results["auroc_neg", "mass"].value == pytest.approx(1.0 - results["auroc_pos", "mass"].value, abs=1e-6)
    assert results["auroc_pnc", "mass"].value == 0.5
    assert results["polarity_accuracy", "mass"].value == 0.5


def test_refused_rows_and_the_label_policy() -> None:
    rows = [row(number, ("present", "absent", "uncertain")[number % 3], number, 0.0) for number in range(30)]
    refused = row(99, "present", 0.0, 0.0, status="refused", pos=None, neg=None, pnc=None)
    assert estimate([*rows, refused], config(), findings=("mass",)) == estimate(rows, config(), findings=("mass",))
    assert named(rows, uncertain="positive")["polarity_accuracy", "mass"].n_positive == 20
    assert named(rows)["auroc_pnc", "macro"].value == named(rows)["auroc_pnc", "mass"].value
