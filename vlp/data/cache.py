"""Images of shards at the model's size, and a memory for them: decoding small archives again and again is waste."""

from collections.abc import Iterable
from weakref import WeakKeyDictionary

import numpy as np
from jaxtyping import UInt8

from vlp.data.encoded import BadImageError, decode_for
from vlp.data.reader import ShardReader
from vlp.data.transforms import Preprocess, SeenImage, find_padding
from vlp.errors import DataError
from vlp.tensors import Placement


def seen_image(
    reader: ShardReader,
    key: str,
    index: int = 0,
    *,
    preprocess: Preprocess,
    out: UInt8[np.ndarray, "rows columns"] | None = None,
) -> SeenImage:
    """What the model sees of an image in a shard.

    The one way from shards to the model: training and evaluation decode alike, no larger than the model needs.

    Raises:
        DataError: if the bytes in the shard are no whole image, or one of more pixels than a radiograph has.
    """
    form = reader.image_format(key)
    content = reader.encoded(key, index)
    try:
        pixels, stored = decode_for(content, image_format=form, size_of=preprocess.size_of, strict=form == "jpg")
    except BadImageError as error:
        where = f"{reader.folder}: {reader.shard_of(key).name}: image {index} of study {key}"
        raise DataError(f"{where} cannot be decoded: {error}") from None
    return preprocess.apply(pixels, stored=stored, out=out)


class ImageCache:
    """Preprocessed images by (key, index), up to a number of bytes; what no longer fits is made anew each time.

    Augmentation happens after this step, so a cached image and a fresh one are the same.
    """

    def __init__(self, preprocess: Preprocess, *, limit_bytes: int) -> None:
        self.num_bytes = 0
        self._preprocess = preprocess
        self._limit_bytes = limit_bytes
        self._images: dict[tuple[str, int], tuple[np.ndarray, Placement]] = {}

    def get(
        self,
        reader: ShardReader,
        key: str,
        index: int,
        *,
        out: UInt8[np.ndarray, "rows columns"] | None = None,
    ) -> SeenImage:
        """The image at the model's size, where its pixels went, and its padding.

        It lies in `out`, or else in the cache, where callers must not write to it.
        """
        found = self._images.get((key, index))
        if found is not None:
            pixels, placement = found
            if out is not None:
                out[:] = pixels
            return SeenImage(pixels if out is None else out, placement, find_padding(placement))
        pixels, placement, padding = seen_image(reader, key, index, preprocess=self._preprocess, out=out)
        if self.num_bytes + pixels.nbytes <= self._limit_bytes:
            self._images[key, index] = (pixels if out is None else pixels.copy()), placement
            self.num_bytes += pixels.nbytes
        return SeenImage(pixels, placement, padding)

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
