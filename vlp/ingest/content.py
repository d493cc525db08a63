"""What a file is by its first bytes; names and endings are not looked at."""

import struct
from typing import Literal

ContentKind = Literal["PNG", "JPEG", "DICOM"]

_MAGIC: dict[bytes, ContentKind] = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG"}
_SHORT_VRS = frozenset(
    {b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL"}
    | {b"SS", b"ST", b"TM", b"UI", b"UL", b"US"}
)
_LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_FIRST_GROUPS = (0x0002, 0x0008)
_LAST_GROUP = 0x0020
"""A data set without preamble is believed if it starts like the header of an image: groups 2 or 8 upwards."""
_MIN_ELEMENTS = 3
_MAX_ELEMENTS = 8
_MAX_SHORT_VALUE = 0x10000
_UNDEFINED = 0xFFFFFFFF

HEAD_BYTES = 4096
"""How much of a file `kind_of` needs."""


def kind_of(content: bytes) -> ContentKind | None:
    """What the file is, or None for anything that is not read here.

    DICOM files without preamble are recognised by three well-formed elements in ascending order, whatever their
    encoding; nothing is taken for DICOM merely because its name or a person says so.
    """
    for magic, kind in _MAGIC.items():
        if content.startswith(magic):
            return kind
    if content[128:132] == b"DICM" or encoding_of(content) is not None:
        return "DICOM"
    return None


def describe(content: bytes) -> str:
    """What to tell of a file that `kind_of` does not know."""
    head = content[:512].lstrip()
    if head[:1] == b"<":
        return "not an image: a page of markup (HTML, XML or SVG), perhaps an error message saved under this name"
    if content.startswith(b"PK\x03\x04"):
        return "not an image: a ZIP archive; unpack it and name the folder"
    return "not an image: neither PNG nor JPEG nor DICOM"


def encoding_of(content: bytes) -> tuple[bool, bool] | None:
    """(implicit, little endian) of a data set that starts at the first byte; None if no data set starts there."""
    for implicit, little in ((True, True), (False, True), (False, False)):
        if _starts_data_set(content[:HEAD_BYTES], implicit=implicit, little=little):
            return implicit, little
    return None


def _starts_data_set(head: bytes, *, implicit: bool, little: bool) -> bool:
    offset, before, seen = 0, -1, 0
    while seen < _MAX_ELEMENTS and offset + 8 <= len(head):
        element = _element(head, offset, implicit=implicit, little=little)
        if element is None:
            return False
        tag, value_at, length = element
        if tag <= before or not _FIRST_GROUPS[0] <= tag >> 16 <= _LAST_GROUP:
            # A short header may go on with higher groups; a first element may not.
            return seen >= _MIN_ELEMENTS and tag > before
        if before < 0 and tag >> 16 not in _FIRST_GROUPS:
            return False
        seen += 1
        if length == _UNDEFINED:
            break
        offset, before = value_at + length, tag
    return seen >= _MIN_ELEMENTS


def _element(head: bytes, offset: int, *, implicit: bool, little: bool) -> tuple[int, int, int] | None:
    """(tag, where the value starts, its length) or None where no element can stand."""
    order = "<" if little else ">"
    group, number = struct.unpack_from(order + "HH", head, offset)
    tag = group << 16 | number
    if implicit:
        length = struct.unpack_from("<I", head, offset + 4)[0]
        fits = length == _UNDEFINED or (length < _MAX_SHORT_VALUE and length % 2 == 0)
        return (tag, offset + 8, length) if fits else None
    representation = head[offset + 4 : offset + 6]
    if representation in _SHORT_VRS:
        return tag, offset + 8, struct.unpack_from(order + "H", head, offset + 6)[0]
    if representation in _LONG_VRS and offset + 12 <= len(head):
        return tag, offset + 12, struct.unpack_from(order + "I", head, offset + 8)[0]
    return None
