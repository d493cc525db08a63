"""How good a ranked list of cases is: precision at k, graded nDCG, and what random cases would give, exactly."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int


def rank_by_score(scores: Float[np.ndarray, " case"], keys: Sequence[str]) -> Int[np.ndarray, " case"]:
    """Case indices from best to worst; scores equal to 1e-6 are ordered by key, so that ties cannot wander."""
    rounded = np.round(np.asarray(scores, dtype=np.float64), 6)
    return np.lexsort((np.asarray(keys, dtype=str), -rounded))


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
