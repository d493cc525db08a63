"""What compressed pixels say of themselves, read before a decoder sees them: size, precision, and a proper end."""

import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from vlp.ingest.image_error import ImageError

_NO_FRAME = frozenset({0xC4, 0xC8, 0xCC})
_JPEG_LS_FRAME = 0xF7
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
"""Markers without a length."""
_END = b"\xff\xd9"
_SIZ = b"\xff\x4f\xff\x51"
_BOXES = 4096
"""A codestream inside JP2 boxes starts within so many bytes."""
_RLE_HEADER = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameSize:
    """What the header of a codestream announces."""

    rows: int
    columns: int
    components: int
    precision: int
    complete: bool
    """Whether the codestream ends with its end marker."""


def jpeg_frame(data: bytes) -> FrameSize | None:
    """The frame header of a JPEG or JPEG-LS codestream; None if there is none."""
    offset = 2 if data.startswith(b"\xff\xd8") else len(data)
    while offset + 4 <= len(data):
        if data[offset] != 0xFF:
            return None
        marker = data[offset + 1]
        if marker == 0xFF or marker in _ALONE:
            offset += 1 if marker == 0xFF else 2
            continue
        (length,) = struct.unpack_from(">H", data, offset + 2)
        if (0xC0 <= marker <= 0xCF and marker not in _NO_FRAME) or marker == _JPEG_LS_FRAME:
            if offset + 10 > len(data):
                return None
            precision, rows, columns, components = struct.unpack_from(">BHHB", data, offset + 4)
            return FrameSize(
                rows=rows, columns=columns, components=components, precision=precision, complete=_ends(data)
            )
        offset += 2 + length
    return None


def jpeg_2000_frame(data: bytes) -> FrameSize | None:
    """The image size marker of a JPEG 2000 codestream, bare or in JP2 boxes; None if there is none."""
    start = data[:_BOXES].find(_SIZ)
    if start < 0 or start + 43 > len(data):
        return None
    x1, y1, x0, y0 = struct.unpack_from(">4I", data, start + 8)
    (components,) = struct.unpack_from(">H", data, start + 40)
    precision = (data[start + 42] & 0x7F) + 1
    return FrameSize(rows=y1 - y0, columns=x1 - x0, components=components, precision=precision, complete=_ends(data))


def _ends(data: bytes) -> bool:
    # Frames are padded to an even length with either byte.
    return data[-64:].rstrip(b"\0\xff").endswith(_END)


def unpack_runs(data: bytes, *, num_segments: int, num_bytes: int, path: Path) -> list[bytes]:
    """The segments of an RLE frame (DICOM PS3.5 Annex G), each of exactly `num_bytes` once unpacked.

    A general decoder unpacks whatever is there, up to 64 times the size of the file; this one stops where a segment
    is full.

    Raises:
        ImageError: "length_mismatch", "truncated_pixel_data" or "undecodable_pixels".
    """
    if len(data) < _RLE_HEADER:
        raise ImageError("truncated_pixel_data", f"{path}: the RLE pixels are cut short")
    found, *offsets = struct.unpack_from("<16I", data)
    edges = [*offsets[:num_segments], len(data)]
    if found != num_segments or edges[0] < _RLE_HEADER or edges[:-1] != sorted(edges[:-1]):
        raise ImageError("undecodable_pixels", f"{path}: the RLE pixels are damaged")
    segments = []
    for start, end in pairwise(edges):
        segment = _unpacked(data[start:end], limit=num_bytes)
        if len(segment) < num_bytes:
            raise ImageError("truncated_pixel_data", f"{path}: the RLE pixels are cut short")
        if len(segment) > num_bytes:
            raise ImageError("length_mismatch", f"{path}: the RLE pixels are more than the header announces")
        segments.append(segment)
    return segments


def _unpacked(packed: bytes, *, limit: int) -> bytes:
    """A PackBits segment, unpacked no further than just above `limit` bytes."""
    unpacked = bytearray()
    position, end = 0, len(packed)
    while position < end and len(unpacked) <= limit:
        control = packed[position]
        if control < 128:
            unpacked += packed[position + 1 : position + 2 + control]
            position += control + 2
        elif control > 128:
            unpacked += packed[position + 1 : position + 2] * (257 - control)
            position += 2
        else:  # means nothing
            position += 1
    return bytes(unpacked)
