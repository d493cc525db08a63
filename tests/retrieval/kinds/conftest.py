from collections.abc import Callable, Iterator

import faiss
import numpy as np
import pytest

DIM = 32


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other are slow where others work too; `test_rows` asks for two."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(before)


@pytest.fixture(scope="session")
def drawn() -> Callable[..., np.ndarray]:
    """Unit vectors in wide clusters."""

    def draw(count: int, *, dim: int = DIM, seed: int = 0) -> np.ndarray:
        rng = np.random.default_rng(seed)
        centres = np.random.default_rng(99).normal(size=(20, dim))
        vectors = centres[rng.integers(0, 20, count)] + 1.2 * rng.normal(size=(count, dim))
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    return draw


@pytest.fixture(scope="session")
def naive() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Cosines and ids in the stated order, by sorting everything in float64."""

    def search(vectors, ids, queries, k, *, allowed=None):
        kept = np.ones(len(ids), bool) if allowed is None else np.isin(ids, allowed)
        scores, kept_ids = _cosines(queries, vectors[kept]), ids[kept]
        order = np.stack([np.lexsort((kept_ids, -np.round(row, 6))) for row in scores])[:, :k]
        return np.take_along_axis(scores, order, 1), kept_ids[order]

    return search


@pytest.fixture(scope="session")
def is_nearest(naive) -> Callable[..., bool]:
    """Whether these are the nearest vectors' cosines and ids: places change only between scores 1e-6 apart."""

    def check(found, vectors, ids, queries, k, *, allowed=None):
        scores, found_ids = found
        true_scores, true_ids = naive(vectors, ids, queries, k, allowed=allowed)
        by_id = np.argsort(ids)
        rows = by_id[np.searchsorted(ids[by_id], found_ids)]
        own = np.take_along_axis(_cosines(queries, vectors), rows, 1)
        assert found_ids.shape == true_ids.shape
        assert (found_ids == true_ids).mean() > 0.98
        assert all(len(set(row)) == len(row) for row in found_ids.tolist())
        return np.allclose(scores, true_scores, atol=3e-6) and np.allclose(scores, own, atol=3e-6)

    return check


def _cosines(queries: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    stored = vectors.astype(np.float16).astype(np.float64)
    stored /= np.linalg.norm(stored, axis=1, keepdims=True)
    exact = queries.astype(np.float64)
    return (exact / np.linalg.norm(exact, axis=1, keepdims=True)) @ stored.T
