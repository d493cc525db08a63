"""The parameters of searching that reach a recall with the least time, measured against comparing every vector.

Half of the held-out queries choose, the other half measure what is stored: a recall that was chosen for would flatter
itself.
"""

from collections.abc import Iterator
from time import perf_counter

import numpy as np
from jaxtyping import Float32

from vlp.errors import DataError
from vlp.log import get_logger
from vlp.retrieval.kinds.base import RowSearcher
from vlp.retrieval.kinds.ivf import IvfSearcher
from vlp.retrieval.kinds.kind import HnswConfig, KindConfig, MeasuredRecall, checked_vectors

FEWEST_QUERIES = 20
_RERANKS = {"ivf_fastscan": (4, 10, 20, 40), "ivf_sq8": (1, 2, 4)}
_MOST_EFFORT = 2048
_STRIDE = 6
"""Steps of a ladder in which effort about doubles."""
_NO_MORE = 1e-4
"""Recall gained by twice the effort below which more effort is in vain."""
_SURE = 2.0
"""Standard errors that the recall of the choosing queries lies above the one asked for."""
_TIMED = 3
"""Searches whose quickest counts."""

logger = get_logger(__name__)


def tune(searcher: RowSearcher, queries: Float32[np.ndarray, "q dim"], recall: float, *, k: int = 10) -> KindConfig:
    """Sets the quickest parameters that find `recall` of the true `k` nearest, and stores what they find.

    Where none reaches it, those that find most are set and a warning is logged; `searcher.facts.recall` says what was
    found either way.

    Args:
        searcher: built; its parameters and measured recall change.
        queries: like those to come and, best, not among the vectors: at least 20.
        recall: between 0 and 1.
        k: how many nearest neighbours count.

    Returns:
        The parameters, as in `searcher.facts.parameters`.

    Raises:
        DataError: for too few queries, or a recall out of range.
    """
    unit = checked_vectors(queries, searcher.dim, what="queries")
    if len(unit) < FEWEST_QUERIES:
        raise DataError(f"tuning needs at least {FEWEST_QUERIES} queries, not {len(unit)}")
    if not 0.0 < recall <= 1.0:
        raise DataError(f"recall must be above 0 and at most 1, not {recall}")
    truth = true_neighbours(searcher, unit, k)
    chosen = _quickest(searcher, unit[::2], truth[::2], recall)
    searcher.config = chosen
    found = recall_of(searcher.search(unit[1::2], k)[1], truth[1::2])
    if found < recall:
        logger.warning("recall %.4f of the nearest %d, below the %.4f that was asked for", found, k, recall)
    searcher.recall = MeasuredRecall(k=k, asked=recall, found=found, queries=len(unit[1::2]))
    return chosen


def true_neighbours(searcher: RowSearcher, queries: Float32[np.ndarray, "q dim"], k: int) -> np.ndarray:
    """Ids [q, k] of the nearest vectors, by comparing them all."""
    unit = checked_vectors(queries, searcher.dim, what="queries")
    ids: np.ndarray = searcher.rows.ids[searcher.rows.exact(unit, k, searcher.rows.mask(None))[1]]
    return ids


def recall_of(found: np.ndarray, truth: np.ndarray) -> float:
    """Mean share of the true neighbours' ids that were found; 1 where there are none."""
    return float(_shares(found, truth).mean())


def _shares(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    if truth.size == 0:
        return np.ones(1)
    return np.array([np.isin(true, some).mean() for some, true in zip(found, truth, strict=True)])


def _quickest(searcher: RowSearcher, queries: np.ndarray, truth: np.ndarray, recall: float) -> KindConfig:
    best: tuple[bool, float, KindConfig] | None = None
    for ladder in _ladders(searcher, truth.shape[1]):
        config, share = _lowest(searcher, ladder, queries, truth, recall)
        reached = share >= recall
        # Reaching it comes first, then the least time; where nothing reaches it, what finds most.
        rank = (not reached, _seconds(searcher, config, queries, truth.shape[1]) if reached else -share, config)
        if best is None or rank[:2] < best[:2]:
            best = rank
    assert best is not None
    return best[2]


def _lowest(
    searcher: RowSearcher, ladder: list[KindConfig], queries: np.ndarray, truth: np.ndarray, recall: float
) -> tuple[KindConfig, float]:
    """The first step of a ladder, and its recall, that is enough; else the last one that found more.

    Effort about doubles until it is enough, then the steps between are halved: recall grows with effort, and the most
    effort of a large index takes longer than all the rest.
    """
    last, most = -1, -1.0
    for step in [*range(0, len(ladder) - 1, _STRIDE), len(ladder) - 1]:
        share = _share(searcher, ladder[step], queries, truth)
        if share >= recall:
            return _between(searcher, ladder, (last, step), queries, truth, recall)
        if share - most < _NO_MORE and most > 0.5:
            break
        last, most = step, max(most, share)
    return ladder[last], most


def _between(
    searcher: RowSearcher,
    ladder: list[KindConfig],
    steps: tuple[int, int],
    queries: np.ndarray,
    truth: np.ndarray,
    recall: float,
) -> tuple[KindConfig, float]:
    """The first step that is enough, where the lower one is not and the upper one is."""
    below, above = steps
    while above - below > 1:
        middle = (below + above) // 2
        if _share(searcher, ladder[middle], queries, truth) >= recall:
            above = middle
        else:
            below = middle
    return ladder[above], recall


def _ladders(searcher: RowSearcher, k: int) -> Iterator[list[KindConfig]]:
    """Parameters from the least effort to the most, in one sequence for every way to spend it."""
    config = searcher.config
    if isinstance(config, HnswConfig):
        yield [config.model_copy(update={"effort": effort}) for effort in _steps(10, _MOST_EFFORT)]
    elif isinstance(searcher, IvfSearcher) and searcher.lists:
        for rerank in _RERANKS[config.kind]:
            probes = _steps(1, searcher.lists)
            ladder = [config.model_copy(update={"probes": lists, "rerank": rerank}) for lists in probes]
            searcher.config = ladder[0]
            if rerank == _RERANKS[config.kind][0] or searcher.takes_short_cut(k, len(searcher)):
                yield ladder
    else:
        yield [config]


def _steps(least: int, most: int) -> list[int]:
    """Whole numbers that grow by about a seventh."""
    steps = np.unique(np.geomspace(least, most, num=max(2, int(8 * np.log(most / least) + 1))).round().astype(int))
    return [int(step) for step in steps]


def _share(searcher: RowSearcher, config: KindConfig, queries: np.ndarray, truth: np.ndarray) -> float:
    """Recall less its error: other queries should find as much, not only these."""
    searcher.config = config
    shares = _shares(searcher.search(queries, max(1, truth.shape[1]))[1], truth)
    return float(shares.mean() - _SURE * shares.std() / np.sqrt(len(shares)))


def _seconds(searcher: RowSearcher, config: KindConfig, queries: np.ndarray, k: int) -> float:
    searcher.config = config
    times = []
    for _ in range(_TIMED):
        started = perf_counter()
        searcher.search(queries, max(1, k))
        times.append(perf_counter() - started)
    return min(times)
