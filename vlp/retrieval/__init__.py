"""Which earlier cases look like this one: an index of images with their reports, searched by image or by text."""

from vlp.retrieval.filters import Filter
from vlp.retrieval.index import build, from_store, merge, open_index
from vlp.retrieval.opened import Index
from vlp.retrieval.search import Hit, Hits

__all__ = ["Filter", "Hit", "Hits", "Index", "build", "from_store", "merge", "open_index"]
