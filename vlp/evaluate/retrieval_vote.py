"""Neighbours as a classifier: the nearest labelled cases vote, and their shares are scored as any score is.

After MedImageInsight (Codella et al. 2024).  Voters are other splits' studies; how many have a voice is chosen on the
threshold split, never on the studies that are scored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from vlp.evaluate import predictions
from vlp.evaluate.config import EvaluateConfig
from vlp.evaluate.results import MACRO, Result, result
from vlp.evaluate.retrieval_rankers import MODEL, WORDS, ByVector, Cases, Ranker, baselines
from vlp.metrics.bootstrap import Resamples, Sampled, macro_estimate
from vlp.metrics.policy import LEFT_OUT, apply_policy
from vlp.metrics.ranking import auroc_statistic, sample_auroc
from vlp.metrics.retrieval import vote_shares
from vlp.records import Certainty

TASK, METRIC = "retrieval", "knn_auroc"
KS = (5, 10, 20, 50, 100, 200)
"""How many neighbours may have a voice."""
USUAL_K = 50
"""Taken where no study is there to choose by."""
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Poll:
    """Who votes, and on what."""

    voters: Rows
    votes: Float[np.ndarray, "voter finding"]
    """1 has it, 0 has it not, NaN says nothing."""
    findings: tuple[str, ...]
    config: EvaluateConfig

    def shares(self, ranker: Ranker, queries: Rows, ks: Sequence[int]) -> Float[np.ndarray, "k query finding"]:
        """Similarity-weighted shares; where no neighbour says anything, that of all voters stands in."""
        usual = vote_shares(self.votes, np.ones(len(self.voters)))
        shares = np.empty((len(ks), len(queries), len(self.findings)))
        cases = Cases(self.voters)
        for number, query in enumerate(queries):
            near, scores = cases.ordered(query, by=ranker)
            for position, k in enumerate(ks):
                found = vote_shares(self.votes[near[:k]], scores[:k])
                shares[position, number] = np.where(np.isnan(found), usual, found)
        return shares

    def labels(self, rows: Rows) -> Float[np.ndarray, "row finding"]:
        """What rows are labelled with, by the policy."""
        return _labels(rows, self.findings, self.config)


def estimate(rows: Rows, config: EvaluateConfig) -> list[Result]:
    """AUROC of the vote per finding and as macro average, and the macro average of every baseline's neighbours.

    Args:
        rows: the studies of all splits, as read from the file of this task.
        config: who votes, label policy, findings, resamples, level and seed.

    Returns:
        Nothing if nobody votes.
    """
    good = predictions.scored([dict(row) for row in rows])
    voters = [row for row in good if row.get("split") in config.voters and row["embedding"]]
    if not voters:
        return []
    tested = [row for row in good if row["query"]]
    choosers = [row for row in good if row["split"] == config.threshold_split]
    findings = _findings(good) if config.findings == "auto" else config.findings
    poll = _Poll(voters=voters, votes=_labels(voters, findings, config), findings=findings, config=config)
    rankers: dict[str, Ranker] = {"": ByVector(voters, MODEL)}
    rankers |= baselines(voters, [*tested, *choosers])
    results = []
    for name, ranker in rankers.items():
        found = _of_ranker(poll, ranker, tested, choosers, name=name)
        results += found[:1] if name else found
    return results


def _of_ranker(poll: _Poll, ranker: Ranker, tested: Rows, choosers: Rows, *, name: str) -> list[Result]:
    """The macro average, then every finding."""
    config = poll.config
    k, chosen = _best_k(poll, ranker, choosers)
    scores = poll.shares(ranker, tested, [k])[0]
    labels = poll.labels(tested)
    patients = [row["patient_id"] for row in tested]
    draws = Resamples.draw(patients, resamples=config.resamples, seed=config.seed)
    members: dict[str, Sampled] = {}
    for column, finding in enumerate(poll.findings):
        known = np.flatnonzero(~np.isnan(labels[:, column]) & ~np.isnan(scores[:, column]))
        members[finding] = sample_auroc(
            draws, labels[known, column].astype(int), scores[known, column], [patients[index] for index in known]
        )
    method = f"similarity-weighted vote of the {k} nearest of {len(poll.voters)} studies ({', '.join(config.voters)})"
    method += f", k {chosen}" + (f"; {WORDS[name]}" if name else "")
    metric = f"{METRIC}_{name}" if name else METRIC
    average = result(TASK, metric, MACRO, macro_estimate(members, level=config.level), method=method)
    own = [
        result(TASK, metric, finding, member.estimate(level=config.level), method=method)
        for finding, member in members.items()
    ]
    return [average, *own]


def _best_k(poll: _Poll, ranker: Ranker, choosers: Rows) -> tuple[int, str]:
    """(how many neighbours vote, how that was decided); of equally good ones the fewest."""
    ks = sorted({min(k, len(poll.voters)) for k in KS})
    labels = poll.labels(choosers)
    shares = poll.shares(ranker, choosers, ks)
    values = [_mean_auroc(labels, scores) for scores in shares]
    if np.isnan(values).all():
        return min(USUAL_K, len(poll.voters)), "taken as usual, since no labelled study was there to choose it by"
    split = poll.config.threshold_split
    return ks[int(np.nanargmax(values))], f"chosen on the {len(choosers)} studies of {split}"


def _mean_auroc(labels: Float[np.ndarray, "row finding"], scores: Float[np.ndarray, "row finding"]) -> float:
    """Over the findings that have studies of both kinds; NaN if none has."""
    values = []
    for column in range(labels.shape[1]):
        known = ~np.isnan(labels[:, column]) & ~np.isnan(scores[:, column])
        if known.any():
            area = auroc_statistic(labels[known, column].astype(int), scores[known, column])
            values.append(float(area(np.ones((1, int(known.sum()))))[0]))
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")


def _labels(rows: Rows, findings: Sequence[str], config: EvaluateConfig) -> Float[np.ndarray, "row finding"]:
    """1, 0 or NaN by the label policy; what a study says nothing about is NaN."""
    table = np.full((len(rows), len(findings)), np.nan)
    for number, row in enumerate(rows):
        said = {
            **dict.fromkeys(row["uncertain"], Certainty.UNCERTAIN),
            **dict.fromkeys(row["absent"], Certainty.ABSENT),
            **dict.fromkeys(row["findings"], Certainty.PRESENT),
        }
        decided = apply_policy([said.get(finding) for finding in findings], config.uncertain)
        table[number] = np.where(decided == LEFT_OUT, np.nan, decided)
    return table


def _findings(rows: Rows) -> tuple[str, ...]:
    return tuple(sorted({name for row in rows for name in row["findings"]}))
