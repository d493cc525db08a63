from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from vlp.config import validate
from vlp.evaluate.config import EvaluateConfig
from vlp.evaluate.results import MACRO, Result
from vlp.evaluate.retrieval_vote import KS, USUAL_K, estimate

FINDINGS = ("edema", "mass")


def config(**changes: Any) -> EvaluateConfig:
    values = {"checkpoint": "a", "shards": "b", "output": "c", "resamples": 200, "voters": ["train"], **changes}
    return validate(EvaluateConfig, {"findings": list(FINDINGS), **values}, where="test")


def row(number: int, split: str, rng: np.random.Generator, *, noise: float = 0.7, **changes: Any) -> dict[str, Any]:
    said = {finding: ("present", "absent", "unknown")[int(rng.choice(3, p=[0.4, 0.4, 0.2]))] for finding in FINDINGS}
    vector = [float(said[finding] == "present") - 0.5 + noise * rng.normal() for finding in FINDINGS]
    return {
        "study_id": f"{split}{number:03d}", "patient_id": f"{split}-{number // 2}", "split": split, "status": "ok",
        "query": split == "test", "gallery": split == "test", "view": "PA",
        "findings": [finding for finding in FINDINGS if said[finding] == "present"],
        "absent": [finding for finding in FINDINGS if said[finding] == "absent"],
        "uncertain": [],
        "embedding": vector,
        **changes,
    }  # fmt: skip


def archive(**counts: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(4)
    sizes = {"train": 60, "val": 30, "test": 40, **counts}
    return [row(number, split, rng) for split, count in sizes.items() for number in range(count)]


def named(results: list[Result]) -> dict[tuple[str, str], Result]:
    return {(one.metric, one.finding): one for one in results}


def naive_shares(rows: list[dict[str, Any]], finding: str, split: str, k: int) -> dict[str, float]:
    """Share of every study of a split, by loops."""
    voters = [one for one in rows if one["split"] == "train"]
    known = [one for one in voters if finding in (*one["findings"], *one["absent"])]
    usual = float(np.mean([finding in one["findings"] for one in known]))
    shares = {}
    for query in (one for one in rows if one["split"] == split):
        cosines = []
        for one in voters:
            left, right = np.array(one["embedding"]), np.array(query["embedding"])
            cosines.append(float(left @ right / np.linalg.norm(left) / np.linalg.norm(right)))
        best = sorted(range(len(voters)), key=lambda index: -cosines[index])[:k]
        heard = [index for index in best if voters[index] in known and cosines[index] > 0]
        total = sum(cosines[index] for index in heard)
        above = sum(cosines[index] for index in heard if finding in voters[index]["findings"])
        shares[query["study_id"]] = above / total if total else usual
    return shares


def naive_auroc(rows: list[dict[str, Any]], finding: str, split: str, k: int) -> float:
    shares = naive_shares(rows, finding, split, k)
    asked = [one for one in rows if one["split"] == split and finding in (*one["findings"], *one["absent"])]
    return float(
        roc_auc_score([finding in one["findings"] for one in asked], [shares[one["study_id"]] for one in asked])
    )


def test_the_vote_equals_loops_and_k_is_the_best_on_the_threshold_split() -> None:
    rows = archive()
    ks = [k for k in KS if k < 60] + [60]
    on_val = [np.mean([naive_auroc(rows, finding, "val", k) for finding in FINDINGS]) for k in ks]
    k = ks[int(np.argmax(on_val))]
    results = named(estimate(rows, config()))
    for finding in FINDINGS:
        expected = naive_auroc(rows, finding, "test", k)
        assert results["knn_auroc", finding].value == pytest.approx(expected, abs=1e-6)
    macro = results["knn_auroc", MACRO]
    assert macro.value == pytest.approx(np.mean([results["knn_auroc", one].value for one in FINDINGS]), abs=1e-6)
    assert macro.low < macro.value < macro.high
    assert f"vote of the {k} nearest of 60 studies (train), k chosen on the 30 studies of val" in macro.method


def test_k_is_not_chosen_by_looking_at_the_scored_studies() -> None:
    rows = archive()
    other = [{**one, "findings": one["absent"], "absent": one["findings"]} if one["split"] == "test" else one
             for one in rows]  # fmt: skip
    before, after = named(estimate(rows, config())), named(estimate(other, config()))
    assert before["knn_auroc", MACRO].method == after["knn_auroc", MACRO].method
    assert after["knn_auroc", "mass"].value == pytest.approx(1.0 - before["knn_auroc", "mass"].value, abs=1e-6)


def test_nobody_votes_unless_asked_and_studies_without_labels_choose_nothing() -> None:
    assert estimate(archive(), config(voters=[])) == []
    assert estimate(archive(train=0), config()) == []
    results = named(estimate(archive(val=0), config()))
    assert "k taken as usual" in results["knn_auroc", MACRO].method
    assert f"vote of the {USUAL_K} nearest" in results["knn_auroc", MACRO].method


def test_a_study_whose_neighbours_all_say_nothing_is_scored_by_the_share_of_all() -> None:
    rng = np.random.default_rng(0)
    rows = archive()
    silent = [row(900 + n, "train", rng, findings=[], absent=[], embedding=[1.0, 0.01 * n]) for n in range(300)]
    query = row(990, "test", rng, findings=["mass"], absent=["edema"], embedding=[1.0, 0.0])
    results = named(estimate([*rows, *silent, query], config()))
    assert results["knn_auroc", "mass"].n_positive == 1 + sum(
        "mass" in one["findings"] for one in rows if one["split"] == "test"
    )


def test_uncertain_labels_follow_the_policy() -> None:
    rows = archive()
    known = sum("mass" in (*one["findings"], *one["absent"]) for one in rows if one["query"])
    rows = [{**one, "uncertain": ["mass"]} if "mass" not in (*one["findings"], *one["absent"]) else one for one in rows]
    positives = {
        policy: named(estimate(rows, config(uncertain=policy)))["knn_auroc", "mass"].n_positive
        for policy in ("ignore", "positive", "negative")
    }
    assert positives["positive"] - positives["ignore"] == 40 - known
    assert positives["negative"] == positives["ignore"]


def test_baselines_vote_by_their_own_neighbours() -> None:
    rng = np.random.default_rng(8)
    rows = [
        {**one, "age": 40.0, "sex": "F" if "mass" in one["findings"] else "M", "tower": rng.normal(size=6).tolist(),
         "thumbnail": one["embedding"]}
        for one in archive()
    ]  # fmt: skip
    results = named(estimate(rows, config()))
    assert {metric for metric, _ in results} == {
        "knn_auroc", "knn_auroc_metadata", "knn_auroc_pixels", "knn_auroc_tower"
    }  # fmt: skip
    assert results["knn_auroc_pixels", MACRO].value == results["knn_auroc", MACRO].value
    assert results["knn_auroc_tower", MACRO].value == pytest.approx(0.5, abs=0.2)
    assert results["knn_auroc_metadata", MACRO].value > 0.65
    assert ("knn_auroc_tower", "mass") not in results


def test_refused_studies_have_no_voice() -> None:
    rows = archive()
    refused = {**rows[0], "study_id": "refused", "status": "refused", "embedding": []}
    assert estimate([*rows, refused], config()) == estimate(rows, config())
