"""DICOM files for tests: radiographs with whatever header and transfer syntax a test is about."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="needs the extra vlp[dicom]")

from PIL import Image  # noqa: E402
from pydicom import uid  # noqa: E402
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.sequence import Sequence  # noqa: E402

GREY = np.random.default_rng(0).integers(0, 4096, (64, 80), dtype=np.uint16)
DX, CR = uid.DigitalXRayImageStorageForPresentation, uid.ComputedRadiographyImageStorage


def header(pixels: np.ndarray = GREY, *, bits: int = 12, without: tuple[str, ...] = (), **elements: Any) -> Dataset:
    """A chest radiograph's data set, uncompressed; `elements` replace or add, `without` takes away."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.Modality, dataset.BodyPartExamined = DX, "DX", "CHEST"
    dataset.SOPInstanceUID, dataset.StudyInstanceUID = uid.generate_uid(), uid.generate_uid()
    dataset.PatientID = "p1"
    dataset.Rows, dataset.Columns = pixels.shape[:2] if pixels.shape[-1] == 3 else pixels.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = pixels.dtype.itemsize * 8
    dataset.BitsStored = min(bits, dataset.BitsAllocated)
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(np.issubdtype(pixels.dtype, np.signedinteger))
    content = np.ascontiguousarray(pixels).astype(pixels.dtype.newbyteorder("<")).tobytes()
    dataset.PixelData = content + b"\0" * (len(content) % 2)
    dataset["PixelData"].VR = "OB" if dataset.BitsAllocated == 8 else "OW"
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    for keyword in without:
        delattr(dataset, keyword)
    return dataset


def items(*values: dict[str, Any]) -> Sequence:
    """A sequence whose items have these elements."""
    sequence = []
    for value in values:
        item = Dataset()
        for keyword, content in value.items():
            setattr(item, keyword, content)
        sequence.append(item)
    return Sequence(sequence)


def code(value: str, meaning: str) -> Sequence:
    """A coded concept."""
    return items({"CodeValue": value, "CodingSchemeDesignator": "SCT", "CodeMeaning": meaning})


def content_of(dataset: Dataset, syntax: str = uid.ExplicitVRLittleEndian, *, preamble: bool = True) -> bytes:
    """The bytes of the file; without `preamble` the bare data set."""
    buffer = io.BytesIO()
    original, dataset = dataset, Dataset()
    dataset.update(original)
    if syntax == uid.ExplicitVRBigEndian and "PixelData" in dataset and dataset["PixelData"].VR == "OW":
        swapped = np.frombuffer(dataset.PixelData, "<u2").byteswap().tobytes()  # which pydicom does not do
        dataset["PixelData"] = pydicom.DataElement(0x7FE00010, "OW", swapped)
    implicit, little = syntax == uid.ImplicitVRLittleEndian, syntax != uid.ExplicitVRBigEndian
    if preamble:
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.file_meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", DX)
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", "1.2")
        pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    else:
        pydicom.dcmwrite(buffer, dataset, implicit_vr=implicit, little_endian=little, enforce_file_format=False)
    return buffer.getvalue()


def write(path: Path, dataset: Dataset, syntax: str = uid.ExplicitVRLittleEndian, *, preamble: bool = True) -> Path:
    """The file at `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content_of(dataset, syntax, preamble=preamble))
    return path


def compressed(path: Path, dataset: Dataset, frames: list[bytes], syntax: str) -> Path:
    """A file whose pixels are these codestreams, one fragment each."""
    dataset.PixelData = encapsulate(frames)
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return write(path, dataset, syntax)


def encoded(dataset: Dataset, syntax: str, **options: Any) -> bytes:
    """The codestream of the data set's pixels, by pydicom's encoders."""
    copy = Dataset()
    copy.update(dataset)
    copy.file_meta = FileMetaDataset()
    copy.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    copy.compress(syntax, generate_instance_uid=False, encapsulate_ext=False, **options)
    buffer = io.BytesIO(copy.PixelData)
    pydicom.encaps.parse_basic_offsets(buffer)
    return b"".join(pydicom.encaps.generate_fragments(buffer))


def jpeg(pixels: np.ndarray, **options: Any) -> bytes:
    """A baseline JPEG codestream, by Pillow."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", **options)
    return buffer.getvalue()


def lossless_jpeg(pixels: np.ndarray, *, bits: int) -> bytes:
    """A lossless JPEG codestream (process 14), written here after ITU-T T.81 Annex H: first-order prediction."""
    lengths, codes = _one_code_per_category()
    stream = "".join(_differences(pixels.astype(np.int64), bits, lengths, codes))
    stream += "1" * (-len(stream) % 8)
    scan = bytes(int(stream[at : at + 8], 2) for at in range(0, len(stream), 8)).replace(b"\xff", b"\xff\0")
    rows, columns = pixels.shape
    frame = bytes([bits]) + rows.to_bytes(2, "big") + columns.to_bytes(2, "big") + b"\x01\x01\x11\x00"
    counts = bytes(sum(length == number for length in lengths.values()) for number in range(1, 17))
    table = b"\x00" + counts + bytes(sorted(lengths, key=lambda category: (lengths[category], category)))
    return b"".join(
        (b"\xff\xd8", _segment(0xC3, frame), _segment(0xC4, table), _segment(0xDA, b"\x01\x01\x00\x01\x00\x00"), scan)
    ) + b"\xff\xd9"  # fmt: skip


def _segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + (len(body) + 2).to_bytes(2, "big") + body


def _one_code_per_category() -> tuple[dict[int, int], dict[int, str]]:
    """Codes of five bits for the 17 categories; the all-ones code stays unused, as the standard wants."""
    return {category: 5 for category in range(17)}, {category: f"{category:05b}" for category in range(17)}


def _differences(pixels: np.ndarray, bits: int, lengths: dict[int, int], codes: dict[int, str]) -> Any:
    for row in range(pixels.shape[0]):
        for column in range(pixels.shape[1]):
            above = pixels[row - 1, 0] if row else 1 << (bits - 1)
            difference = int(pixels[row, column] - (pixels[row, column - 1] if column else above))
            category = abs(difference).bit_length()
            yield codes[category]
            if category:
                yield f"{difference if difference > 0 else difference + (1 << category) - 1:0{category}b}"
