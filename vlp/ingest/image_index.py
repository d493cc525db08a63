"""Images that an archive's tables name without saying in which of its folders they lie."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

import numpy as np
from jaxtyping import UInt8

from vlp.errors import DataError
from vlp.ingest.images import read_image
from vlp.ingest.source import StudyFault
from vlp.records import ImageFile

ENDINGS = (".png", ".jpg", ".jpeg", ".dcm", ".dicom")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadImage:
    """An image that could be read."""

    file: ImageFile
    pixels: UInt8[np.ndarray, "rows columns"]


def image_name(file: str) -> str:
    """The name of a file without its folders and its endings: "a/1_IM-0001.dcm.png" is "1_IM-0001".

    Dots that are part of the name (of a UID) stay.
    """
    name = file.replace("\\", "/").rpartition("/")[2]
    while (stem := _without_ending(name)) != name:
        name = stem
    return name


def _without_ending(name: str) -> str:
    return next((name[: -len(ending)] for ending in ENDINGS if name.lower().endswith(ending)), name)


@lru_cache(maxsize=8)
def index_images(folder: Path) -> Mapping[str, Path]:
    """Name (see `image_name`) -> file, for all images in `folder` and the folders below it.

    Kept per process; `index_images.cache_clear()` makes the next call look again.

    Raises:
        DataError: if there is no such folder, or two images have the same name.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder of images")
    found: dict[str, Path] = {}
    for path in _files(folder):
        if found.setdefault(image_name(path.name), path) != path:
            raise DataError(
                f"{folder}: several images have the same name, perhaps in several sizes or formats; "
                "name the one folder to use with `images`"
            )
    return MappingProxyType(found)


def read_or_fault(path: Path, *, id_: str, where: str) -> ReadImage | StudyFault:
    """The image in `path` under the name `id_`, or the fault, which does not repeat the file's name."""
    if not path.is_file():
        return StudyFault(code="missing_image", message=f"{where}: the image is not there")
    try:
        file, pixels = read_image(path)
    except DataError as error:
        reason = str(error).removeprefix(f"{path}: ")  # a file's name may say whose it is
        return StudyFault(code=getattr(error, "code", "unreadable_image"), message=f"{where}: {reason}")
    return ReadImage(file=replace(file, id=id_), pixels=pixels)


def _files(folder: Path) -> Iterator[Path]:
    """Every image below `folder` in the order of names; links are followed, but no folder is entered twice."""
    entered: set[str] = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        folders.sort()
        for name in sorted(files):
            if name.lower().endswith(ENDINGS) and not name.startswith("."):
                yield Path(root) / name
