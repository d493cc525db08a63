"""Searchers of vectors: kinds with one interface, from exact to compressed, and the choice between them."""

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
    "create",
    "open_searcher",
    "restore",
]
