"""The stored values of a DICOM image: decoded only after its size is known, exact to the bit, checked for length.

| pixels stored as | decoder, in this order | licence |
| --- | --- | --- |
| uncompressed, deflated | numpy | |
| RLE | `vlp.ingest.codestream` | |
| JPEG baseline (8 bits) | Pillow, python-gdcm | MIT-CMU, Apache-2.0 |
| JPEG lossless | python-gdcm | Apache-2.0 |
| JPEG-LS | pyjpegls (CharLS), python-gdcm | MIT (BSD-3-Clause), Apache-2.0 |
| JPEG 2000 | pylibjpeg-openjpeg (OpenJPEG), python-gdcm | MIT (BSD-2-Clause), Apache-2.0 |
| High-throughput JPEG 2000 | pylibjpeg-openjpeg | MIT (BSD-2-Clause) |
| JPEG extended with 12 bits | pylibjpeg-libjpeg, where a person has installed it | GPL-3.0 |

All but the last come with `vlp[dicom]`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from pydicom.encaps import encapsulate, generate_fragments, get_frame, parse_basic_offsets
from pydicom.pixels import get_decoder
from pydicom.uid import (
    UID,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEG2000TransferSyntaxes,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSTransferSyntaxes,
    RLELossless,
)

from vlp.data.encoded import MAX_PIXELS
from vlp.ingest.codestream import jpeg_2000_frame, jpeg_frame, unpack_runs
from vlp.ingest.dicom_file import DicomFile, Header
from vlp.ingest.grey import grey_of_rgb, grey_of_ybr
from vlp.ingest.image_error import ImageError

_PREFERENCE = ("pylibjpeg", "pyjpegls", "pillow", "gdcm")
_NAMED_SYNTAXES: Mapping[str, UID] = {
    "JPEG baseline": JPEGBaseline8Bit,
    "JPEG lossless": JPEGLosslessSV1,
    "JPEG-LS": JPEGLSLossless,
    "JPEG 2000": JPEG2000Lossless,
    "High-throughput JPEG 2000": HTJ2KLossless,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """The values of one frame as stored: no rescale, no inversion, no bits that are not the image's."""

    values: Int[np.ndarray, "rows columns"]
    bits: int
    """Significant bits; values lie in [0, 2^bits) or, if signed, in [-2^(bits-1), 2^(bits-1))."""
    signed: bool
    photometric: str
    """MONOCHROME1, MONOCHROME2 or PALETTE COLOR; colour that turned out grey is MONOCHROME2."""
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """How the pixels are said to be stored."""

    rows: int
    columns: int
    samples: int
    allocated: int
    bits: int
    high: int
    signed: bool
    planar: int
    photometric: str
    frames: int

    @property
    def frame_bytes(self) -> int:
        return self.rows * self.columns * self.samples * self.allocated // 8


def decoders() -> dict[str, str]:
    """How the pixels are compressed -> the decoder that would be used, "" where none is installed."""
    return {name: _plugin(syntax, bits=8) or "" for name, syntax in _NAMED_SYNTAXES.items()}


def stored_values(file: DicomFile, path: Path, *, frame: int | None = None) -> Stored:
    """The values of a single-frame image, or of `frame` (from 0) of one with several.

    Raises:
        ImageError: "no_pixel_data", "missing_attribute:<keyword>", "too_many_pixels", "multi_frame",
            "unsupported_pixels", "unsupported_photometric", "length_mismatch", "truncated_pixel_data",
            "decoder_missing:<transfer syntax>", "undecodable_pixels", "colour_image".  Sizes are checked before
            anything is decoded.
    """
    if "FloatPixelData" in file.header or "DoubleFloatPixelData" in file.header:
        raise ImageError("unsupported_pixels", f"{path}: floating point pixels, which no radiograph has")
    if not file.has_pixels:
        raise ImageError("no_pixel_data", f"{path}: a DICOM file without pixels")
    layout = _layout(file.header, path)
    index = _frame_index(layout.frames, frame, path)
    data = file.header.binary("PixelData")
    shift = layout.high + 1 - layout.bits
    photometric = layout.photometric
    if not file.syntax.is_encapsulated:
        values = _native(data, layout, index, file, path)
    else:
        values, photometric = _decoded(data, layout, index, file.syntax, path)
        # A codestream holds the values themselves; only RLE packs the words that stand in an uncompressed file.
        shift = shift if file.syntax == RLELossless else 0
    flags = ("no_frame_count",) if file.header.integer("NumberOfFrames") == 0 else ()
    if layout.samples == 3:
        grey = (grey_of_ybr if photometric.startswith("YBR") else grey_of_rgb)(values, path)
        return Stored(values=grey, bits=8, signed=False, photometric="MONOCHROME2", flags=flags)
    beyond = not layout.signed and bool((values >> (shift + layout.bits)).any())
    return Stored(
        values=_significant(values, layout, shift),
        bits=layout.bits,
        signed=layout.signed,
        photometric=photometric,
        flags=(*flags, "bits_beyond_stored") if beyond else flags,
    )


def _layout(header: Header, path: Path) -> _Layout:
    def required(keyword: str) -> int:
        value = header.integer(keyword)
        if value is None:
            raise ImageError(f"missing_attribute:{keyword}", f"{path}: the DICOM header lacks {keyword}")
        return value

    photometric = header.text("PhotometricInterpretation").upper()
    if not photometric:
        keyword = "PhotometricInterpretation"
        raise ImageError(f"missing_attribute:{keyword}", f"{path}: the DICOM header lacks {keyword}")
    samples = 3 if photometric == "RGB" or photometric.startswith("YBR_") else 1
    known = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")
    if photometric not in known or header.integer("SamplesPerPixel") not in (None, samples):
        raise ImageError("unsupported_photometric", f"{path}: pixels of an unsupported photometric interpretation")
    rows, columns = required("Rows"), required("Columns")
    if rows < 1 or columns < 1:
        raise ImageError("bad_geometry", f"{path}: {rows} rows and {columns} columns")
    if rows * columns > MAX_PIXELS:
        raise ImageError("too_many_pixels", f"{path}: more than {MAX_PIXELS // 1_000_000} million pixels")
    allocated, bits = required("BitsAllocated"), required("BitsStored")
    high = header.integer("HighBit")
    high = bits - 1 if high is None else high
    if allocated not in (8, 16) or not 1 <= bits <= high + 1 <= allocated or (samples == 3 and bits != 8):
        kind = f"{bits} of {allocated} bits with high bit {high}"
        raise ImageError("unsupported_pixels", f"{path}: pixels of {kind}; only 8 and 16 bits allocated are read")
    return _Layout(
        rows=rows,
        columns=columns,
        samples=samples,
        allocated=allocated,
        bits=bits,
        high=high,
        signed=header.integer("PixelRepresentation") == 1,
        planar=header.integer("PlanarConfiguration") or 0,
        photometric=photometric,
        frames=max(1, header.integer("NumberOfFrames") or 1),
    )


def _frame_index(frames: int, frame: int | None, path: Path) -> int:
    if frame is None and frames > 1:
        raise ImageError("multi_frame", f"{path}: {frames} frames; a radiograph has one, so say which is meant")
    index = frame or 0
    if not 0 <= index < frames:
        raise ImageError("multi_frame", f"{path}: there is no frame {index}; frames are counted from 0 to {frames - 1}")
    return index


def _native(data: bytes, layout: _Layout, index: int, file: DicomFile, path: Path) -> np.ndarray:
    expected = layout.frame_bytes * layout.frames
    if layout.photometric == "YBR_FULL_422":
        raise ImageError("unsupported_photometric", f"{path}: uncompressed pixels with halved colour")
    if len(data) not in (expected, expected + expected % 2):
        raise ImageError(
            "length_mismatch", f"{path}: {len(data)} bytes of pixels where the header announces {expected}"
        )
    if not file.little_endian and layout.allocated == 8 and file.header.dataset["PixelData"].VR == "OW":
        data = np.frombuffer(data, dtype=np.uint16).byteswap().tobytes()  # bytes stand in big-endian words
    words = np.dtype(np.uint8) if layout.allocated == 8 else np.dtype("<u2" if file.little_endian else ">u2")
    start = index * layout.frame_bytes
    flat = np.frombuffer(data[start : start + layout.frame_bytes], dtype=words)
    return _shaped(flat.astype(words.newbyteorder("=")), layout, planar=layout.planar)


def _shaped(flat: np.ndarray, layout: _Layout, *, planar: int) -> np.ndarray:
    if layout.samples == 1:
        return flat.reshape(layout.rows, layout.columns)
    if planar == 1:
        return flat.reshape(3, layout.rows, layout.columns).transpose(1, 2, 0)
    return flat.reshape(layout.rows, layout.columns, 3)


def _significant(words: np.ndarray, layout: _Layout, shift: int) -> np.ndarray:
    """The image's own bits of each word, with the sign where it has one."""
    values = (words.astype(np.int32) >> shift) & ((1 << layout.bits) - 1)
    if not layout.signed:
        return values.astype(np.uint16 if layout.bits > 8 else np.uint8)
    sign = 1 << (layout.bits - 1)
    return ((values ^ sign) - sign).astype(np.int16)


def _decoded(data: bytes, layout: _Layout, index: int, syntax: UID, path: Path) -> tuple[np.ndarray, str]:
    """The decoded frame, and its photometric interpretation as decoded."""
    frame = _compressed_frame(data, layout, index, syntax, path)
    if syntax == RLELossless:
        return _from_runs(frame, layout, path), layout.photometric
    size = jpeg_2000_frame(frame) if syntax in JPEG2000TransferSyntaxes else jpeg_frame(frame)
    if size is None:
        raise ImageError("undecodable_pixels", f"{path}: the compressed pixels are damaged")
    if (size.rows, size.columns, size.components) != (layout.rows, layout.columns, layout.samples):
        raise ImageError("length_mismatch", f"{path}: the compressed pixels have another size than the header says")
    if not size.complete:
        raise ImageError("truncated_pixel_data", f"{path}: the compressed pixels end early; copy the file again")
    plugin = _plugin(syntax, bits=size.precision)
    if plugin is None:
        raise ImageError(
            f"decoder_missing:{syntax}",
            f"{path}: no decoder for {syntax.name}; pip install 'vlp[dicom]', or decompress the file first",
        )
    allocated = 8 if size.precision <= 8 else 16
    options: dict[str, Any] = {
        "rows": layout.rows,
        "columns": layout.columns,
        "samples_per_pixel": layout.samples,
        "bits_allocated": allocated,
        "bits_stored": size.precision if syntax in JPEGLSTransferSyntaxes else min(layout.bits, allocated),
        "pixel_representation": int(layout.signed),
        "photometric_interpretation": layout.photometric,
        "planar_configuration": layout.planar,
        "number_of_frames": 1,
        "pixel_keyword": "PixelData",
    }
    try:
        pixels, properties = get_decoder(syntax).as_buffer(
            encapsulate([frame]), index=0, raw=True, decoding_plugin=plugin, **options
        )
        words = np.uint8 if int(properties["bits_allocated"]) == 8 else np.uint16
        flat = np.frombuffer(pixels, dtype=words)
        shaped = _shaped(flat, layout, planar=int(properties.get("planar_configuration", 0)))
    except Exception:  # decoders raise what they like; what matters is that the pixels cannot be had whole
        raise ImageError("undecodable_pixels", f"{path}: the compressed pixels are damaged") from None
    return shaped, str(properties["photometric_interpretation"])


def _from_runs(frame: bytes, layout: _Layout, path: Path) -> np.ndarray:
    """An RLE frame: for every sample one segment per byte of it, the highest first."""
    width = layout.allocated // 8
    segments = unpack_runs(
        frame, num_segments=layout.samples * width, num_bytes=layout.rows * layout.columns, path=path
    )
    planes = np.frombuffer(b"".join(segments), dtype=np.uint8).reshape(layout.samples, width, -1)
    words = planes[:, 0] if width == 1 else (planes[:, 0].astype(np.uint16) << 8) | planes[:, 1]
    return _shaped(words.ravel(), layout, planar=1)


def _compressed_frame(data: bytes, layout: _Layout, index: int, syntax: UID, path: Path) -> bytes:
    try:
        items = BytesIO(data)
        parse_basic_offsets(items)  # which moves on to the first fragment
        fragments = list(generate_fragments(items))
        starts = sum(_starts_frame(fragment, syntax) for fragment in fragments)
        frame = b"".join(fragments) if layout.frames == 1 else get_frame(data, index, number_of_frames=layout.frames)
    except Exception:  # pydicom raises several kinds for a broken encapsulation
        raise ImageError("truncated_pixel_data", f"{path}: the compressed pixels are cut short or damaged") from None
    if starts > layout.frames:
        raise ImageError("length_mismatch", f"{path}: more frames than the header announces")
    return frame


def _starts_frame(fragment: bytes, syntax: UID) -> bool:
    """RLE has one fragment per frame; the others begin a frame with their first marker."""
    if syntax == RLELossless:
        return True
    return fragment.startswith(b"\xff\x4f\xff\x51" if syntax in JPEG2000TransferSyntaxes else b"\xff\xd8\xff")


def _plugin(syntax: UID, *, bits: int) -> str | None:
    """The decoder to use: always the same one on one installation, so that lossy files decode alike."""
    try:
        available = get_decoder(syntax).available_plugins
    except RuntimeError:  # pydicom knows no decoder at all
        return None
    if syntax == JPEGExtended12Bit and bits != 8:
        available = tuple(name for name in available if name == "pylibjpeg")
    return next((name for name in _PREFERENCE if name in available), None)
