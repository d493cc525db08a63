"""From stored values to what a radiologist sees: modality LUT, window, polarity, eight bits, bone bright.

The steps are those of DICOM PS3.3 C.11 and PS3.4 N.2, applied to a table of all stored values and then to the pixels:

1. *Padding* (PixelPaddingValue, up to PixelPaddingRangeLimit) takes no part in anything and becomes black.
2. *Modality LUT*: the sequence, else RescaleSlope and RescaleIntercept.
3. *VOI*: the first VOI LUT, else the first window (LINEAR, LINEAR_EXACT or SIGMOID).  Where there is none, or it
   cannot be used (a width of nothing, no number, every pixel on one side of it), the whole range of BitsStored if
   the image's 0.1st to 99.9th percentiles span at least half of it, else those percentiles.
4. *Polarity*: PhotometricInterpretation decides.  MONOCHROME1 is inverted once, here, over the full scale.
5. Rounding to 0..255.  An image stored as MONOCHROME1 and as MONOCHROME2 gives the same bytes.

Overlays (groups 60xx) are not drawn.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from vlp.ingest.dicom_file import DicomFile, Header
from vlp.ingest.dicom_pixels import Stored
from vlp.ingest.image_error import ImageError

TAIL = 0.001
"""Share of the pixels that may lie beyond each end of a window made from percentiles."""
_MIN_COVER = 0.5
_WORD = 0x10000


@dataclass(frozen=True, slots=True, kw_only=True)
class Lut:
    """A look-up table: `values[i]` for input `first + i`, clamped at both ends; outputs in [0, 2^bits)."""

    first: int
    bits: int
    values: Int[np.ndarray, " entry"]

    def __call__(self, inputs: Float[np.ndarray, " value"]) -> Float[np.ndarray, " value"]:
        """The table's outputs."""
        places = np.clip(np.rint(inputs) - self.first, 0, len(self.values) - 1).astype(np.int64)
        outputs: np.ndarray = self.values[places].astype(np.float64)
        return outputs


def display(stored: Stored, file: DicomFile, path: Path) -> tuple[UInt8[np.ndarray, "rows columns"], tuple[str, ...]]:
    """The pixels as they should be looked at, and flags for what was odd.

    Raises:
        ImageError: "no_contrast" for an image of one value, "non_finite" for a rescale that yields no numbers,
            "unsupported_photometric" for a palette with colours.
    """
    header = file.header
    lowest = -(1 << (stored.bits - 1)) if stored.signed else 0
    domain = np.arange(lowest, lowest + (1 << stored.bits), dtype=np.float64)
    padding = _padding(stored, header)
    counts = np.bincount((stored.values[~padding].astype(np.int64) - lowest).ravel(), minlength=domain.size)
    present = np.flatnonzero(counts)
    if present.size < 2:
        raise ImageError("no_contrast", f"{path}: every pixel has the same value; there is nothing to see")
    flags: list[str] = []
    if stored.photometric == "PALETTE COLOR":
        table = _palette(file, path)(domain) / 255.0
    else:
        units, low, high = _modality(domain, file, path)
        voi = _voi(units, file, flags)
        if voi is None or _is_flat(voi[present]):
            if voi is not None:
                flags.append("unusable_window")
            voi = _by_percentiles(units, counts, (low, high))
        table = 1.0 - voi if stored.photometric == "MONOCHROME1" else voi
    if _is_flat(table[present]):
        raise ImageError("no_contrast", f"{path}: no contrast is left once the pixels are displayed")
    if _polarity_disputed(stored.photometric, header):
        flags.append("conflict:PhotometricInterpretation against PresentationLUTShape")
    pixels = _bytes(table)[stored.values.astype(np.int64) - lowest]
    pixels[padding] = 0
    return pixels, tuple(flags)


def _bytes(table: Float[np.ndarray, " value"]) -> UInt8[np.ndarray, " value"]:
    # Six decimals first: an inverted table may differ from the other in its last bit, just where a half is rounded.
    scaled: np.ndarray = np.floor(np.round(np.clip(table, 0.0, 1.0) * 255.0, 6) + 0.5)
    return scaled.astype(np.uint8)


def _is_flat(table: Float[np.ndarray, " value"]) -> bool:
    shown = _bytes(table)
    return bool(shown.min() == shown.max())


def _polarity_disputed(photometric: str, header: Header) -> bool:
    shape = header.text("PresentationLUTShape").upper()
    return (photometric, shape) in {("MONOCHROME1", "IDENTITY"), ("MONOCHROME2", "INVERSE")}


def _padding(stored: Stored, header: Header) -> Bool[np.ndarray, "rows columns"]:
    value = header.integer("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.values.shape, dtype=bool)
    limit = header.integer("PixelPaddingRangeLimit")
    ends = [_as_stored(end, signed=stored.signed) for end in (value, value if limit is None else limit)]
    inside: np.ndarray = (stored.values >= min(ends)) & (stored.values <= max(ends))
    return inside


def _as_stored(value: int, *, signed: bool) -> int:
    """A padding value with the sign of the pixels; writers get its representation wrong."""
    if signed and value >= _WORD // 2:
        return value - _WORD
    return value + _WORD if not signed and value < 0 else value


def _modality(
    domain: Float[np.ndarray, " value"], file: DicomFile, path: Path
) -> tuple[Float[np.ndarray, " value"], float, float]:
    """The domain in modality units, and the ends of the range they can have."""
    lut = next((lut for item in file.header.items("ModalityLUTSequence") if (lut := _lut(item, file))), None)
    if lut is not None:
        return lut(domain), 0.0, float((1 << lut.bits) - 1)
    slope = next(iter(file.header.numbers("RescaleSlope")), 1.0) if "RescaleSlope" in file.header else 1.0
    intercept = next(iter(file.header.numbers("RescaleIntercept")), 0.0)
    units = domain * slope + intercept
    if not np.isfinite(units).all():
        raise ImageError("non_finite", f"{path}: the rescale slope or intercept of the header is no number")
    return units, float(units.min()), float(units.max())


def _voi(units: Float[np.ndarray, " value"], file: DicomFile, flags: list[str]) -> np.ndarray | None:
    """The first VOI LUT or window of the header over `units`, in [0, 1]; None where there is none to use."""
    lut = next((lut for item in file.header.items("VOILUTSequence") if (lut := _lut(item, file))), None)
    if lut is not None:
        return lut(units) / float((1 << lut.bits) - 1)
    centre = next(iter(file.header.numbers("WindowCenter")), None)
    width = next(iter(file.header.numbers("WindowWidth")), None)
    if centre is None and width is None:
        return None
    function = file.header.text("VOILUTFunction").upper() or "LINEAR"
    least = 1.0 if function not in ("LINEAR_EXACT", "SIGMOID") else math.ulp(0.0)
    if centre is None or width is None or not math.isfinite(centre) or not least <= width < math.inf:
        flags.append("unusable_window")
        return None
    return _window(units, centre, width, function)


def _window(units: Float[np.ndarray, " value"], centre: float, width: float, function: str) -> np.ndarray:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3, in [0, 1]; an unknown function is LINEAR, as the standard's default."""
    if function == "SIGMOID":
        # Beyond +-60 the result is 0 or 1 to every digit, and exp would overflow.
        return np.asarray(1.0 / (1.0 + np.exp(np.clip(-4.0 * (units - centre) / width, -60.0, 60.0))))
    if function == "LINEAR_EXACT":
        return np.clip((units - centre) / width + 0.5, 0.0, 1.0)
    if width == 1.0:
        return np.where(units > centre - 0.5, 1.0, 0.0)
    return np.clip((units - (centre - 0.5)) / (width - 1.0) + 0.5, 0.0, 1.0)


def _by_percentiles(
    units: Float[np.ndarray, " value"], counts: Int[np.ndarray, " value"], full: tuple[float, float]
) -> Float[np.ndarray, " value"]:
    """The window of step 3 for images that bring none.

    The percentiles are order statistics counted from both ends, so that an inverted image gets the inverted window.
    """
    running = np.cumsum(counts)
    total = int(running[-1])
    beyond = int(total * TAIL)
    first = int(np.searchsorted(running, beyond, side="right"))
    last = int(np.searchsorted(running, total - beyond, side="left"))
    low, high = sorted((float(units[first]), float(units[last])))
    if high - low >= _MIN_COVER * (full[1] - full[0]):
        low, high = full
    elif low == high:
        shown = units[np.flatnonzero(counts)]
        low, high = float(shown.min()), float(shown.max())
    return np.clip((units - low) / ((high - low) or 1.0), 0.0, 1.0)


def _lut(item: Header, file: DicomFile) -> Lut | None:
    return read_lut(item, "LUTDescriptor", "LUTData", little_endian=file.little_endian)


def read_lut(item: Header, descriptor: str, data: str, *, little_endian: bool) -> Lut | None:
    """A look-up table of the header, None where it is empty or broken.

    Three quirks of the standard and of writers: 0 entries stand for 65,536; 8-bit entries may stand two in a word;
    the stated number of bits is often 16 for tables that end at 4,095, so the fewest bits (but at least eight) that
    hold all entries count where that is less than stated.
    """
    described = [int(number) if math.isfinite(number) else 0 for number in item.numbers(descriptor)]
    if len(described) != 3:
        return None
    entries, first, bits = described[0] % _WORD or _WORD, described[1], described[2]
    values = _entries(item, data, entries, little_endian=little_endian)
    if values is None or not 1 <= bits <= 16:
        return None
    needed = max(8, int(values.max()).bit_length())
    return Lut(first=first - _WORD if first >= _WORD // 2 else first, bits=min(bits, needed), values=values)


def _entries(item: Header, data: str, entries: int, *, little_endian: bool) -> np.ndarray | None:
    content = item.binary(data)
    if content:
        if len(content) in (entries, entries + entries % 2) and entries > 1:
            return np.frombuffer(content, dtype=np.uint8)[:entries].astype(np.int64)
        words = np.frombuffer(content[: len(content) // 2 * 2], dtype="<u2" if little_endian else ">u2")
    else:
        numbers = np.asarray(item.numbers(data))
        if not numbers.size or not np.isfinite(numbers).all():
            return None
        words = numbers.astype(np.int64) % _WORD
        if len(words) == (entries + 1) // 2:  # two 8-bit entries in each word, the first in its lower half
            words = np.stack((words & 0xFF, words >> 8), axis=1).ravel()
    return words[:entries].astype(np.int64) if len(words) >= entries else None


def _palette(file: DicomFile, path: Path) -> Lut:
    """The one look-up table of a palette whose three are alike, in 0..255."""
    colours = ("Red", "Green", "Blue")
    luts = [
        read_lut(
            file.header,
            f"{colour}PaletteColorLookupTableDescriptor",
            f"{colour}PaletteColorLookupTableData",
            little_endian=file.little_endian,
        )
        for colour in colours
    ]
    grey = luts[0]
    if grey is None or any(lut is None or not np.array_equal(lut.values, grey.values) for lut in luts):
        raise ImageError("unsupported_photometric", f"{path}: a palette of colours, not a radiograph")
    scale = 255.0 / ((1 << grey.bits) - 1)
    return Lut(first=grey.first, bits=8, values=np.rint(grey.values * scale).astype(np.int64))
