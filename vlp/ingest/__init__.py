"""Archives to shards: sources, image files, splits, and the pipeline that joins them."""

from vlp.ingest.images import read_image

__all__ = ["read_image"]
