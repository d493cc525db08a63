from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from vlp.config import validate
from vlp.evaluate.config import EvaluateConfig
from vlp.evaluate.paraphrases import estimate

NOISE = {"name": 0.2, "there is": 1.0, "seen": 3.0}


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    found = []
    for study in range(60):
        for finding in ("mass", "nodule"):
            label = ("present", "absent")[int(rng.random() < 0.5)]
            found += [
                {
                    "study_id": f"s{study}", "patient_id": f"p{study // 2}", "finding": finding, "status": "ok",
                    "wording": wording, "label": label, "score": float(label == "present") + noise * rng.normal(),
                }
                for wording, noise in NOISE.items()
            ]  # fmt: skip
    return found


def estimates(rows: list[dict[str, Any]]) -> dict[tuple[str, str], Any]:
    values = {"checkpoint": "a", "shards": "b", "output": "c", "resamples": 200}
    settings = validate(EvaluateConfig, values, where="test")
    return {(one.metric, one.finding): one for one in estimate(rows, settings, findings=("mass", "nodule"))}


def test_spread_and_worst_are_those_of_the_macro_averages(rows: list[dict[str, Any]]) -> None:
    expected = {}
    for wording in NOISE:
        values = []
        for finding in ("mass", "nodule"):
            own = [row for row in rows if (row["wording"], row["finding"]) == (wording, finding)]
            values.append(roc_auc_score([row["label"] == "present" for row in own], [row["score"] for row in own]))
        expected[wording] = np.mean(values)
    results = estimates(rows)
    for wording, value in expected.items():
        assert results["auroc_paraphrases", wording].value == pytest.approx(value, abs=1e-6)
    assert results["auroc_paraphrases_worst", "macro"].value == pytest.approx(min(expected.values()), abs=1e-6)
    assert "seen" in results["auroc_paraphrases_worst", "macro"].method
    spread = results["auroc_paraphrases_sd", "macro"]
    assert spread.value == pytest.approx(np.std(list(expected.values()), ddof=1), abs=1e-6)
    assert spread.low < spread.value < spread.high


def test_one_wording_has_no_spread(rows: list[dict[str, Any]]) -> None:
    alone = estimates([row for row in rows if row["wording"] == "name"])
    assert set(alone) == {("auroc_paraphrases", "name")}


def test_equal_wordings_have_none_either(rows: list[dict[str, Any]]) -> None:
    one = [row for row in rows if row["wording"] == "name"]
    results = estimates(one + [{**row, "wording": "again"} for row in one])
    assert results["auroc_paraphrases_sd", "macro"].value == 0.0
