"""Image files as a radiologist sees them: one channel, bone bright, upright; everything doubtful is refused."""

import hashlib
import io
import warnings
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from vlp.errors import DataError
from vlp.records import ImageFile

MAX_PIXELS = 64_000_000
MAX_FILE_BYTES = 512 * 1024 * 1024
_MAX_COLOUR = 16.0
"""Mean spread of the channels above which a picture is a colour picture, not a radiograph saved as one."""
_FORMATS = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG"}


def read_image(path: Path | str) -> tuple[ImageFile, UInt8[np.ndarray, "rows columns"]]:
    """A PNG or JPEG radiograph and its pixels.

    The content decides, not the file's name.  EXIF rotation is applied, 16-bit grey is scaled by 65,535 to 255,
    transparency lies on black, and RGB copies of a grey image become grey.

    Raises:
        DataError: for a missing or empty file, anything that is no PNG or JPEG, a truncated, animated, constant,
            coloured or CMYK image, and one of more than 64 million pixels, which is refused before it is decoded.
    """
    path = Path(path)
    content = _read_bytes(path)
    kind = next((name for magic, name in _FORMATS.items() if content.startswith(magic)), None)
    if kind is None:
        raise DataError(f"{path}: {_what_it_is(content)}")
    pixels = _decode(content, kind, path)
    if pixels.min() == pixels.max():
        raise DataError(f"{path}: every pixel has the same value; there is nothing to see")
    file = ImageFile(
        id=path.name,
        path=path,
        view="other",
        rows=pixels.shape[0],
        columns=pixels.shape[1],
        sha256=hashlib.sha256(content).hexdigest(),
    )
    return file, pixels


def _read_bytes(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise DataError(f"{path}: not a file")
        if size == 0:
            raise DataError(f"{path}: the file is empty")
        if size > MAX_FILE_BYTES:
            raise DataError(f"{path}: larger than {MAX_FILE_BYTES >> 20} MiB; too large for one radiograph")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


def _what_it_is(content: bytes) -> str:
    if content[128:132] == b"DICM":
        return "a DICOM file; convert it to PNG first"
    return "not an image: neither PNG nor JPEG"


def _decode(content: bytes, kind: str, path: Path) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            # Pillow warns of sizes that are refused below anyway.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=(kind,)) as image:
                _refuse_unfit(image, path)
                upright = ImageOps.exif_transpose(image)
                return _to_grey(upright, path)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        if isinstance(error, Image.DecompressionBombError):
            raise DataError(_too_many_pixels(path)) from None
        # What Pillow says may quote the file's content; what matters is that it cannot be decoded whole.
        raise DataError(f"{path}: the {kind} image is truncated or damaged") from None


def _refuse_unfit(image: Image.Image, path: Path) -> None:
    """Looks at the header only, before any pixel is decoded."""
    if image.width * image.height > MAX_PIXELS:
        raise DataError(_too_many_pixels(path))
    if image.mode in ("CMYK", "YCCK"):
        raise DataError(f"{path}: a CMYK image made for print; save it as greyscale PNG or JPEG")
    if getattr(image, "n_frames", 1) > 1 and image.format == "PNG":
        raise DataError(f"{path}: an animated PNG; save the one image that is meant")


def _too_many_pixels(path: Path) -> str:
    return f"{path}: more than {MAX_PIXELS // 1_000_000} million pixels; make it smaller first"


def _to_grey(image: Image.Image, path: Path) -> np.ndarray:
    if image.mode in ("I;16", "I;16B", "I;16L", "I"):
        # Pillow's own conversion clips 16 bits to white.
        return _from_16_bits(np.asarray(image))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba).convert("RGB")
    if image.mode in ("RGB", "P"):
        _refuse_colour(np.asarray(image.convert("RGB")), path)
    return np.array(image.convert("L"), dtype=np.uint8)


def _from_16_bits(values: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    return scaled


def _refuse_colour(pixels: np.ndarray, path: Path) -> None:
    coarse = pixels[:: max(1, pixels.shape[0] // 256), :: max(1, pixels.shape[1] // 256)].astype(np.int16)
    if float((coarse.max(axis=2) - coarse.min(axis=2)).mean()) > _MAX_COLOUR:
        raise DataError(f"{path}: a colour picture, not a radiograph")
