"""How good a ranked list of cases is, and what random cases would give, exactly; and how cases vote.

Every figure has its expectation for cases in random order beside it, in closed form: R relevant ones among n cases,
drawn without replacement.  Nothing is simulated, so that a ratio to chance has no noise of its own.
"""

from collections.abc import Sequence
from math import comb

import numpy as np
from jaxtyping import Bool, Float, Int


def rank_by_score(
    scores: Float[np.ndarray, " case"], keys: Sequence[str] | Int[np.ndarray, " case"]
) -> Int[np.ndarray, " case"]:
    """Case indices from best to worst; scores equal to 1e-6 are ordered by key, so that ties cannot wander."""
    rounded = np.round(np.asarray(scores, dtype=np.float64), 6)
    return np.lexsort((np.asarray(keys), -rounded))


def precision_at_k(relevant: Bool[np.ndarray, " rank"], k: int) -> float:
    """Relevant cases among the first k, over k (so that a list shorter than k is not rewarded)."""
    _check_k(k)
    return float(np.count_nonzero(np.asarray(relevant)[:k]) / k)


def precision_at_k_of_random(num_relevant: int, num_cases: int, k: int) -> float:
    """The exact expectation of precision at k for cases drawn at random, without replacement, from the gallery."""
    _check_k(k)
    if num_cases == 0:
        return 0.0
    return min(k, num_cases) / k * num_relevant / num_cases


def hit_at_k(relevant: Bool[np.ndarray, " rank"], k: int) -> float:
    """1 if any of the first k cases is relevant, else 0 (what many papers call recall at k)."""
    _check_k(k)
    return float(np.asarray(relevant)[:k].any())


def hit_at_k_of_random(num_relevant: int, num_cases: int, k: int) -> float:
    """One minus the chance that none of k cases drawn without replacement is relevant: 1 - C(n - R, k) / C(n, k)."""
    _check_k(k)
    drawn = min(k, num_cases)
    return 1.0 - comb(num_cases - num_relevant, drawn) / comb(num_cases, drawn)


def average_precision_at_r(relevant: Bool[np.ndarray, " rank"]) -> float:
    """(1 / R) sum_{i <= R} P@i rel_i, with R the relevant cases of the whole list (Musgrave et al. 2020).

    Args:
        relevant: of every case of the gallery, in the order they were returned.

    Returns:
        In [0, 1]; NaN if nothing is relevant.
    """
    ranked = np.asarray(relevant, dtype=bool)
    total = int(ranked.sum())
    if total == 0:
        return float("nan")
    first = ranked[:total]
    precision = np.cumsum(first) / np.arange(1, total + 1)
    return float((precision * first).sum() / total)


def average_precision_at_r_of_random(num_relevant: int, num_cases: int) -> float:
    """The exact expectation of `average_precision_at_r` for cases in random order.

    E[P@i rel_i] = (R / n) (1 + (i - 1) (R - 1) / (n - 1)) / i: the case at rank i is relevant, and so is each of those
    before it with the chance that is left.
    """
    if num_relevant == 0:
        return float("nan")
    ranks = np.arange(1, num_relevant + 1)
    others = (num_relevant - 1) / (num_cases - 1) if num_cases > 1 else 0.0
    return float((num_relevant / num_cases * (1.0 + (ranks - 1) * others) / ranks).sum() / num_relevant)


def reciprocal_rank(relevant: Bool[np.ndarray, " rank"]) -> float:
    """1 / rank of the first relevant case, counted from 1; 0 if there is none.  Its mean is the MRR."""
    ranks = np.flatnonzero(relevant)
    return float(1.0 / (ranks[0] + 1)) if ranks.size else 0.0


def reciprocal_rank_of_random(num_relevant: int, num_cases: int) -> float:
    """The exact expectation of `reciprocal_rank`: sum over r of P(the first relevant case has rank r) / r."""
    total, none_before = 0.0, 1.0
    for rank in range(1, num_cases - num_relevant + 2) if num_relevant else ():
        left = num_cases - rank + 1
        total += none_before * num_relevant / left / rank
        none_before *= (left - num_relevant) / left
    return total


def vote_shares(
    votes: Float[np.ndarray, "case finding"], weights: Float[np.ndarray, " case"]
) -> Float[np.ndarray, " finding"]:
    """Per finding the weighted share of cases that have it: sum w_i y_i / sum w_i over the cases that say anything.

    The evidence of neighbours as in MedImageInsight (Codella et al. 2024).

    Args:
        votes: 1 has the finding, 0 does not, NaN says nothing and takes no part.
        weights: of the cases; below 0 counts as 0, so that a case unlike the query has no voice.

    Returns:
        In [0, 1]; NaN where no case with any weight says anything.
    """
    heard = np.maximum(np.asarray(weights, dtype=np.float64), 0.0)[:, None] * ~np.isnan(votes)
    total = heard.sum(axis=0)
    present = (heard * np.nan_to_num(votes)).sum(axis=0)
    shares: np.ndarray = np.where(total > 0, present / np.where(total > 0, total, 1.0), np.nan)
    return shares


def ndcg(ranked_gains: Float[np.ndarray, " rank"], all_gains: Float[np.ndarray, " case"], k: int) -> float:
    """sum_i g_i / log2(i + 1) over the first k, relative to the best order of all gains; linear gain.

    Args:
        ranked_gains: gain of the cases in the order they were returned.
        all_gains: gain of every case of the gallery, in any order.
        k: how many ranks count.

    Returns:
        In [0, 1]; NaN if no case has any gain.
    """
    ideal = _ideal(all_gains, k)
    return _dcg(np.asarray(ranked_gains, dtype=np.float64)[:k]) / ideal if ideal > 0 else float("nan")


def ndcg_of_random(all_gains: Float[np.ndarray, " case"], k: int) -> float:
    """The exact expectation of `ndcg` for cases in random order: every rank holds the mean gain on average."""
    ideal = _ideal(all_gains, k)
    ranks = min(k, len(all_gains))
    return _dcg(np.full(ranks, np.mean(all_gains))) / ideal if ideal > 0 else float("nan")


def _ideal(all_gains: np.ndarray, k: int) -> float:
    _check_k(k)
    return _dcg(np.sort(np.asarray(all_gains, dtype=np.float64))[::-1][:k])


def _dcg(gains: np.ndarray) -> float:
    return float((gains / np.log2(np.arange(len(gains)) + 2.0)).sum())


def _check_k(k: int) -> None:
    assert k >= 1, "k counts cases"
