"""Image bytes of a shard to pixels: the header is judged before anything is decoded.

A picture of 65,500 x 65,500 black pixels is a file of a few kilobytes, and a decoder that is handed a file of another
kind under a picture's name will happily try a dozen formats.  So the format must be the manifest's, the size one that a
radiograph has, and the file whole: decoders fill what is missing with grey and say nothing.

An image that is wanted small is decoded small: a JPEG holds its frequencies, and half of them give half the size for
less than half the work after the entropy decoder.  Whatever reads shards for the model asks in the same way
(`cache.seen_image`), so that training and evaluation see the same pixels.  At 224 px they differ from those of images
decoded whole by 0.6 of 255 grey levels on the average of 60 radiographs stored at 512 or 1,024 px, by 1.4 in the worst.
"""

import io
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from typing import IO

import cv2
import numpy as np
import simplejpeg
from jaxtyping import UInt8

from vlp.errors import DataError

MAX_PIXELS = 64_000_000
"""More pixels than any radiograph has; refused before anything is decoded."""
_MAX_SCANS = 100
"""Of a progressive JPEG; every one is a pass over all pixels, and a file can hold thousands."""
FACTORS = (8, 4, 2)
"""By which a JPEG can be decoded smaller."""
_SEQUENTIAL = frozenset({0xC0, 0xC1})
"""JPEG markers of frames that a decoder passes over once, if they hold one component."""
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
"""JPEG markers that begin a frame and say its size."""
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD9)})
"""JPEG markers without a length."""
_ONE_AT_A_TIME = threading.Lock()
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB`\x82"


class BadImageError(DataError):
    """Bytes that are no image, with what is wrong with them; whoever knows says whose they are."""


def decode(
    content: bytes | memoryview,
    *,
    image_format: str,
    reduce: int = 1,
    at_least: tuple[int, int] | None = None,
    strict: bool = False,
) -> UInt8[np.ndarray, "rows columns"]:
    """Pixels of a JPEG ("jpg") or PNG ("png"), as they are stored: a rotation that EXIF asks for is not made.

    Args:
        content: the file.
        image_format: what it must be.
        reduce: 2, 4 or 8 gives an image smaller by that factor, faster for a JPEG.
        at_least: (rows, columns) that will do.  A JPEG of twice, four or eight times that in both directions comes
            smaller by the factor, sides rounded up (`reduction` says which factor); a PNG comes as it is.
        strict: also refuse what the decoder makes an image of but complains about, such as a file with bytes changed
            in its middle; not every changed bit makes it complain.  It costs nothing for a JPEG; of PNGs, one is looked
            at at a time, and slower.

    Raises:
        BadImageError: if it is something else, cut off, damaged, or has more than 64 million pixels.
    """
    content = bytes(content)
    shape = image_shape(content, image_format=image_format)
    return _decode(content, shape, image_format=image_format, reduce=reduce, at_least=at_least, strict=strict)


def decode_for(
    content: bytes | memoryview,
    *,
    image_format: str,
    size_of: Callable[[tuple[int, int]], tuple[int, int]],
    strict: bool = False,
) -> tuple[UInt8[np.ndarray, "rows columns"], tuple[int, int]]:
    """As `decode`, where what will do depends on the (rows, columns) that are stored; they come with the pixels.

    Raises:
        BadImageError: as `decode` does.
    """
    content = bytes(content)
    shape = image_shape(content, image_format=image_format)
    return _decode(content, shape, image_format=image_format, at_least=size_of(shape), strict=strict), shape


def _decode(
    content: bytes,
    shape: tuple[int, int],
    *,
    image_format: str,
    reduce: int = 1,
    at_least: tuple[int, int] | None,
    strict: bool,
) -> np.ndarray:
    ending = content.rstrip(b"\0")[-8:]
    if not (ending.endswith(b"\xff\xd9") if image_format == "jpg" else ending == _PNG_END):
        raise BadImageError("it is cut off")
    if image_format == "jpg" and reduce == 1:
        factor = reduction(shape, at_least) if at_least else 1
        return _decode_jpeg(content, [-(-side // factor) for side in shape], strict=strict)
    flags = cv2.IMREAD_GRAYSCALE if reduce == 1 else getattr(cv2, f"IMREAD_REDUCED_GRAYSCALE_{reduce}")
    with _complaints() if strict else nullcontext(io.BytesIO()) as complaints:
        try:
            pixels = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
        except cv2.error:
            pixels = None
        if pixels is None or complaints.seek(0, os.SEEK_END):
            raise BadImageError("it is damaged")
    return np.asarray(pixels, dtype=np.uint8)


@lru_cache(maxsize=4096)
def reduction(shape: tuple[int, int], at_least: tuple[int, int]) -> int:
    """By how much a JPEG of `shape` is decoded smaller where an image of `at_least` will do: 1, 2, 4 or 8.

    A side that the factor does not divide is rounded up, so that its last pixel stands for less than the others;
    what that moves, seen at `at_least`, is under half a pixel, or a smaller factor is taken.
    """

    def will_do(factor: int) -> bool:
        return all(
            -(-side // factor) >= wanted and 2 * (-side % factor) * wanted <= side
            for side, wanted in zip(shape, at_least, strict=True)
        )

    return next((factor for factor in FACTORS if will_do(factor)), 1)


def _decode_jpeg(content: bytes, size: list[int], *, strict: bool) -> np.ndarray:
    rows, columns = size
    try:
        pixels = simplejpeg.decode_jpeg(content, colorspace="GRAY", min_height=rows, min_width=columns, strict=strict)
    except ValueError:
        raise BadImageError("it is damaged") from None
    if pixels.shape[:2] != (rows, columns):
        raise BadImageError("it is damaged")  # and says two sizes
    return np.asarray(pixels[..., 0])


@contextmanager
def _complaints() -> Iterator[IO[bytes]]:
    """A file that takes what the decoding library writes to stderr, its only way to say that data are damaged."""
    sys.stderr.flush()
    with _ONE_AT_A_TIME, tempfile.TemporaryFile() as file:
        stderr = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield file
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def image_shape(content: bytes, *, image_format: str) -> tuple[int, int]:
    """(rows, columns) as the file's header says; no pixel is decoded.

    Raises:
        BadImageError: if it is no file of that format or has more than 64 million pixels.
    """
    shape = _jpeg_shape(content) if image_format == "jpg" else _png_shape(content)
    if shape is None:
        raise BadImageError(f"it is no {'JPEG' if image_format == 'jpg' else 'PNG'}")
    rows, columns = shape
    if rows < 1 or columns < 1:
        raise BadImageError("its header names no size")
    if rows * columns > MAX_PIXELS:
        raise BadImageError(f"its header says {rows} x {columns} pixels; {MAX_PIXELS // 1_000_000} million are allowed")
    return shape


def _png_shape(content: bytes) -> tuple[int, int] | None:
    if not content.startswith(_PNG) or content[12:16] != b"IHDR" or len(content) < 33:
        return None
    return int.from_bytes(content[20:24], "big"), int.from_bytes(content[16:20], "big")


def _jpeg_shape(content: bytes) -> tuple[int, int] | None:
    place = _find_frame(content)
    if place is None:
        return None
    # Of a picture with one component that is not progressive only one scan is ever read.
    if (content[place + 1] not in _SEQUENTIAL or content[place + 9] > 1) and content.count(b"\xff\xda") > _MAX_SCANS:
        raise BadImageError(f"a JPEG of more than {_MAX_SCANS} scans, made to be slow")
    return int.from_bytes(content[place + 5 : place + 7]), int.from_bytes(content[place + 7 : place + 9])


def _find_frame(content: bytes) -> int | None:
    """Where the frame's header begins, with its marker; None if there is none before the pixels."""
    if not content.startswith(b"\xff\xd8\xff"):
        return None
    place = 2
    while place + 10 <= len(content):
        marker = content[place + 1]
        if content[place] != 0xFF:
            return None
        if marker == 0xFF or marker in _STANDALONE:
            place += 1 if marker == 0xFF else 2
        elif marker in _FRAMES:
            return place
        elif marker in (0xDA, 0xD9):
            return None
        else:
            place += 2 + max(2, int.from_bytes(content[place + 2 : place + 4]))
    return None
