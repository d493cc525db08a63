import io
import struct
import sys
import zlib
from contextlib import suppress

import cv2
import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vlp.data.encoded import FACTORS, MAX_PIXELS, BadImageError, decode, decode_for, image_shape, reduction

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
    monkeypatch.setattr(simplejpeg, "decode_jpeg", None)
    with pytest.raises(BadImageError, match="million are allowed"):
        decode(bomb, image_format=kind)
    assert MAX_PIXELS < 8001 * 8000


@pytest.mark.parametrize("settings", [{"progressive": True}, {"subsampling": 0}])
def test_a_jpeg_of_very_many_scans_is_refused(settings):
    content = _saved(np.stack([PIXELS] * 3, axis=-1), "JPEG", **settings)
    with pytest.raises(BadImageError, match="scans"):
        decode(content[:-2] + b"\xff\xda" * 101 + b"\xff\xd9", image_format="jpg")


def test_a_plain_grey_jpeg_with_more_than_its_one_scan_is_refused():
    scan = FILES["jpg"][FILES["jpg"].index(b"\xff\xda") : -2]
    for scans in (1, 200):
        with pytest.raises(BadImageError, match="damaged"):
            decode(FILES["jpg"][:-2] + scans * scan + b"\xff\xd9", image_format="jpg")


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


@given(rows=st.integers(1, 5000), columns=st.integers(1, 5000), wanted=st.tuples(*[st.integers(1, 600)] * 2))
def test_a_reduction_leaves_enough_and_moves_nothing_by_half_a_pixel(rows, columns, wanted):
    factor = reduction((rows, columns), wanted)
    assert factor in {1, *FACTORS}
    for side, least in zip((rows, columns), wanted, strict=True):
        small = -(-side // factor)
        assert factor == 1 or small >= least
        # The far edge of the image, at the size that is wanted, against where it would be without the rounding up.
        assert least * (1 - side / (small * factor)) <= 0.5
    if rows % 8 == columns % 8 == 0 and rows >= 8 * wanted[0] and columns >= 8 * wanted[1]:
        assert factor == 8


@pytest.mark.parametrize(("at_least", "factor"), [((5, 4), 8), ((6, 4), 4), ((10, 8), 4), ((11, 8), 2), ((21, 1), 1)])
def test_a_jpeg_comes_as_small_as_will_do_and_averaged(at_least, factor):
    picture = cv2.GaussianBlur(PIXELS, (0, 0), 6.0)
    small = decode(_saved(picture, "JPEG", quality=95), image_format="jpg", at_least=at_least)
    assert small.shape == (40 // factor, 32 // factor)
    means = picture.reshape(40 // factor, factor, 32 // factor, factor).mean(axis=(1, 3))
    assert np.abs(small - means).max() < 3


def test_sides_that_the_factor_does_not_divide_are_rounded_up():
    content = _saved(cv2.resize(PIXELS, (103, 131)), "JPEG")
    assert decode(content, image_format="jpg", at_least=(30, 20)).shape == (33, 26)
    assert decode(content, image_format="jpg", at_least=(131, 103)).shape == (131, 103)
    pixels, stored = decode_for(content, image_format="jpg", size_of=lambda shape: (shape[0] // 4, shape[1] // 4))
    assert (pixels.shape, stored) == ((33, 26), (131, 103))


def test_a_png_comes_whole_and_either_may_lie_in_a_larger_memory():
    assert decode(memoryview(FILES["png"]), image_format="png", at_least=(5, 4)).shape == (40, 32)
    assert np.array_equal(
        decode(memoryview(FILES["jpg"]), image_format="jpg"), decode(FILES["jpg"], image_format="jpg")
    )


def test_a_damaged_jpeg_shows_when_decoded_smaller_too():
    picture = cv2.resize(PIXELS, (320, 400), interpolation=cv2.INTER_CUBIC)
    content = bytearray(_saved(picture, "JPEG"))
    content[len(content) // 2 : len(content) // 2 + 400] = b"x" * 400
    with pytest.raises(BadImageError, match="damaged"):
        decode(bytes(content), image_format="jpg", at_least=(100, 80), strict=True)


def test_two_sizes_in_one_jpeg_are_refused():
    content = bytearray(_saved(np.kron(PIXELS, np.ones((2, 2))).astype(np.uint8), "JPEG"))
    frame = content.index(b"\xff\xc0")
    # An unknown segment that looks like the header of another frame to a reader that takes the first it finds.
    fake = b"\xff\xc0" + content[frame + 2 : frame + 5] + struct.pack(">HH", 40, 32) + content[frame + 9 : frame + 13]
    with pytest.raises(BadImageError, match="damaged"):
        decode(bytes(content[:frame] + fake + content[frame:]), image_format="jpg")
