from typing import Any

import numpy as np
import pytest

from vlp.config import validate
from vlp.evaluate.config import EvaluateConfig
from vlp.evaluate.retrieval import Gallery, estimate, figures

FINDINGS = ("edema", "mass", "nodule")


def config(**changes: Any) -> EvaluateConfig:
    values = {"checkpoint": "a", "shards": "b", "output": "c", "resamples": 200, "ks": [1, 3], "ndcg_k": 3, **changes}
    return validate(EvaluateConfig, values, where="test")


def case(key: str, patient: str, findings: list[str], vector: list[float], **changes: Any) -> dict[str, Any]:
    row = {"study_id": key, "patient_id": patient, "findings": findings, "embedding": vector, "status": "ok"}
    return {**row, "query": True, "gallery": True, **changes}


def archive(*, seed: int = 0) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(40):
        present = [finding for finding in FINDINGS if rng.random() < 0.4]
        vector = [float(finding in present) + 0.4 * rng.normal() for finding in FINDINGS]
        rows.append(case(f"k{number:02d}", f"p{number // 2}", present, vector))
    return rows


def naive(rows: list[dict[str, Any]], k: int) -> tuple[float, float]:
    """(precision at k, expectation of random cases), patient by patient, by the book."""
    per_patient: dict[str, list[tuple[float, float]]] = {}
    for query in rows:
        others = [row for row in rows if row["patient_id"] != query["patient_id"]]
        relevant = [bool(set(row["findings"]) & set(query["findings"])) for row in others]
        if not any(relevant):
            continue
        unit = [np.array(row["embedding"]) / np.linalg.norm(row["embedding"]) for row in others]
        cosines = [float(vector @ np.array(query["embedding"])) for vector in unit]
        best = sorted(range(len(others)), key=lambda index: -cosines[index])[:k]
        figures = (np.mean([relevant[index] for index in best]), np.mean(relevant))
        per_patient.setdefault(query["patient_id"], []).append(figures)
    means = np.array([np.mean(figures, axis=0) for figures in per_patient.values()])
    ours, chance = means.mean(axis=0)
    return float(ours), float(chance)


def test_figures_equal_a_loop_over_queries_and_patients() -> None:
    rows = archive()
    results = {row.metric: row for row in estimate(rows, config())}
    for k in (1, 3):
        ours, chance = naive(rows, k)
        assert results[f"precision_at_{k}"].value == pytest.approx(ours, abs=1e-6)
        assert results[f"precision_at_{k}_random"].value == pytest.approx(chance, abs=1e-6)
        assert results[f"precision_at_{k}_over_random"].value == pytest.approx(ours / chance, abs=1e-5)


def test_the_querys_own_patient_never_answers() -> None:
    gallery = Gallery(archive())
    for query in gallery.queries:
        found = gallery.search(query)
        assert query["patient_id"] not in {row["patient_id"] for row in found.cases}
        assert len(found.cases) == 38


def with_facts(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with what the baselines look at: sex follows from the findings, thumbnails and tower are noise."""
    rng = np.random.default_rng(9)
    return [
        {
            **row, "view": "PA", "age": 40.0, "sex": "F" if "mass" in row["findings"] else "M",
            "tower": rng.normal(size=8).tolist(), "thumbnail": rng.normal(size=8).tolist(),
        }
        for row in rows
    ]  # fmt: skip


def test_hits_ranks_and_average_precision_equal_a_loop() -> None:
    rows = archive()
    results = {row.metric: row.value for row in estimate(rows, config())}
    values: dict[str, list[tuple[float, ...]]] = {}
    for query in rows:
        found = Gallery(rows).search(query)
        relevant = [bool(set(one["findings"]) & set(query["findings"])) for one in found.cases]
        total = sum(relevant)
        if total:
            precision = [sum(relevant[: rank + 1]) / (rank + 1) for rank in range(total) if relevant[rank]]
            figures = (float(any(relevant[:3])), sum(precision) / total, 1.0 / (relevant.index(True) + 1))
            values.setdefault(query["patient_id"], []).append(figures)
    expected = np.mean([np.mean(own, axis=0) for own in values.values()], axis=0)
    assert [results["hit_at_3"], results["map_at_r"], results["mrr"]] == pytest.approx(expected, abs=1e-6)
    assert results["map_at_r_random"] < results["map_at_r"]
    assert results["mrr_over_random"] == pytest.approx(results["mrr"] / results["mrr_random"], abs=1e-5)


def test_baselines_stand_beside_the_model_on_the_same_queries() -> None:
    rows = with_facts(archive())
    results = {row.metric: row for row in estimate(rows, config())}
    for figure in ("precision_at_1", "hit_at_3", "map_at_r", "mrr", "ndcg_at_3"):
        names = {metric for metric in results if metric.startswith(figure)}
        others = ("random", "metadata", "pixels", "tower")
        assert names == {
            figure,
            *(f"{figure}_{name}" for name in others),
            *(f"{figure}_over_{name}" for name in others),
        }
        assert len({results[name].n_positive for name in names}) == 1
    # Sex gives the mass away; noise gives away nothing.
    assert results["precision_at_3_over_random"].low > 1.0
    assert results["precision_at_3_metadata"].value > results["precision_at_3_random"].value + 0.1
    for name in ("pixels", "tower"):
        assert results[f"precision_at_3_{name}"].value == pytest.approx(results["precision_at_3_random"].value, abs=0.1)
    assert "same view, sex and decade of age" in results["mrr_metadata"].method


def test_a_ranker_that_is_the_model_has_the_ratio_one() -> None:
    rows = [{**row, "tower": row["embedding"]} for row in with_facts(archive())]
    results = {row.metric: row for row in estimate(rows, config())}
    assert results["ndcg_at_3_over_tower"].value == 1.0


def test_the_order_of_rows_changes_nothing() -> None:
    rows = with_facts(archive())
    assert estimate(rows, config()) == estimate(rows[::-1], config())


def test_random_vectors_reach_the_random_rate() -> None:
    rng = np.random.default_rng(3)
    rows = [
        case(f"{number:03d}", str(number), ["mass"] if number % 3 else ["edema"], rng.normal(size=8).tolist())
        for number in range(150)
    ]
    results = {row.metric: row for row in estimate(rows, config())}
    over = results["precision_at_3_over_random"]
    assert over.low < 1.0 < over.high
    assert results["precision_at_3_random"].value == pytest.approx(results["precision_at_3"].value, abs=0.08)


def test_queries_without_anything_relevant_are_counted_and_left_out() -> None:
    rows = [*archive(), case("normal", "alone", [], [0.1, 0.1, 0.1])]
    results = estimate(rows, config())
    queries = [row for row in archive() if row["findings"]]
    left_out = 41 - len(queries)
    assert f"{len(queries)} queries, {left_out} left out" in results[0].method
    assert results[0].n_positive == len(queries)


def test_gains_are_the_jaccard_index_and_ties_go_by_key() -> None:
    rows = [
        case("q", "1", ["edema", "mass"], [1.0, 0.0]),
        case("b", "2", ["mass"], [1.0, 0.0]),
        case("a", "3", ["edema", "mass", "nodule"], [1.0, 0.0]),
        case("c", "4", [], [0.0, 1.0]),
    ]
    found = Gallery(rows).search(rows[0])
    assert [row["study_id"] for row in found.cases] == ["a", "b", "c"]
    assert found.gains == pytest.approx([2 / 3, 1 / 2, 0.0])


def test_only_gallery_studies_answer_and_only_queries_ask() -> None:
    rows = [case("q", "1", ["mass"], [1.0, 0.0], gallery=False), case("g", "2", ["mass"], [1.0, 0.1], query=False)]
    gallery = Gallery(rows)
    assert [row["study_id"] for row in gallery.queries] == ["q"]
    assert [row["study_id"] for row in gallery.search(gallery.queries[0]).cases] == ["g"]
    assert {row.metric: row.value for row in estimate(rows, config())}["precision_at_3"] == pytest.approx(
        1 / 3, abs=1e-6
    )


def test_figures_have_the_names_that_results_have() -> None:
    names = figures(config())
    assert names == ("precision_at_1", "precision_at_3", "hit_at_1", "hit_at_3", "map_at_r", "mrr", "ndcg_at_3")
    assert set(names) <= {row.metric for row in estimate(archive(), config())}


def test_an_archive_without_relevant_cases_has_no_figure() -> None:
    rows = [case("a", "1", ["mass"], [1.0, 0.0]), case("b", "2", ["edema"], [0.0, 1.0])]
    assert all(row.value is None for row in estimate(rows, config()))
