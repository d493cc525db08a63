import pickle
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest

from tests.ingest.real_data import real_data
from vlp.data.cache import ImageCache, cache_of, seen_image
from vlp.data.encoded import decode, decode_for
from vlp.data.reader import open_shards
from vlp.data.transforms import Preprocess
from vlp.data.writer import ShardWriter
from vlp.errors import DataError
from vlp.ingest.phantom.history import HistoryConfig, person
from vlp.ingest.phantom.rendering import render

PREPROCESS = Preprocess(size=16)
BYTES = 16 * 16


def test_cached_and_fresh_images_are_equal(reader):
    cache = ImageCache(PREPROCESS, limit_bytes=2 * BYTES)
    keys = reader.keys("train")[:4]
    fresh = [PREPROCESS.apply(reader.image(key, 0)) for key in keys]
    for out in (None, np.empty((16, 16), dtype=np.uint8), np.empty((16, 16), dtype=np.uint8), None):
        for key, (image, placement, padding) in zip(keys, fresh, strict=True):
            found, where, beside = cache.get(reader, key, 0, out=out)
            assert out is None or found is out
            assert np.array_equal(found, image)
            assert np.array_equal(beside, padding)
            assert where == placement
    assert cache.num_bytes == 2 * BYTES  # the limit holds
    assert [(key, 0) in cache for key in keys] == [True, True, False, False]


def test_what_a_caller_does_to_its_own_copy_is_not_remembered(reader):
    cache, key = ImageCache(PREPROCESS, limit_bytes=BYTES), reader.keys()[0]
    out = np.empty((16, 16), dtype=np.uint8)
    for _ in range(2):
        assert np.array_equal(cache.get(reader, key, 0, out=out)[0], PREPROCESS.apply(reader.image(key, 0))[0])
        out[:] = 7


@pytest.mark.parametrize("fit", ["letterbox", "stretch", "crop"])
def test_a_jpeg_decoded_smaller_looks_the_same_and_is_placed_exactly(make_study, tmp_path, fit):
    size = (203, 154)  # neither is a multiple of the factor
    loaded = make_study(0, size=size)
    smooth = cv2.GaussianBlur(cv2.resize(loaded.pixels[0], size[::-1]), (0, 0), 10.0)
    with ShardWriter(tmp_path / "s") as writer:
        writer.write(replace(loaded, pixels=(smooth,)))
    reader = open_shards(tmp_path / "s")
    key, preprocess = reader.keys()[0], Preprocess(size=(40, 32), fit=fit)
    whole = preprocess.apply(reader.image(key))
    seen, placement, padding = seen_image(reader, key, preprocess=preprocess)
    assert reader.image(key, at_least=preprocess.size_of(size)).shape == (51, 39)
    assert placement.original == size
    assert np.array_equal(padding, whole[2])
    assert np.abs(seen.astype(int) - whole[0]).mean() < 2.0
    # 51 x 39 pixels of four stand for 204 x 156, and those are what fills the resized image.
    rows, columns = preprocess.size_of(size)
    corners = placement.to_model(np.array([[0.0, 0.0], [156.0, 204.0]]))
    assert corners - [(32 - columns) // 2, (40 - rows) // 2] == pytest.approx(np.array([[0, 0], [columns, rows]]))


def test_an_image_that_cannot_be_decoded_is_named(shards, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(shards, folder)
    reader = open_shards(folder)
    key = reader.keys("val")[1]
    offset, size = reader.sample(key).members["png"]
    content = bytearray((folder / "val-000000.tar").read_bytes())
    content[offset : offset + size] = bytes(size)
    (folder / "val-000000.tar").write_bytes(content)
    with pytest.raises(DataError, match=rf"val-000000.tar: image 0 of study {key} cannot be decoded: it is no PNG"):
        seen_image(reader, key, preprocess=PREPROCESS)


DIFFERENCE = 1.0
"""Grey levels of 255, on the average of all pixels and images."""


def _difference(pictures, side):
    """At 224 px, of JPEGs of this many pixels decoded smaller and whole."""
    preprocess, found = Preprocess(size=224), []
    for picture in pictures:
        scale = side / min(picture.shape)
        shape = [round(length * scale) for length in picture.shape]
        stored = cv2.resize(picture, shape[::-1], interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
        content = cv2.imencode(".jpg", stored, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
        small, shape = decode_for(content, image_format="jpg", size_of=preprocess.size_of)
        assert small.size < stored.size / 3
        whole, seen = preprocess.apply(decode(content, image_format="jpg"))[0], preprocess.apply(small, stored=shape)[0]
        found.append(np.abs(whole.astype(int) - seen).mean())
    return float(np.mean(found))


@pytest.mark.parametrize("side", [512, 1024])
def test_decoding_smaller_changes_phantoms_little(side):
    truths = [study for number in range(3) for study in person(number, seed=0, settings=HistoryConfig())]
    pictures = [render(truth, size_px=512).views[0].pixels for truth in truths[:4]]
    assert 0.0 < _difference(pictures, side) < DIFFERENCE


@pytest.mark.real_data
@pytest.mark.parametrize("side", [512, 1024])
def test_decoding_smaller_changes_radiographs_little(side):
    files = sorted(file for file in real_data("images").rglob("*") if file.suffix in {".jpg", ".png"})[::100]
    assert len(files) > 5
    assert 0.0 < _difference([cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) for file in files], side) < DIFFERENCE


def test_a_cached_image_is_not_read_again(reader, monkeypatch):
    cache = ImageCache(PREPROCESS, limit_bytes=BYTES)
    key = reader.keys()[0]
    cache.fill(reader, [(key, 0)])
    monkeypatch.setattr(type(reader), "member", lambda *_: 1 / 0)
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
