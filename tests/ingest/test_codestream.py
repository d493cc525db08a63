import contextlib
import io
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vlp.ingest.codestream import jpeg_2000_frame, jpeg_frame, unpack_runs
from vlp.ingest.image_error import ImageError

PATH = Path("a.dcm")
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 56), dtype=np.uint8)


def _saved(pixels: np.ndarray, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"comment": b"\xff\xc0 not a frame"}])
def test_jpeg_says_its_size(options):
    size = jpeg_frame(_saved(PIXELS, "JPEG", **options))
    assert (size.rows, size.columns, size.components, size.precision, size.complete) == (40, 56, 1, 8, True)
    assert jpeg_frame(_saved(np.repeat(PIXELS[..., None], 3, axis=2), "JPEG")).components == 3


@pytest.mark.parametrize("options", [{"no_jp2": True}, {"no_jp2": False}])
def test_jpeg_2000_says_its_size_bare_and_boxed(options):
    size = jpeg_2000_frame(_saved(PIXELS, "JPEG2000", **options))
    assert (size.rows, size.columns, size.components, size.precision, size.complete) == (40, 56, 1, 8, True)
    deep = jpeg_2000_frame(_saved(PIXELS.astype(np.uint16) * 257, "JPEG2000", **options))
    assert deep.precision == 16


@pytest.mark.parametrize(("read", "kind"), [(jpeg_frame, "JPEG"), (jpeg_2000_frame, "JPEG2000")])
def test_a_codestream_without_its_end_is_incomplete(read, kind):
    whole = _saved(PIXELS, kind, **({"no_jp2": True} if kind == "JPEG2000" else {}))
    assert read(whole + b"\0").complete
    assert read(whole + b"\xff").complete  # both are used as padding
    assert not read(whole[:-2]).complete
    assert not read(whole[: len(whole) * 3 // 4]).complete
    for length in range(20):
        assert read(whole[:length]) is None


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_noise_does_no_harm(content):
    jpeg_frame(b"\xff\xd8" + content)
    jpeg_2000_frame(b"\xff\x4f\xff\x51" + content)


def _rle(*segments: bytes) -> bytes:
    offsets = [64 + sum(map(len, segments[:number])) for number in range(len(segments))]
    return struct.pack("<16I", len(segments), *offsets, *([0] * (15 - len(segments)))) + b"".join(segments)


def test_rle_of_the_right_length_passes():
    content = _rle(bytes([2]) + b"abc" + bytes([254]) + b"x" + bytes([128]), b"\xfb\0\0")
    assert unpack_runs(content, num_segments=2, num_bytes=6, path=PATH) == [b"abcxxx", bytes(6)]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (_rle(bytes([2]) + b"abc"), "truncated_pixel_data"),
        (_rle(bytes([9]) + b"abc"), "truncated_pixel_data"),
        (_rle(b"\x81x" * 10), "length_mismatch"),
        (struct.pack("<16I", 16, *[64] * 15), "undecodable_pixels"),
        (struct.pack("<16I", 1, 10**9, *[0] * 14), "truncated_pixel_data"),
        (struct.pack("<16I", 2, 64, 70, *[0] * 13) + bytes(20), "undecodable_pixels"),
        (struct.pack("<16I", 1, 3, *[0] * 14) + bytes(20), "undecodable_pixels"),
        (b"short", "truncated_pixel_data"),
    ],
)
def test_rle_of_another_length_is_refused(content, code):
    with pytest.raises(ImageError) as caught:
        unpack_runs(content, num_segments=1, num_bytes=6, path=PATH)
    assert caught.value.code == code


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**32 - 1), min_size=16, max_size=16), st.binary(max_size=60))
def test_noise_in_rle_does_no_harm(header, rest):
    with contextlib.suppress(ImageError):
        unpack_runs(struct.pack("<16I", header[0] % 20, *header[1:]) + rest, num_segments=2, num_bytes=6, path=PATH)


def test_img_37_an_rle_bomb_is_not_unpacked():
    bomb = _rle(b"\x81\0" * 4_000_000)  # 8 MB that unpack to 512 MB
    with pytest.raises(ImageError) as caught:
        unpack_runs(bomb, num_segments=1, num_bytes=100, path=PATH)
    assert caught.value.code == "length_mismatch"
