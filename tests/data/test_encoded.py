import io
import struct
import sys
import zlib
from contextlib import suppress

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vlp.data.encoded import MAX_PIXELS, BadImageError, decode, image_shape

PIXELS = np.kron(np.random.default_rng(0).integers(0, 256, (5, 4)), np.ones((8, 8))).astype(np.uint8)


def _saved(pixels: np.ndarray, kind: str, **settings) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=kind, **settings)
    return file.getvalue()


FILES = {"jpg": _saved(PIXELS, "JPEG", quality=95), "png": _saved(PIXELS, "PNG")}


def _png_bomb(rows: int, columns: int) -> bytes:
    """A valid head of a PNG that asks for more memory than there is."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def _jpeg_bomb(rows: int, columns: int) -> bytes:
    content = bytearray(FILES["jpg"])
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = struct.pack(">HH", rows, columns)
    return bytes(content)


@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_pixels_and_size_are_those_another_library_sees(kind):
    expected = np.asarray(Image.open(io.BytesIO(FILES[kind])))
    assert np.abs(decode(FILES[kind], image_format=kind).astype(int) - expected).max() <= (1 if kind == "jpg" else 0)
    assert image_shape(FILES[kind], image_format=kind) == PIXELS.shape == (40, 32)
    assert decode(FILES[kind], image_format=kind, reduce=4).shape == (10, 8)


@pytest.mark.parametrize("settings", [{"progressive": True}, {"subsampling": 0}, {"comment": b"\xff\xc0 in a comment"}])
def test_the_size_of_jpegs_of_other_makes(settings):
    content = _saved(np.stack([PIXELS] * 3, axis=-1), "JPEG", **settings)
    assert image_shape(content, image_format="jpg") == (40, 32)


def test_a_turn_that_exif_asks_for_is_not_made():
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    turned = _saved(PIXELS, "JPEG", quality=95, exif=exif)
    assert np.array_equal(decode(turned, image_format="jpg"), decode(FILES["jpg"], image_format="jpg"))


@pytest.mark.parametrize(
    ("kind", "bomb"),
    [("png", _png_bomb(10**9, 10**9)), ("png", _png_bomb(8001, 8000)), ("jpg", _jpeg_bomb(65535, 65535))],
)
def test_bombs_are_refused_by_their_header(kind, bomb, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", None)  # nothing gets that far
    with pytest.raises(BadImageError, match="million are allowed"):
        decode(bomb, image_format=kind)
    assert MAX_PIXELS < 8001 * 8000


def test_a_jpeg_of_very_many_scans_is_refused():
    with pytest.raises(BadImageError, match="scans"):
        decode(FILES["jpg"][:-2] + b"\xff\xda" * 101 + b"\xff\xd9", image_format="jpg")


@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_cut_off_images_are_refused_although_decoders_fill_them_up(kind):
    for length in (0, 1, 20, len(FILES[kind]) // 2, len(FILES[kind]) - 1):
        with pytest.raises(BadImageError):
            decode(FILES[kind][:length], image_format=kind)


@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_damage_inside_shows_when_looked_for(kind, capfd):
    picture = cv2.resize(PIXELS, (320, 400), interpolation=cv2.INTER_CUBIC)
    content = bytearray(_saved(picture, "JPEG" if kind == "jpg" else "PNG"))
    assert decode(bytes(content), image_format=kind, strict=True).shape == (400, 320)
    content[len(content) // 2 : len(content) // 2 + 400] = b"x" * 400
    if kind == "jpg":
        assert decode(bytes(content), image_format=kind).shape == (400, 320)  # something like it
    capfd.readouterr()
    with pytest.raises(BadImageError, match="damaged"):
        decode(bytes(content), image_format=kind, strict=True)
    assert capfd.readouterr().err == ""
    print("still there", file=sys.stderr, flush=True)
    assert capfd.readouterr().err == "still there\n"


def test_another_format_under_the_name_is_refused():
    tiff, bmp = _saved(PIXELS, "TIFF"), _saved(PIXELS, "BMP")
    for content in (tiff, bmp, FILES["png"], b"", b"text"):
        with pytest.raises(BadImageError, match="no JPEG"):
            decode(content, image_format="jpg")
    with pytest.raises(BadImageError, match="no PNG"):
        decode(FILES["jpg"], image_format="png")


def test_images_without_a_size_are_refused():
    for kind, content in (("png", _png_bomb(0, 5)), ("jpg", _jpeg_bomb(0, 5))):
        with pytest.raises(BadImageError, match="no size"):
            decode(content, image_format=kind)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), kind=st.sampled_from(["jpg", "png"]))
def test_mutated_images_decode_or_are_refused(data, kind):
    content = bytearray(FILES[kind])
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with suppress(BadImageError):
        pixels = decode(bytes(content), image_format=kind)
        assert pixels.ndim == 2
        assert 0 < pixels.size <= MAX_PIXELS
