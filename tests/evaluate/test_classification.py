from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from vlp.config import validate
from vlp.evaluate.classification import estimate
from vlp.evaluate.config import EvaluateConfig
from vlp.metrics.bootstrap import Resamples
from vlp.metrics.ranking import sample_auroc

LABELS = ("present", "absent", "uncertain", None)


def config(**changes: Any) -> EvaluateConfig:
    values = {"checkpoint": "a", "shards": "b", "output": "c", "resamples": 200, **changes}
    return validate(EvaluateConfig, values, where="test")


def table(*, patients: int = 40, seed: int = 0) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    rows = []
    for study in range(60):
        for finding in ("mass", "nodule"):
            label = LABELS[int(rng.choice(4, p=[0.4, 0.4, 0.1, 0.1]))]
            base = rng.normal() + (label == "present")
            for name, noise in (("both", 0.0), ("finding", rng.normal())):
                rows.append(
                    {
                        "study_id": f"s{study}", "patient_id": f"p{study % patients}", "finding": finding,
                        "score_name": name, "score": base + noise, "label": label, "status": "ok",
                    }
                )  # fmt: skip
    return rows


def named(results: list[Any]) -> dict[tuple[str, str], Any]:
    return {(row.metric, row.finding): row for row in results}


@pytest.mark.parametrize("policy", ["ignore", "positive", "negative"])
def test_figures_equal_scikit_learn_on_the_rows_the_policy_leaves(policy: str) -> None:
    rows = table()
    results = named(estimate(rows, config(uncertain=policy), findings=("mass", "nodule")))
    meaning = {"present": 1, "absent": 0} | ({} if policy == "ignore" else {"uncertain": int(policy == "positive")})
    values = []
    for finding in ("mass", "nodule"):
        own = [r for r in rows if r["finding"] == finding and r["score_name"] == "both" and r["label"] in meaning]
        labels, scores = [meaning[r["label"]] for r in own], [r["score"] for r in own]
        row = results["auroc", finding]
        values.append(row.value)
        assert row.value == pytest.approx(roc_auc_score(labels, scores), abs=1e-6)
        assert row.n_positive == sum(labels)
        assert row.n_patients == len({r["patient_id"] for r in own})
        expected = average_precision_score(labels, scores)
        assert results["average_precision", finding].value == pytest.approx(expected, abs=1e-6)
    assert results["auroc", "macro"].value == pytest.approx(np.mean(values), abs=1e-6)


def test_compared_scores_stand_under_their_own_names() -> None:
    results = named(estimate(table(), config(), findings=("mass",)))
    assert results["auroc_finding_prompts", "mass"].value < results["auroc", "mass"].value
    assert "score: finding prompts" in results["auroc_finding_prompts", "mass"].method


def test_order_of_rows_changes_nothing() -> None:
    rows = table()
    shuffled = [rows[index] for index in np.random.default_rng(1).permutation(len(rows))]
    assert estimate(shuffled, config(), findings=("mass",)) == estimate(rows, config(), findings=("mass",))


def test_a_declared_finding_without_positives_is_undefined_and_named() -> None:
    findings = ("mass", "nodule", *(f"mass {index}" for index in range(3)))
    rows = table()
    rows += [{**row, "finding": f"mass {index}"} for row in rows if row["finding"] == "mass" for index in range(3)]
    rows += [{**row, "finding": "hernia", "label": "absent"} for row in rows if row["finding"] == "mass"]
    results = named(estimate(rows, config(), findings=(*findings, "hernia")))
    assert results["auroc", "hernia"].value is None
    assert "one_class" in results["auroc", "hernia"].method
    assert "left out as undefined: hernia" in results["auroc", "macro"].method
    assert results["auroc", "macro"].value is not None


def test_refused_rows_are_not_scored() -> None:
    rows = table()
    refused = [{**row, "study_id": "r", "status": "refused", "score": None} for row in rows[:4]]
    assert estimate(rows + refused, config(), findings=("mass",)) == estimate(rows, config(), findings=("mass",))


def test_few_positives_get_delongs_interval_where_it_holds() -> None:
    alone = named(estimate(table(patients=60), config(), findings=("mass",)))
    assert "DeLong" in alone["auroc_delong", "mass"].method
    assert ("auroc_delong", "mass") not in named(estimate(table(patients=40), config(), findings=("mass",)))


def test_differences_are_paired() -> None:
    """A score and itself with noise: the interval is that of the difference, not of two independent figures."""
    rows = table(patients=30)
    results = named(estimate(rows, config(resamples=400), findings=("mass", "nodule")))
    found, main, other = (results[metric, "macro"] for metric in ("auroc_difference", "auroc", "auroc_finding_prompts"))
    assert found.value == pytest.approx(main.value - other.value, abs=1e-6)
    assert "both prompts minus that of finding prompts" in found.method
    draws = Resamples.draw([row["patient_id"] for row in rows], resamples=400, seed=0)
    resampled = {}
    for name in ("both", "finding"):
        parts = []
        for finding in ("mass", "nodule"):
            own = [
                row for row in rows
                if (row["finding"], row["score_name"]) == (finding, name) and row["label"] in ("present", "absent")
            ]  # fmt: skip
            labels = [int(row["label"] == "present") for row in own]
            patients = [row["patient_id"] for row in own]
            parts.append(sample_auroc(draws, labels, [row["score"] for row in own], patients).resampled)
        resampled[name] = np.mean(parts, axis=0)
    low, high = np.quantile(resampled["both"] - resampled["finding"], (0.025, 0.975))
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-6)
    same = [{**row, "score": 0.0} | {"score": float(hash(row["study_id"]) % 97)} for row in rows]
    alike = named(estimate(same, config(), findings=("mass", "nodule")))["auroc_difference", "macro"]
    assert (alike.value, alike.low) == (0.0, None)


def test_further_differences_carry_the_name_of_the_score() -> None:
    rows = table() + [{**row, "score_name": "radzero"} for row in table(seed=1) if row["score_name"] == "both"]
    settings = config(compared_prompts=["finding", "radzero"])
    results = named(estimate(rows, settings, findings=("mass",)))
    main, other = results["auroc", "macro"].value, results["auroc_radzero_protocol", "macro"].value
    assert results["auroc_difference_radzero_protocol", "macro"].value == pytest.approx(main - other, abs=1e-6)
    assert ("auroc_difference", "macro") in results


def test_a_difference_to_nothing_is_undefined() -> None:
    """A score without rows (its predictions were made by another configuration) has no average to compare with."""
    results = named(estimate(table(), config(compared_prompts=["radzero"]), findings=("mass",)))
    assert results["auroc_difference", "macro"].value is None
    assert results["auroc", "macro"].value is not None
