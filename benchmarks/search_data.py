"""Vectors to search that are as hard as embeddings are: wide clusters that run into each other, and their profile.

A point in 48 dimensions is drawn around one of 500 centres that lie no farther apart than the clusters are wide, bent
into the full width by a fixed random network, and blurred.  Tight clusters would flatter every index: one list holds
all neighbours of a query.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

_LATENT = 48
_HIDDEN = 256
_CLUSTERS = 500
_SPREAD = 1.2
"""Of a cluster, where centres have a spread of 1."""
_BLUR = 0.05
_DRAWN_ROWS = 65536
_COMPARED_ROWS = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Unit vectors to index, others to tune with, others to ask."""

    vectors: Float32[np.ndarray, "n dim"]
    held_out: Float32[np.ndarray, "h dim"]
    queries: Float32[np.ndarray, "q dim"]


def draw(count: int, *, dim: int = 512, held_out: int = 2000, queries: int = 1000, seed: int = 0) -> Drawn:
    """The same vectors for the same arguments."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((_CLUSTERS, _LATENT), dtype=np.float32)
    bend = rng.standard_normal((_LATENT, _HIDDEN), dtype=np.float32) / np.sqrt(np.float32(_LATENT))
    widen = rng.standard_normal((_HIDDEN, dim), dtype=np.float32) / np.sqrt(np.float32(_HIDDEN))
    every = np.empty((count + held_out + queries, dim), np.float32)
    for start in range(0, len(every), _DRAWN_ROWS):
        some = every[start : start + _DRAWN_ROWS]
        latent = centres[rng.integers(0, _CLUSTERS, len(some))]
        latent = latent + _SPREAD * rng.standard_normal(latent.shape, dtype=np.float32)
        np.matmul(np.tanh(latent @ bend), widen, out=some)
        some += _BLUR * rng.standard_normal(some.shape, dtype=np.float32)
        some /= np.linalg.norm(some, axis=1, keepdims=True)
    return Drawn(vectors=every[:count], held_out=every[count : count + held_out], queries=every[count + held_out :])


def profile(drawn: Drawn, scores: Float32[np.ndarray, "q k"]) -> dict[str, float]:
    """Mean cosines of queries with their nearest, their last of `k` and any vectors, and the dimension around them.

    The local dimension is Levina and Bickel's maximum likelihood estimate (2004) from the `k` distances: how fast
    neighbours grow in number with the distance.
    """
    random = drawn.queries @ drawn.vectors[:_COMPARED_ROWS].T
    distances = np.sqrt(np.maximum(2.0 - 2.0 * scores.astype(np.float64), 1e-12))
    logs = np.log(distances[:, -1:] / distances[:, :-1])
    return {
        "cosine of nearest": float(scores[:, 0].mean()),
        f"cosine of {scores.shape[1]}th": float(scores[:, -1].mean()),
        "cosine of any": float(random.mean()),
        "spread of any": float(random.std()),
        "local dimension": float(np.mean((scores.shape[1] - 2) / logs.sum(axis=1))),
    }
