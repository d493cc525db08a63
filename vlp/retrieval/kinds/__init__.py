"""Searchers of vectors: kinds with one interface, from exact to compressed, and the choice between them."""

from vlp.retrieval.kinds.choose import choose
from vlp.retrieval.kinds.kind import (
    FlatConfig,
    HnswConfig,
    IvfFastScanConfig,
    IvfSq8Config,
    KindConfig,
    KindFacts,
    MeasuredRecall,
    Searcher,
)
from vlp.retrieval.kinds.registry import build, create, open_searcher, restore
from vlp.retrieval.kinds.tune import recall_of, true_neighbours, tune

__all__ = [
    "FlatConfig",
    "HnswConfig",
    "IvfFastScanConfig",
    "IvfSq8Config",
    "KindConfig",
    "KindFacts",
    "MeasuredRecall",
    "Searcher",
    "build",
    "choose",
    "create",
    "open_searcher",
    "recall_of",
    "restore",
    "true_neighbours",
    "tune",
]
