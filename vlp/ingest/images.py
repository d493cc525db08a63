"""Image files as a radiologist sees them: one channel, bone bright, upright; everything doubtful is refused.

Every refusal is an `ImageError` with a code:

| code | what it is |
| --- | --- |
| `unreadable_file` `empty_file` `too_many_bytes` | the file, or what it inflates to |
| `not_an_image` `not_dicom` `dicomdir` | neither PNG nor JPEG nor DICOM by its content; a damaged DICOM header |
| `truncated_image` `truncated_pixel_data` `length_mismatch` `undecodable_pixels` | pixels that are not all there |
| `too_many_pixels` `bad_geometry` | more than 64 million pixels; a side too short or too long |
| `no_contrast` | one value everywhere |
| `colour_image` `cmyk` `animated` `multi_frame` | pictures of another kind |
| `unsupported_object` `wrong_modality` `not_chest` | DICOM objects that are no chest radiographs, by their header |
| `no_pixel_data` `missing_attribute:<keyword>` `unsupported_photometric` `unsupported_pixels` `non_finite` | DICOM \
headers that do not describe a grey image |
| `decoder_missing:<uid>` `unsupported_transfer_syntax:<uid>` | DICOM pixels nobody here can decode |
"""

import hashlib
import importlib.util
import io
import threading
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from vlp import log
from vlp.data.encoded import MAX_PIXELS
from vlp.errors import BackendError
from vlp.ingest.content import describe, kind_of
from vlp.ingest.file_bytes import read_bytes
from vlp.ingest.grey import grey_of_rgb
from vlp.ingest.image_error import DEFAULT_LIMITS, ImageError, Limits
from vlp.records import ImageFile

_16_BITS = ("I;16", "I;16B", "I;16L", "I")
_logger = log.get_logger(__name__)
_told: set[str] = set()
_telling = threading.Lock()


def read_image(
    path: Path | str, *, frame: int | None = None, limits: Limits = DEFAULT_LIMITS
) -> tuple[ImageFile, UInt8[np.ndarray, "rows columns"]]:
    """A radiograph in a PNG, JPEG or DICOM file, and its pixels.

    The content decides, not the file's name.  EXIF rotation is applied, 16-bit grey is scaled by 65,535 to 255,
    transparency lies on black, RGB copies of a grey image become grey, colour profiles are ignored.  DICOM goes
    through `vlp.ingest.dicom` (modality LUT, window, polarity) and brings its view and pixel spacing.

    Args:
        path: The file.
        frame: Which frame (from 0) to take of a DICOM file with several.
        limits: Sizes that are refused.

    Raises:
        ImageError: a `DataError` whose `code` is in the table of this module.
        BackendError: for a DICOM file where pydicom is not installed.
    """
    path = Path(path)
    content = read_bytes(path)
    kind = kind_of(content)
    if kind is None:
        raise ImageError("not_an_image", f"{path}: {describe(content)}")
    if kind == "DICOM":
        return _read_dicom(path, content, frame, limits)
    pixels, flags = _decode(content, kind, path)
    if pixels.min() == pixels.max():
        raise ImageError("no_contrast", f"{path}: every pixel has the same value; there is nothing to see")
    limits.check(pixels.shape[0], pixels.shape[1], path)
    tell(flags)
    file = ImageFile(
        id=path.name,
        path=path,
        view="other",
        rows=pixels.shape[0],
        columns=pixels.shape[1],
        sha256=hashlib.sha256(content).hexdigest(),
    )
    return file, pixels


def _read_dicom(
    path: Path, content: bytes, frame: int | None, limits: Limits
) -> tuple[ImageFile, UInt8[np.ndarray, "rows columns"]]:
    require_pydicom(path)
    from vlp.ingest.dicom import read_dicom

    image = read_dicom(path, content=content, frame=frame, limits=limits)
    tell(image.facts.flags)
    return image.file, image.pixels


def require_pydicom(path: Path) -> None:
    """Passes where DICOM files can be read.

    Raises:
        BackendError: where pydicom is not installed.
    """
    if importlib.util.find_spec("pydicom") is None:
        raise BackendError(f"{path}: DICOM; reading it needs pydicom: pip install 'vlp[dicom]'")


def tell(flags: Iterable[str]) -> None:
    """Warns of each kind of oddity once per process, without saying of which image: its name may say whose it is."""
    with _telling:
        new = set(flags) - _told
        _told.update(new)
    for flag in sorted(new):
        _logger.warning("an image was read in spite of an oddity: %s (told once)", flag)


def _decode(content: bytes, kind: str, path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    try:
        with warnings.catch_warnings():
            # Pillow warns of sizes that are refused below anyway.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=(kind,)) as image:
                _refuse_unfit(image, path)
                upright = ImageOps.exif_transpose(image)
                return _to_grey(upright, path)
    except Image.DecompressionBombError:
        raise _too_many_pixels(path) from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        # What Pillow says may quote the file's content; what matters is that it cannot be decoded whole.
        raise ImageError("truncated_image", f"{path}: the {kind} image is truncated or damaged") from None


def _refuse_unfit(image: Image.Image, path: Path) -> None:
    """Looks at the header only, before any pixel is decoded."""
    if image.width * image.height > MAX_PIXELS:
        raise _too_many_pixels(path)
    if image.mode in ("CMYK", "YCCK"):
        raise ImageError("cmyk", f"{path}: a CMYK image made for print; save it as greyscale PNG or JPEG")
    if getattr(image, "n_frames", 1) > 1 and image.format == "PNG":
        raise ImageError("animated", f"{path}: an animated PNG; save the one image that is meant")


def _too_many_pixels(path: Path) -> ImageError:
    message = f"{path}: more than {MAX_PIXELS // 1_000_000} million pixels; make it smaller first"
    return ImageError("too_many_pixels", message)


def _to_grey(image: Image.Image, path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """The pixels in grey, and flags for what was odd."""
    if image.mode in _16_BITS:
        # Pillow's own conversion clips 16 bits to white.
        return _from_16_bits(np.asarray(image)), ()
    flags: tuple[str, ...] = ()
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        flags = ("transparency_on_black",)
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba).convert("RGB")
    if image.mode in ("RGB", "P"):
        return grey_of_rgb(np.asarray(image.convert("RGB")), path), flags
    return np.array(image.convert("L"), dtype=np.uint8), flags


def _from_16_bits(values: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    return scaled
