"""DICOM radiographs as a radiologist sees them; needs `vlp[dicom]`.

The header decides first whether this is a chest radiograph (`dicom_header`), then the stored values are decoded
(`dicom_pixels`), then displayed (`dicom_display`).  Nothing that names a person is read.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from vlp.ingest.dicom_display import display
from vlp.ingest.dicom_file import open_dicom, quiet
from vlp.ingest.dicom_header import DicomFacts, read_facts, require_chest_radiograph
from vlp.ingest.dicom_pixels import stored_values
from vlp.ingest.file_bytes import read_bytes
from vlp.ingest.image_error import DEFAULT_LIMITS, Limits
from vlp.records import ImageFile


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomImage:
    """A chest radiograph from a DICOM file: what it is, its pixels, and what its header says of it."""

    file: ImageFile
    pixels: UInt8[np.ndarray, "rows columns"]
    facts: DicomFacts


def read_dicom(
    path: Path | str,
    *,
    content: bytes | None = None,
    frame: int | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> DicomImage:
    """The chest radiograph in a DICOM file, with or without preamble, in any transfer syntax there is a decoder for.

    Args:
        path: The file; also its name in messages.
        content: The file's bytes where the caller has them already.
        frame: Which frame (from 0) to take of a file with several; such files are refused otherwise.
        limits: Sizes that are refused.

    Raises:
        ImageError: see the table in `vlp.ingest.images`; the message is one line and quotes no identifier.
    """
    path = Path(path)
    content = read_bytes(path) if content is None else content
    with quiet():
        opened = open_dicom(path, content=content)
        require_chest_radiograph(opened, path)
        stored = stored_values(opened, path, frame=frame)
        pixels, flags = display(stored, opened, path)
        facts = read_facts(opened, flags=(*stored.flags, *flags))
    limits.check(pixels.shape[0], pixels.shape[1], path)
    file = ImageFile(
        id=path.name,
        path=path,
        view=facts.view.view,
        rows=pixels.shape[0],
        columns=pixels.shape[1],
        spacing_mm=facts.spacing_mm,
        sha256=hashlib.sha256(content).hexdigest(),
    )
    return DicomImage(file=file, pixels=pixels, facts=facts)


def read_stored(path: Path | str, *, frame: int | None = None) -> Int[np.ndarray, "rows columns"]:
    """The values of any DICOM image as stored, whatever it shows: no rescale, no window, no inversion."""
    path = Path(path)
    with quiet():
        return stored_values(open_dicom(path, content=read_bytes(path)), path, frame=frame).values
