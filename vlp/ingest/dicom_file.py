"""DICOM files opened with care: what is claimed is checked, what expands is bounded, what is odd is refused.

pydicom reads the elements.  Around it stands what it leaves to its caller: it is never told to take a file for
DICOM that does not look like one, it never inflates without limit, it says nothing aloud (its warnings quote
values), and a file that ends early is not taken for one that is short.
"""

import logging
import math
import struct
import unicodedata
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from pydicom.charset import convert_encodings
from pydicom.dataset import Dataset
from pydicom.filereader import data_element_generator
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)

from vlp.ingest.content import HEAD_BYTES, encoding_of
from vlp.ingest.image_error import MAX_FILE_BYTES, ImageError

_PREAMBLE = 132
_PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_CHARACTER_SET = 0x00080005
_MEDIA_CLASS, _SYNTAX = 0x00020002, 0x00020010
_UNDEFINED = 0xFFFFFFFF
_INFLATE_STEP_BYTES = 1 << 20
_MAX_TEXT = 1024
_logger = logging.getLogger("pydicom")


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps pydicom from warning and logging inside: its messages quote the values of the header."""
    before = _logger.disabled
    _logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        _logger.disabled = before


class Header:
    """The elements of a data set, read so that a broken value is a missing one and no text can do harm."""

    __slots__ = ("dataset",)

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __contains__(self, keyword: str) -> bool:
        return keyword in self.dataset

    def _value(self, keyword: str) -> Any:
        try:
            return self.dataset.get(keyword)
        except Exception:  # pydicom converts a value when it is asked for it, and fails in many ways
            return None

    def texts(self, keyword: str) -> tuple[str, ...]:
        """The values of an element as clean text: composed (NFC), no control characters, single spaces."""
        value = self._value(keyword)
        if value is None or isinstance(value, bytes):
            return ()
        values = value if isinstance(value, (list, tuple)) or hasattr(value, "append") else (value,)
        return tuple(clean(str(one)) for one in values)

    def text(self, keyword: str) -> str:
        """The first value of an element as clean text, "" if there is none."""
        return next(iter(self.texts(keyword)), "")

    def prose(self, keyword: str) -> str:
        """A long text with its line breaks, other control characters as spaces."""
        value = self._value(keyword)
        text = "" if value is None or isinstance(value, bytes) else str(value)
        lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        return unicodedata.normalize("NFC", "\n".join(_printable(line).rstrip() for line in lines)).strip()

    def numbers(self, keyword: str) -> tuple[float, ...]:
        """The values of an element as numbers; a value that is none becomes NaN."""
        return tuple(_number(text) for text in self.texts(keyword))

    def integer(self, keyword: str) -> int | None:
        """The first value of an element if it is a whole number."""
        number = next(iter(self.numbers(keyword)), math.nan)
        return int(number) if math.isfinite(number) and number == int(number) else None

    def items(self, keyword: str) -> tuple["Header", ...]:
        """The items of a sequence."""
        value = self._value(keyword)
        return tuple(Header(item) for item in value or () if isinstance(item, Dataset))

    def binary(self, keyword: str) -> bytes:
        """An element's bytes as stored, b"" if there are none."""
        value = self._value(keyword)
        return value if isinstance(value, bytes) else b""


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomFile:
    """A file's elements, how they are written, and what kind of object they say they are."""

    header: Header
    syntax: UID
    """Transfer syntax: how the pixels are stored."""
    sop_class: UID
    """From the data set, else from the file's meta information; "" if neither says it."""
    has_pixels: bool
    little_endian: bool = True


def clean(text: str) -> str:
    """Text of a header that is safe to show: composed, without control characters, at most 1,024 characters."""
    return unicodedata.normalize("NFC", " ".join(_printable(text[:_MAX_TEXT]).split()))


def _printable(text: str) -> str:
    return "".join(" " if unicodedata.category(letter)[0] == "C" else letter for letter in text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def open_dicom(path: Path, *, content: bytes | None = None, pixels: bool = True) -> DicomFile:
    """The elements of a DICOM file.

    Args:
        path: The file, and its name in messages.
        content: The file's bytes where the caller has them already.
        pixels: Whether the pixels are read too; without them only the beginning of the file is.

    Raises:
        ImageError: "not_dicom", "truncated_pixel_data", "dicomdir", "unsupported_transfer_syntax", "too_many_bytes".
    """
    try:
        with BytesIO(content) if content is not None else path.open("rb") as file:
            return _read(file, path, pixels=pixels)
    except OSError as error:
        raise ImageError("unreadable_file", f"{path}: cannot be read: {error.strerror or 'damaged'}") from None


def _read(file: BinaryIO, path: Path, *, pixels: bool) -> DicomFile:
    head = file.read(HEAD_BYTES)
    preamble = head[_PREAMBLE - 4 : _PREAMBLE] == b"DICM"
    if not preamble and encoding_of(head) is None:
        raise ImageError("not_dicom", f"{path}: not a DICOM file")
    file.seek(_PREAMBLE if preamble else 0)
    try:
        meta = _meta(file)
    except struct.error:
        raise _ends_early(path) from None
    if _uid(meta.get(_MEDIA_CLASS)) == MediaStorageDirectoryStorage:
        raise ImageError("dicomdir", f"{path}: a DICOMDIR, a table of contents; name the folder of images instead")
    syntax = _uid(meta.get(_SYNTAX))
    if syntax == DeflatedExplicitVRLittleEndian:
        file = BytesIO(_inflate(file, path))
    syntax, implicit, little = _encoding(file, syntax, path)
    elements, ended_early = _elements(file, path, implicit=implicit, little=little, pixels=pixels)
    if ended_early is not None:
        raise ended_early
    dataset = Dataset({tag: element for tag, element in elements.items() if element is not None})
    _set_character_set(dataset, implicit=implicit, little=little)
    header = Header(dataset)
    return DicomFile(
        header=header,
        syntax=syntax,
        sop_class=UID(header.text("SOPClassUID") or _uid(meta.get(_MEDIA_CLASS))),
        has_pixels=any(tag in elements for tag in _PIXELS),
        little_endian=little,
    )


def _meta(file: BinaryIO) -> dict[int, bytes]:
    """The elements of group 2, which are explicit and little endian whatever follows."""
    meta: dict[int, bytes] = {}
    while True:
        start = file.tell()
        head = file.read(8)
        if len(head) < 8 or head[:2] != b"\x02\x00":
            file.seek(start)
            return meta
        _, number, representation, length = struct.unpack("<HH2sH", head)
        if representation in (b"OB", b"OW", b"UN", b"UT", b"SQ"):
            (length,) = struct.unpack("<I", file.read(4))
        if length >= MAX_FILE_BYTES:
            raise struct.error
        value = file.read(length)
        if len(value) < length:
            raise struct.error
        meta[0x00020000 | number] = value


def _uid(value: bytes | None) -> UID:
    return UID((value or b"").decode("ascii", "replace").strip("\0 "))


def _encoding(file: BinaryIO, syntax: UID, path: Path) -> tuple[UID, bool, bool]:
    """(transfer syntax, implicit, little endian) of the data set that starts here.

    A data set whose first elements are written otherwise than its transfer syntax says is read as it is written.
    """
    start = file.tell()
    found = encoding_of(file.read(HEAD_BYTES))
    file.seek(start)
    if not syntax and found is not None:
        implicit, little = found
        known = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        return known, implicit, little
    if syntax.is_private or not syntax.is_transfer_syntax:
        name = "no transfer syntax" if not syntax else f"the transfer syntax {clean(syntax)}, which is not a public one"
        raise ImageError(f"unsupported_transfer_syntax:{clean(syntax)}", f"{path}: DICOM with {name}")
    stated = (syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian)
    return (syntax, *(found or stated))


def _inflate(file: BinaryIO, path: Path) -> bytes:
    """The rest of the file, inflated up to the largest size a file may have."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    parts: list[bytes] = []
    total = 0
    waiting = file.read(_INFLATE_STEP_BYTES)
    try:
        while waiting and not inflater.eof:
            part = inflater.decompress(waiting, _INFLATE_STEP_BYTES)
            parts.append(part)
            total += len(part)
            if total > MAX_FILE_BYTES:
                raise ImageError(
                    "too_many_bytes", f"{path}: inflates to more than {MAX_FILE_BYTES >> 20} MiB; too large to be true"
                )
            waiting = inflater.unconsumed_tail or file.read(_INFLATE_STEP_BYTES)
    except zlib.error:
        raise ImageError("not_dicom", f"{path}: the deflated data set is damaged") from None
    if not inflater.eof:
        raise _ends_early(path)
    return b"".join(parts)


def _elements(
    file: BinaryIO, path: Path, *, implicit: bool, little: bool, pixels: bool
) -> tuple[dict[Any, Any], ImageError | None]:
    """Tag -> raw element, and the refusal if the file ends inside one of them.

    Without `pixels` reading stops where they begin; their tag is there without a value.
    """
    elements: dict[Any, Any] = {}

    def at_pixels(tag: Any, _representation: str | None, _length: int) -> bool:
        if int(tag) in _PIXELS:
            elements[int(tag)] = None
            return not pixels
        return False

    try:
        for element in data_element_generator(file, implicit, little, stop_when=at_pixels):
            value, length = getattr(element, "value", None), getattr(element, "length", None)
            if isinstance(value, bytes) and length not in (None, _UNDEFINED) and len(value) < length:
                return elements, _ends_early(path, in_pixels=any(tag in elements for tag in _PIXELS))
            elements[element.tag] = element
    except EOFError:
        return elements, _ends_early(path, in_pixels=any(tag in elements for tag in _PIXELS))
    except Exception:  # a damaged header makes pydicom fail in many ways; all of them mean the same here
        return elements, ImageError("not_dicom", f"{path}: the DICOM header is damaged")
    return elements, None


def _ends_early(path: Path, *, in_pixels: bool = False) -> ImageError:
    if in_pixels:
        return ImageError("truncated_pixel_data", f"{path}: the DICOM file ends before its pixels do; copy it again")
    return ImageError("not_dicom", f"{path}: the DICOM file ends inside its header; copy it again")


def _set_character_set(dataset: Dataset, *, implicit: bool, little: bool) -> None:
    try:
        encodings = convert_encodings(dataset.get("SpecificCharacterSet"))
    except Exception:  # an unknown character set: what is not ASCII is shown as replacement characters
        encodings = ["iso8859"]
    dataset.set_original_encoding(implicit, little, encodings)
