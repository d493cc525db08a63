"""Similar cases, scored: how relevant the nearest ones are, against random ones and against simpler ways to look."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from vlp.evaluate import predictions, retrieval_rankers, retrieval_vote
from vlp.evaluate.config import EvaluateConfig
from vlp.evaluate.results import ALL, Result, result
from vlp.evaluate.retrieval_rankers import MODEL, WORDS, ByVector, Cases, Ranker
from vlp.metrics import retrieval as measure
from vlp.metrics.bootstrap import Resamples, Sampled, mean_over_patients, ratio

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
        self._cases = Cases(self.cases)
        self._model = ByVector(self.cases, MODEL)
        self._positive = self._hot(self.cases)

    def search(self, query: Mapping[str, Any], *, by: Ranker | None = None) -> Neighbours:
        """All cases of other patients, by descending score (the cosine of the model's vectors), ties by key."""
        ranked, scores = self._cases.ordered(query, by=by or self._model)
        own = self._hot([query])[0]
        shared = self._positive[ranked] @ own
        united = self._positive[ranked].sum(axis=1) + own.sum() - shared
        return Neighbours(
            query=query,
            cases=[self.cases[index] for index in ranked],
            scores=scores,
            gains=np.where(united > 0, shared / np.maximum(united, 1.0), 0.0),
        )

    def _hot(self, rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
        column = {name: index for index, name in enumerate(self._names)}
        hot = np.zeros((len(rows), len(self._names)))
        for index, row in enumerate(rows):
            hot[index, [column[name] for name in row["findings"]]] = 1.0
        return hot


def estimate(rows: Sequence[Mapping[str, Any]], config: EvaluateConfig) -> list[Result]:
    """Every figure of the ranking, with what random cases and the baselines reach, and how the neighbours vote.

    Precision and hits at every k, average precision at R, reciprocal rank, and nDCG.  "X_random" is the exact
    expectation of random cases, "X_metadata", "X_pixels" and "X_tower" what the baselines of `retrieval_rankers` give
    (where the file has their columns), and "X_over_..." the ratio to each, on the same resamples.

    A case is relevant if it shares a positive finding with the query.  Queries that no case is relevant to are left
    out and counted.  Means are over patients, and query patients are resampled; the gallery is fixed.

    Args:
        rows: the studies with vectors and positive findings, as read from the file of this task.
        config: ks, resamples, level, seed, and who votes.
    """
    gallery = Gallery(rows)
    found = [gallery.search(query) for query in gallery.queries]
    answerable = [neighbours for neighbours in found if neighbours.gains.any()]
    queries = [neighbours.query for neighbours in answerable]
    left_out = (
        f"{len(answerable)} queries, {len(found) - len(answerable)} left out with nothing relevant in the gallery of "
        f"{len(gallery.cases)}; own patient excluded"
    )
    columns = {
        "": [_measured(one.gains, config) for one in answerable],
        "random": [_by_chance(one.gains, config) for one in answerable],
    }
    for name, ranker in retrieval_rankers.baselines(gallery.cases, gallery.queries).items():
        columns[name] = [_measured(gallery.search(query, by=ranker).gains, config) for query in queries]
    return _table(columns, [query["patient_id"] for query in queries], config, left_out) + retrieval_vote.estimate(
        rows, config
    )


def figures(config: EvaluateConfig) -> tuple[str, ...]:
    """Names of the figures of a ranking, in their order."""
    per_k = [f"{name}_at_{k}" for name in ("precision", "hit") for k in config.ks]
    return (*per_k, "map_at_r", "mrr", f"ndcg_at_{config.ndcg_k}")


def _measured(gains: Float[np.ndarray, " rank"], config: EvaluateConfig) -> list[float]:
    """The value of every figure for one query."""
    relevant = gains > 0
    return [
        *(measure.precision_at_k(relevant, k) for k in config.ks),
        *(measure.hit_at_k(relevant, k) for k in config.ks),
        measure.average_precision_at_r(relevant),
        measure.reciprocal_rank(relevant),
        measure.ndcg(gains, gains, config.ndcg_k),
    ]


def _by_chance(gains: Float[np.ndarray, " rank"], config: EvaluateConfig) -> list[float]:
    """The expectation of every figure for the same cases in random order."""
    relevant, cases = int((gains > 0).sum()), len(gains)
    return [
        *(measure.precision_at_k_of_random(relevant, cases, k) for k in config.ks),
        *(measure.hit_at_k_of_random(relevant, cases, k) for k in config.ks),
        measure.average_precision_at_r_of_random(relevant, cases),
        measure.reciprocal_rank_of_random(relevant, cases),
        measure.ndcg_of_random(gains, config.ndcg_k),
    ]


def _table(
    columns: Mapping[str, Sequence[Sequence[float]]], patients: Sequence[str], config: EvaluateConfig, method: str
) -> list[Result]:
    """One result per figure and column, and the ratio of the first column to each of the others."""
    draws = Resamples.draw(patients, resamples=config.resamples, seed=config.seed)

    def sample(values: list[float]) -> Sampled:
        return draws.sample(mean_over_patients(np.array(values), patients), patients, n_positive=len(values))

    results: list[Result] = []
    for number, figure in enumerate(figures(config)):
        sampled = {name: sample([values[number] for values in column]) for name, column in columns.items()}
        for name, column in sampled.items():
            cells = {f"{figure}_{name}" if name else figure: column}
            if name:
                cells[f"{figure}_over_{name}"] = ratio(sampled[""], column)
            words = f"{method}; {WORDS[name]}" if name in WORDS else method
            results += [
                result(TASK, metric, ALL, cell.estimate(level=config.level), method=words)
                for metric, cell in cells.items()
            ]
    return results
