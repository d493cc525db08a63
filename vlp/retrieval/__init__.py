"""Which earlier cases look like this one: an index of images with their reports, searched by image or by text."""

from vlp.retrieval.index import Index, build, open_index
from vlp.retrieval.search import Hit, Hits

__all__ = ["Hit", "Hits", "Index", "build", "open_index"]
