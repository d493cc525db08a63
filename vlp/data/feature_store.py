"""What a frozen image tower makes of the images of shards, on the disk: computed once, read in every epoch.

    header.json          what decides the numbers, their type and shape, and which image lies where
    part-000000.bin ...  so many images each, one after the other: pooled vector, patches, padding of patches

A part has its name only once it is whole, so a fill that was stopped goes on with the next one.  Images are read where
they lie; the system's own cache of files keeps what fits into memory.  Reading past the end of a
file that somebody cut is an error here, where a memory map would end the process.
"""

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, ValidationError

from vlp.config import Config
from vlp.data.manifest import write_whole
from vlp.errors import ConfigError, DataError
from vlp.tensors import ImageFeatures

HEADER_NAME = "header.json"
FeatureType = Literal["float16", "float32"]
_LOST = 2
"""In the place of an image's padding, where the image could not be read."""
Place = tuple[str, int]
"""An image: the key of its study, and its number there."""
PositiveInt = Annotated[int, Field(ge=1)]


class FeatureHeader(Config):
    """What a folder of features says about itself."""

    format: Literal["vlp-features"] = "vlp-features"
    version: Literal[1] = 1
    made_from: dict[str, str]
    """What decides the numbers -> its digest: tower, preprocessing, shards, precision."""
    dtype: FeatureType
    width: PositiveInt
    """Length of the tower's vectors."""
    grid: tuple[PositiveInt, PositiveInt]
    """(rows, columns) of patches."""
    images_per_part: PositiveInt = 256
    studies: tuple[tuple[str, tuple[int, ...]], ...]
    """Keys of studies with the numbers of their images, in the order they lie in."""

    @property
    def num_patches(self) -> int:
        """Patches of an image."""
        return self.grid[0] * self.grid[1]

    @property
    def bytes_per_image(self) -> int:
        """Size of an image's features on the disk."""
        return (1 + self.num_patches) * self.width * np.dtype(self.dtype).itemsize + self.num_patches

    def places(self) -> list[Place]:
        """All images, in the order they lie in."""
        return [(key, index) for key, indices in self.studies for index in indices]


class FeatureStore:
    """Features by (key, index).  Travels to worker processes, which open the files for themselves."""

    def __init__(self, folder: Path | str) -> None:
        """Checks that every part is there in its full length.

        Raises:
            DataError: if the folder holds no features, or not all of them.
        """
        self.folder = Path(folder)
        self.header = read_header(self.folder)
        places = self.header.places()
        self._rows = {place: row for row, place in enumerate(places)}
        self._files: dict[int, int] = {}
        missing = [
            part for part, images in _parts(self.header) if not _is_whole(self.folder, self.header, part, images)
        ]
        if missing:
            raise DataError(f"{self.folder}: {len(missing)} parts of the features are missing; start the run again")

    def get(self, key: str, index: int = 0) -> ImageFeatures:
        """The features of one image, `[1 ...]`, as they are stored; no padding where it has none.

        Raises:
            DataError: if there is no such image, it could not be read, or a file ends before its features do.
        """
        header, dtype = self.header, getattr(torch, self.header.dtype)
        pooled = torch.empty((1, header.width), dtype=dtype)
        patches = torch.empty((1, header.num_patches, header.width), dtype=dtype)
        padding = torch.empty((1, header.num_patches), dtype=torch.uint8)
        self._read((key, index), [values.numpy() for values in (pooled, patches, padding)])
        if padding[0, 0] == _LOST:
            raise DataError(f"{self.folder}: image {index} of study {key} could not be read")
        return ImageFeatures(
            pooled=pooled, patches=patches, grid=header.grid, padding=padding.bool() if padding.any() else None
        )

    def close(self) -> None:
        """Closes the files; they are opened again when needed."""
        for file in self._files.values():
            os.close(file)
        self._files = {}

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, place: object) -> bool:
        return place in self._rows

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": {}}

    def __del__(self) -> None:
        for file in getattr(self, "_files", {}).values():
            with suppress(OSError):
                os.close(file)

    def _read(self, place: Place, into: list[np.ndarray]) -> None:
        row = self._rows.get(place)
        if row is None:
            raise DataError(f"{self.folder}: no features of image {place[1]} of study {place[0]}")
        part, row = divmod(row, self.header.images_per_part)
        size = self.header.bytes_per_image
        file = self.folder / _part_name(part)
        try:
            if part not in self._files:
                self._files[part] = os.open(file, os.O_RDONLY)
            got = os.preadv(self._files[part], [array.data for array in into], row * size)
        except OSError as error:
            raise DataError(f"{file}: cannot be read: {error.strerror}") from None
        if got != size:
            raise DataError(f"{file}: truncated; remove it and start the run again")


class FeatureWriter:
    """Fills a folder of features part by part; several processes may each write parts of their own."""

    def __init__(self, folder: Path, header: FeatureHeader) -> None:
        """Nothing is written before `begin`."""
        self.folder = folder
        self.header = header
        self._places = header.places()

    def begin(self) -> None:
        """Writes the header, or makes sure that the one that is there is the same; one process does it for all.

        Raises:
            ConfigError: if the folder holds other features or anything else.
            DataError: if it cannot be written.
        """
        if (self.folder / HEADER_NAME).exists():
            _refuse_other(self.folder, read_header(self.folder), self.header)
            return
        try:
            if self.folder.exists() and any(self.folder.iterdir()):
                raise ConfigError(f"{self.folder}: exists and holds no features; name another folder for them")
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self.folder / HEADER_NAME, self.header.model_dump_json().encode())
        except OSError as error:
            raise DataError(f"{self.folder}: cannot write features: {error.strerror}") from None

    def missing(self) -> list[int]:
        """Numbers of the parts that are not there yet."""
        return [part for part, images in _parts(self.header) if not _is_whole(self.folder, self.header, part, images)]

    def places(self, part: int) -> list[Place]:
        """The images of one part."""
        first = part * self.header.images_per_part
        return self._places[first : first + self.header.images_per_part]

    def bytes_of(self, parts: Iterable[int]) -> int:
        """How much some parts take on the disk."""
        sizes: Mapping[int, int] = dict(_parts(self.header))
        return sum(sizes[part] for part in parts) * self.header.bytes_per_image

    def refuse_full_disk(self, parts: Iterable[int]) -> None:
        """Raises a `DataError` if the disk has not the room for some parts."""
        needed, free = self.bytes_of(parts), shutil.disk_usage(self.folder).free
        if needed > free:
            raise DataError(
                f"{self.folder}: the features take {needed / 1e9:.2f} GB and the disk has {free / 1e9:.2f} GB left; "
                "name a folder on another disk or train without them"
            )

    def write(self, part: int, blocks: Iterable[ImageFeatures | None]) -> None:
        """Writes one part, whole or not at all, from its images' features in their order.

        Args:
            part: Its number.
            blocks: Features of one or more images each; None for one image that cannot be read.

        Raises:
            DataError: if numbers do not fit the type, or the part cannot be written.
        """
        target = self.folder / _part_name(part)
        partial = target.with_name(f".{target.name}.partial")
        images = 0
        try:
            with partial.open("wb") as file:
                for block in blocks:
                    images += 1 if block is None else len(block.pooled)
                    file.writelines(self._records(block))
                file.flush()
                os.fsync(file.fileno())
            assert images == dict(_parts(self.header))[part]
            os.replace(partial, target)
        except OSError as error:
            raise DataError(f"{self.folder}: cannot write features: {error.strerror}") from None
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)

    def _records(self, block: ImageFeatures | None) -> Iterator[bytes]:
        if block is None:
            patches = self.header.num_patches
            yield bytes(self.header.bytes_per_image - patches) + bytes([_LOST]) * patches
            return
        padding = block.padding
        if padding is None:
            padding = torch.zeros(block.patches.shape[:2], dtype=torch.bool)
        assert block.patches.shape[1:] == (self.header.num_patches, self.header.width)
        stored = self._stored(block.pooled), self._stored(block.patches), padding.to(torch.uint8).cpu().numpy()
        for number in range(len(block.pooled)):
            yield from (values[number].tobytes() for values in stored)

    def _stored(self, values: torch.Tensor) -> np.ndarray:
        with np.errstate(over="ignore"):
            stored: np.ndarray = values.detach().float().cpu().numpy().astype(self.header.dtype)
        if not np.isfinite(stored).all():
            raise DataError(
                f"{self.folder}: the image tower's features leave the range of {self.header.dtype}"
                + ("; use dtype float32" if self.header.dtype == "float16" else "")
            )
        return stored


def read_header(folder: Path) -> FeatureHeader:
    """What a folder of features says about itself.

    Raises:
        DataError: if it holds none, or its header is damaged or of another version.
    """
    file = folder / HEADER_NAME
    try:
        return FeatureHeader.model_validate_json(file.read_bytes())
    except OSError as error:
        raise DataError(f"{folder}: no features here: {HEADER_NAME}: {error.strerror}") from None
    except ValidationError:
        raise DataError(f"{file}: damaged, or of another version; remove the folder of features") from None


def _refuse_other(folder: Path, there: FeatureHeader, wanted: FeatureHeader) -> None:
    before, now = (
        header.made_from | {"type, shape or studies": header.model_dump_json(exclude={"made_from"})}
        for header in (there, wanted)
    )
    differing = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    if differing:
        raise ConfigError(
            f"{folder}: holds other features ({', '.join(differing)} differ); name another folder or remove this one"
        )


def _parts(header: FeatureHeader) -> Iterator[tuple[int, int]]:
    """(number, images) of every part."""
    images = sum(len(indices) for _, indices in header.studies)
    for part, first in enumerate(range(0, images, header.images_per_part)):
        yield part, min(header.images_per_part, images - first)


def _part_name(part: int) -> str:
    return f"part-{part:06d}.bin"


def _is_whole(folder: Path, header: FeatureHeader, part: int, images: int) -> bool:
    try:
        return (folder / _part_name(part)).stat().st_size == images * header.bytes_per_image
    except OSError:
        return False
