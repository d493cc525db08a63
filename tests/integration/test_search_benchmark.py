"""The program that measures searching: that both sides search the same index, and that its figures are right."""

import faiss
import numpy as np
import pytest

from benchmarks.line import Line
from benchmarks.search import CONFIGS, Setting, _built, _direct, _in_turns, measure, verdicts
from benchmarks.search_data import draw, profile
from vlp.retrieval.kinds import recall_of


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(before)


@pytest.fixture(scope="module")
def lines() -> list[Line]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.search._ADDED", 1000)
        return measure(3000, dim=32, rounds=2, queries=60, held_out=200)


def _value(lines: list[Line], part: str, metric: str) -> Line:
    (line,) = [line for line in lines if line.case == f"3,000 x 32, {part}" and line.metric == metric]
    return line


def test_data_are_wide_clusters_of_unit_vectors_and_the_same_again() -> None:
    drawn, again = draw(2000, dim=64, queries=50), draw(2000, dim=64, queries=50)
    np.testing.assert_array_equal(drawn.queries, again.queries)
    np.testing.assert_allclose(np.linalg.norm(drawn.vectors, axis=1), 1.0, atol=1e-5)
    scores = np.sort(drawn.queries @ drawn.vectors.T, axis=1)[:, ::-1][:, :10]
    found = profile(drawn, scores)
    # The nearest is well above any vector, and the tenth not far below the nearest: nobody's list holds them all.
    assert found["cosine of any"] + 2 * found["spread of any"] < found["cosine of 10th"] < found["cosine of nearest"]
    assert found["cosine of nearest"] < 0.9
    assert found["local dimension"] > 8


def test_the_local_dimension_of_a_flat_sheet_is_two() -> None:
    rng = np.random.default_rng(0)
    sheet = np.concatenate([1e-2 * rng.uniform(-1, 1, size=(20_000, 2)), np.ones((20_000, 1))], axis=1)
    sheet /= np.linalg.norm(sheet, axis=1, keepdims=True)
    drawn = draw(2, dim=3, queries=1)
    distances = np.sort(((sheet[:300, None] - sheet[None]) ** 2).sum(axis=2), axis=1)[:, 1:31]
    assert profile(drawn, (1.0 - distances / 2.0))["local dimension"] == pytest.approx(2.0, abs=0.2)


def test_every_kind_is_measured_at_both_recalls(lines: list[Line]) -> None:
    for kind in CONFIGS:
        for recall in (0.95, 0.99):
            part = f"{kind} recall {recall}"
            assert _value(lines, part, "recall@10").value >= recall - 0.05
            assert _value(lines, part, "ours, batch").value > 0
            assert _value(lines, part, "ours, batch").ratio > 0
            assert _value(lines, part, "faiss, one by one").unit == "ms"
        assert _value(lines, kind, "memory").value > 0


def test_filters_are_measured_with_what_was_wrongly_returned(lines: list[Line]) -> None:
    for kind in CONFIGS:
        for share in ("0.1", "1", "10", "50"):
            assert _value(lines, f"{kind}, {share} % allowed", "excluded ids returned").value == 0
            assert _value(lines, f"{kind}, {share} % allowed", "filtered recall@10").value > 0.9


def test_what_was_added_is_found_and_what_was_removed_is_not(lines: list[Line]) -> None:
    for kind in ("flat", "ivf_fastscan"):
        assert _value(lines, kind, "added are found").value > 0.9
        assert _value(lines, kind, "removed are found").value == 0.0


def test_faiss_is_given_the_same_index_and_parameters() -> None:
    drawn = draw(3000, dim=32, queries=60)
    direct = faiss.IndexFlatIP(32)
    direct.add(drawn.vectors)
    truth = direct.search(drawn.queries, 10)[1]
    setting = Setting(drawn=drawn, truth=truth, case="x", rounds=1, singles=1, direct=direct)
    for kind, searcher in _built(setting, list(CONFIGS)).items():
        for effort in (1, 40):
            fields = {"hnsw": {"effort": 10 * effort}, "flat": {}}.get(kind, {"probes": effort})
            searcher.config = searcher.config.model_copy(update=fields)
            _, by_faiss = _direct(searcher, setting)(drawn.queries)
            ours = searcher.search(drawn.queries, 10)[1]
            assert recall_of(by_faiss, truth) == pytest.approx(recall_of(ours, truth), abs=0.08)


def test_ways_take_turns() -> None:
    order: list[str] = []
    turns = _in_turns({name: lambda name=name: order.append(name) for name in "ab"}, 2)
    assert order == ["a", "b", "a", "b", "a", "b"]
    assert {name: len(times) for name, times in turns.items()} == {"a": 2, "b": 2}


def test_verdicts_compare_with_what_is_asked() -> None:
    def line(part: str, metric: str, value: float, ratio: float | None = None) -> Line:
        return Line(benchmark="search", case=f"9 x 9, {part}", metric=metric, value=value, ratio=ratio, baseline="b")

    good = [
        line("hnsw recall 0.95", "recall@10", 0.951),
        line("hnsw recall 0.95", "ours, batch", 5.0, 0.91),
        line("automatic 0.95", "flat, batch", 5.0, 0.86),
        line("flat, 1 % allowed", "filtered recall@10", 0.96),
        line("flat, 1 % allowed", "excluded ids returned", 0),
        line("flat, one query", "faiss reads", 7.0),
        line("flat, one query", "ours reads", 8.0),
    ]
    bad = [
        line("hnsw recall 0.99", "recall@10", 0.985),
        line("hnsw recall 0.95", "ours, batch", 5.0, 0.89),
        line("automatic 0.95", "flat, batch", 5.0, 0.84),
        line("flat, 1 % allowed", "filtered recall@10", 0.94),
        line("flat, 1 % allowed", "excluded ids returned", 1),
        line("flat, one query", "faiss reads", 9.0),
        line("flat, one query", "ours reads", 8.0),
    ]
    assert len(verdicts(good)) == len(verdicts(bad)) == 6
    assert all(words.endswith(": met") for words in verdicts(good))
    assert all(words.endswith("NOT MET") for words in verdicts(bad))
