"""Shards and what streams from them: the format, its writer and readers, order, transforms, tokens, batches."""

from vlp.data.reader import ShardReader, open_shards

__all__ = ["ShardReader", "open_shards"]
