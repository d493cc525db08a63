"""Vectors of an archive on the disk: made once by a model, memory-mapped, searched and compared many times."""

from vlp.retrieval.store.embed import embed
from vlp.retrieval.store.folder import StoreFacts, VectorStore, merge
from vlp.retrieval.store.vectors import VectorKind, attended_vectors, region_vectors

__all__ = ["StoreFacts", "VectorKind", "VectorStore", "attended_vectors", "embed", "merge", "region_vectors"]
