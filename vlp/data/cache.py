"""Images at the model's size kept in memory between epochs: decoding small archives again and again is waste."""

from collections.abc import Iterable
from weakref import WeakKeyDictionary

import numpy as np
from jaxtyping import UInt8

from vlp.data.reader import ShardReader
from vlp.data.transforms import Preprocess
from vlp.tensors import Placement


class ImageCache:
    """Preprocessed images by (key, index), up to a number of bytes; what no longer fits is made anew each time.

    Augmentation happens after this step, so a cached image and a fresh one are the same.
    """

    def __init__(self, preprocess: Preprocess, *, limit_bytes: int) -> None:
        self.num_bytes = 0
        self._preprocess = preprocess
        self._limit_bytes = limit_bytes
        self._images: dict[tuple[str, int], tuple[np.ndarray, Placement]] = {}

    def get(self, reader: ShardReader, key: str, index: int) -> tuple[UInt8[np.ndarray, "rows columns"], Placement]:
        """The image at the model's size, and where its pixels went; callers must not write to it."""
        found = self._images.get((key, index))
        if found is None:
            image, placement, _ = self._preprocess.apply(reader.image(key, index))
            found = image, placement
            if self.num_bytes + image.nbytes <= self._limit_bytes:
                self._images[key, index] = found
                self.num_bytes += image.nbytes
        return found

    def fill(self, reader: ShardReader, images: Iterable[tuple[str, int]]) -> None:
        """Loads images ahead of time, so that forked workers share them; stops when the cache is full."""
        for key, index in images:
            if self.num_bytes >= self._limit_bytes:
                return
            self.get(reader, key, index)

    def __contains__(self, place: object) -> bool:
        return place in self._images

    def __getstate__(self) -> dict[str, object]:
        # A worker that is not forked starts empty: sending pixels to it would cost what they save.
        return self.__dict__ | {"_images": {}, "num_bytes": 0}


_CACHES: WeakKeyDictionary[ShardReader, dict[tuple[Preprocess, int], ImageCache]] = WeakKeyDictionary()


def cache_of(reader: ShardReader, preprocess: Preprocess, *, limit_bytes: int) -> ImageCache:
    """The cache that belongs to an open reader; it lives as long as the reader, epoch after epoch."""
    caches = _CACHES.setdefault(reader, {})
    key = (preprocess, limit_bytes)
    if key not in caches:
        caches[key] = ImageCache(preprocess, limit_bytes=limit_bytes)
    return caches[key]
