"""Similar cases, scored: precision at k and graded nDCG against what random cases of other patients would give."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from vlp.evaluate import predictions
from vlp.evaluate.config import EvaluateConfig
from vlp.evaluate.results import ALL, Result, result
from vlp.metrics.bootstrap import Resamples, Sampled, mean_over_patients, ratio
from vlp.metrics.retrieval import ndcg, ndcg_of_random, precision_at_k, precision_at_k_of_random, rank_by_score

TASK = "retrieval"


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """The gallery as one query sees it: other patients' studies, best first."""

    query: Mapping[str, Any]
    cases: list[Mapping[str, Any]]
    scores: Float[np.ndarray, " case"]
    gains: Float[np.ndarray, " case"]
    """Jaccard index of the positive findings of query and case."""


class Gallery:
    """Cases that can be returned, with their vectors and findings."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        good = predictions.scored([dict(row) for row in rows])
        self.queries: list[Mapping[str, Any]] = [row for row in good if row["query"]]
        self.cases: list[Mapping[str, Any]] = [row for row in good if row["gallery"]]
        self._names = sorted({name for row in good for name in row["findings"]})
        self._vectors = self._stack([row["embedding"] for row in self.cases])
        self._patients = np.array([row["patient_id"] for row in self.cases], dtype=object)
        self._positive = self._hot(self.cases)

    def search(self, query: Mapping[str, Any]) -> Neighbours:
        """All cases of other patients, by descending cosine, ties by key."""
        allowed = np.flatnonzero(self._patients != query["patient_id"])
        scores = self._vectors[allowed] @ self._stack([query["embedding"]])[0]
        order = rank_by_score(scores, [self.cases[index]["study_id"] for index in allowed])
        ranked = allowed[order]
        own = self._hot([query])[0]
        shared = self._positive[ranked] @ own
        united = self._positive[ranked].sum(axis=1) + own.sum() - shared
        return Neighbours(
            query=query,
            cases=[self.cases[index] for index in ranked],
            scores=scores[order],
            gains=np.where(united > 0, shared / np.maximum(united, 1.0), 0.0),
        )

    def _stack(self, vectors: Sequence[Sequence[float]]) -> np.ndarray:
        if not vectors:
            return np.zeros((0, 1))
        stacked = np.array(vectors, dtype=np.float64)
        norms = np.linalg.norm(stacked, axis=1, keepdims=True)
        result: np.ndarray = stacked / np.where(norms > 0, norms, 1.0)
        return result

    def _hot(self, rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
        column = {name: index for index, name in enumerate(self._names)}
        hot = np.zeros((len(rows), len(self._names)))
        for index, row in enumerate(rows):
            hot[index, [column[name] for name in row["findings"]]] = 1.0
        return hot


def estimate(rows: Sequence[Mapping[str, Any]], config: EvaluateConfig) -> list[Result]:
    """Precision at every k and nDCG, each with the rate of random cases and the ratio to it as rows of their own.

    A case is relevant if it shares a positive finding with the query.  Queries that no case is relevant to are left
    out and counted.  Means are over patients, and query patients are resampled; the gallery is fixed.

    Args:
        rows: the studies with vectors and positive findings, as read from the file of this task.
        config: ks, resamples, level and seed.
    """
    gallery = Gallery(rows)
    found = [gallery.search(query) for query in gallery.queries]
    answerable = [neighbours for neighbours in found if neighbours.gains.any()]
    patients = [neighbours.query["patient_id"] for neighbours in answerable]
    draws = Resamples.draw(patients, resamples=config.resamples, seed=config.seed)
    method = (
        f"{len(answerable)} queries, {len(found) - len(answerable)} left out with nothing relevant in the gallery of "
        f"{len(gallery.cases)}; own patient excluded"
    )

    def sample(values: list[float]) -> Sampled:
        statistic = mean_over_patients(np.array(values), patients)
        return draws.sample(statistic, patients, n_positive=len(values))

    results: list[Result] = []
    for name, ours, chance in _figures(answerable, config):
        measured, random = sample(ours), sample(chance)
        rows_of_figure = {name: measured, f"{name}_random": random, f"{name}_over_random": ratio(measured, random)}
        results += [
            result(TASK, metric, ALL, sampled.estimate(level=config.level), method=method)
            for metric, sampled in rows_of_figure.items()
        ]
    return results


def _figures(found: Sequence[Neighbours], config: EvaluateConfig) -> list[tuple[str, list[float], list[float]]]:
    """(name, value per query, expectation of random cases per query) of every figure."""
    figures = []
    for k in config.ks:
        ours = [precision_at_k(one.gains > 0, k) for one in found]
        chance = [precision_at_k_of_random(int((one.gains > 0).sum()), len(one.gains), k) for one in found]
        figures.append((f"precision_at_{k}", ours, chance))
    depth = config.ndcg_k
    graded = [ndcg(one.gains, one.gains, depth) for one in found]
    figures.append((f"ndcg_at_{depth}", graded, [ndcg_of_random(one.gains, depth) for one in found]))
    return figures
