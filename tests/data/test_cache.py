import pickle

import numpy as np

from vlp.data.cache import ImageCache, cache_of
from vlp.data.reader import open_shards
from vlp.data.transforms import Preprocess

PREPROCESS = Preprocess(size=16)
BYTES = 16 * 16


def test_cached_and_fresh_images_are_equal(reader):
    cache = ImageCache(PREPROCESS, limit_bytes=2 * BYTES)
    keys = reader.keys("train")[:4]
    fresh = [PREPROCESS.apply(reader.image(key, 0))[:2] for key in keys]
    for _ in range(2):
        for key, (image, placement) in zip(keys, fresh, strict=True):
            found, where = cache.get(reader, key, 0)
            assert np.array_equal(found, image)
            assert where == placement
    assert cache.num_bytes == 2 * BYTES  # the limit holds
    assert [(key, 0) in cache for key in keys] == [True, True, False, False]


def test_a_cached_image_is_not_read_again(reader, monkeypatch):
    cache = ImageCache(PREPROCESS, limit_bytes=BYTES)
    key = reader.keys()[0]
    cache.fill(reader, [(key, 0)])
    monkeypatch.setattr(type(reader), "image", lambda *_: 1 / 0)
    assert cache.get(reader, key, 0)[0].shape == (16, 16)


def test_filling_stops_at_the_limit(reader):
    cache = ImageCache(PREPROCESS, limit_bytes=3 * BYTES)
    cache.fill(reader, [(key, 0) for key in reader.keys("train")])
    assert cache.num_bytes == 3 * BYTES


def test_it_belongs_to_a_reader_and_a_preprocessing(shards):
    first, second = open_shards(shards), open_shards(shards)
    cache = cache_of(first, PREPROCESS, limit_bytes=BYTES)
    assert cache_of(first, PREPROCESS, limit_bytes=BYTES) is cache
    assert cache_of(second, PREPROCESS, limit_bytes=BYTES) is not cache
    assert cache_of(first, Preprocess(size=8), limit_bytes=BYTES) is not cache


def test_pixels_are_not_sent_to_other_processes(reader):
    cache = ImageCache(PREPROCESS, limit_bytes=BYTES)
    cache.fill(reader, [(reader.keys()[0], 0)])
    copy = pickle.loads(pickle.dumps(cache))
    assert copy.num_bytes == 0
    assert (reader.keys()[0], 0) not in copy
