"""Image bytes of a shard to pixels: the header is judged before anything is decoded.

A picture of 65,500 x 65,500 black pixels is a file of a few kilobytes, and a decoder that is handed a file of another
kind under a picture's name will happily try a dozen formats.  So the format must be the manifest's, the size one that a
radiograph has, and the file whole: decoders fill what is missing with grey and say nothing.
"""

import io
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import IO

import cv2
import numpy as np
from jaxtyping import UInt8

from vlp.errors import DataError

MAX_PIXELS = 64_000_000
"""More pixels than any radiograph has; refused before anything is decoded."""
_MAX_SCANS = 100
"""Of a progressive JPEG; every one is a pass over all pixels, and a file can hold thousands."""
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
    content: bytes, *, image_format: str, reduce: int = 1, strict: bool = False
) -> UInt8[np.ndarray, "rows columns"]:
    """Pixels of a JPEG ("jpg") or PNG ("png"), as they are stored: a rotation that EXIF asks for is not made.

    Args:
        content: the file.
        image_format: what it must be.
        reduce: 2, 4 or 8 gives an image smaller by that factor, faster for a JPEG.
        strict: also refuse what the decoder makes an image of but complains about: a JPEG with bytes changed in its
            middle.  One image at a time, and slower; not every changed bit makes it complain.

    Raises:
        BadImageError: if it is something else, cut off, damaged, or has more than 64 million pixels.
    """
    image_shape(content, image_format=image_format)
    ending = content.rstrip(b"\0")[-8:]
    if not (ending.endswith(b"\xff\xd9") if image_format == "jpg" else ending == _PNG_END):
        raise BadImageError("it is cut off")
    flags = cv2.IMREAD_GRAYSCALE if reduce == 1 else getattr(cv2, f"IMREAD_REDUCED_GRAYSCALE_{reduce}")
    with _complaints() if strict else nullcontext(io.BytesIO()) as complaints:
        try:
            pixels = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
        except cv2.error:
            pixels = None
        if pixels is None or complaints.seek(0, os.SEEK_END):
            raise BadImageError("it is damaged")
    return np.asarray(pixels, dtype=np.uint8)


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
    if not content.startswith(b"\xff\xd8\xff"):
        return None
    if content.count(b"\xff\xda") > _MAX_SCANS:
        raise BadImageError(f"a JPEG of more than {_MAX_SCANS} scans, made to be slow")
    place = 2
    while place + 9 <= len(content):
        marker = content[place + 1]
        if content[place] != 0xFF:
            return None
        if marker == 0xFF or marker in _STANDALONE:
            place += 1 if marker == 0xFF else 2
        elif marker in _FRAMES:
            return int.from_bytes(content[place + 5 : place + 7]), int.from_bytes(content[place + 7 : place + 9])
        elif marker in (0xDA, 0xD9):
            return None
        else:
            place += 2 + max(2, int.from_bytes(content[place + 2 : place + 4]))
    return None
