"""One study as the bytes it will be in a tar: made where there are cores to spare, appended as it is by the writer.

Whoever packs needs no tar at hand, and whoever appends needs no study: it learns from a `PackedStudy` what the manifest
says of it.  The same study gives the same bytes.
"""

import tarfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
from pydantic_core import PydanticSerializationError

from vlp.data.schema import LabelsOrigin, SampleJson, shard_key, text_of
from vlp.errors import DataError
from vlp.records import FRONTAL, Certainty, LoadedStudy, Split, Study, View

ImageFormat = Literal["jpg", "png"]
JPEG_QUALITY = 95


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedStudy:
    """A study with its images as file bytes."""

    study: Study
    images: tuple[bytes, ...]
    image_format: ImageFormat
    labels_origin: LabelsOrigin | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedStudy:
    """A study as consecutive members of a tar, and what a manifest says of it; small enough to cross processes."""

    key: str
    split: Split
    patient: str
    views: tuple[View, ...]
    places: tuple[tuple[str, int, int], ...]
    """(what follows the key and a dot, offset in `content`, bytes) of every member."""
    sentences: Mapping[str, int]
    """Where sentences come from -> how many."""
    labels: Mapping[str, Certainty]
    labels_origin: LabelsOrigin
    source: str
    license: str
    synthetic: bool
    content: bytes
    """Headers, members and padding: whole blocks of a tar."""


def encode_study(
    loaded: LoadedStudy,
    *,
    image_format: ImageFormat = "jpg",
    jpeg_quality: int = JPEG_QUALITY,
    labels_origin: LabelsOrigin | None = None,
) -> EncodedStudy:
    """The study with its images compressed, the first frontal one moved to the front."""
    study = loaded.study
    first = next((index for index, image in enumerate(study.images) if image.view in FRONTAL), 0)
    order = [first, *(index for index in range(len(study.images)) if index != first)]
    return EncodedStudy(
        study=replace(study, images=tuple(study.images[index] for index in order)),
        images=tuple(_encode(loaded.pixels[index], image_format, jpeg_quality) for index in order),
        image_format=image_format,
        labels_origin=labels_origin,
    )


def pack(encoded: EncodedStudy, *, salt: str) -> PackedStudy:
    """The study as tar members `<key>.jpg ... <key>.txt <key>.json`, under a key made from its id and `salt`.

    Raises:
        DataError: if it has no split, no image, or something the shard's schema does not allow.
    """
    try:
        return _pack(encoded, salt)
    except (UnicodeEncodeError, PydanticSerializationError):
        raise DataError("a text holds half a character (a lone surrogate); its encoding is broken") from None


def _pack(encoded: EncodedStudy, salt: str) -> PackedStudy:
    study = encoded.study
    sample = SampleJson.from_study(
        study,
        key=shard_key(study.id, salt),
        image_format=encoded.image_format,
        labels_origin=encoded.labels_origin,
    )
    members = {image.member: content for image, content in zip(sample.images, encoded.images, strict=True)}
    members["txt"] = text_of(study)[0].encode()
    members["json"] = sample.model_dump_json(exclude_defaults=True).encode()
    pieces: list[bytes] = []
    places: list[tuple[str, int, int]] = []
    offset = 0
    for suffix, content in members.items():
        padding = -len(content) % tarfile.BLOCKSIZE
        pieces += (header(f"{sample.key}.{suffix}", len(content)), content, bytes(padding))
        places.append((suffix, offset + tarfile.BLOCKSIZE, len(content)))
        offset += tarfile.BLOCKSIZE + len(content) + padding
    return PackedStudy(
        key=sample.key,
        split=sample.split,
        patient=sample.person.id,
        views=tuple(image.view for image in sample.images),
        places=tuple(places),
        sentences=dict(Counter(sentence.origin for sentence in sample.sentences)),
        labels=sample.labels,
        labels_origin=sample.labels_origin,
        source=sample.source,
        license=sample.license,
        synthetic=sample.synthetic,
        content=b"".join(pieces),
    )


def header(name: str, size: int) -> bytes:
    """The header of a plain file in a tar, USTAR, with neither time nor owner: what `tarfile` makes, ten times as fast.

    `name` is ASCII of at most 100 characters.
    """
    encoded, digits = name.encode("ascii"), b"%011o" % size
    assert len(encoded) <= 100
    assert len(digits) == 11
    checksum = _PLAIN_SUM + sum(encoded) + sum(digits)
    return b"".join(
        (encoded.ljust(100, b"\0"), _PLAIN[100:124], digits, _PLAIN[135:148], b"%06o\0 " % checksum, _PLAIN[156:])
    )


def _plain_header() -> tuple[bytes, int]:
    """A header without name and size, and the sum of its bytes, those of the checksum counted as blanks."""
    plain = tarfile.TarInfo("")  # its time, owner and group are 0 already
    plain.mode = 0o644
    block = plain.tobuf(tarfile.USTAR_FORMAT)
    return block, sum(block[:124]) + sum(block[135:148]) + sum(block[156:]) + 8 * ord(" ")


_PLAIN, _PLAIN_SUM = _plain_header()


def _encode(pixels: np.ndarray, image_format: ImageFormat, jpeg_quality: int) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality] if image_format == "jpg" else []
    done, content = cv2.imencode(f".{image_format}", np.ascontiguousarray(pixels), options)
    assert done
    return bytes(content.tobytes())
