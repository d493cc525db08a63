"""Random access to the studies of a folder of shards, by offset, without scanning or unpacking tars."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from vlp.data.manifest import Manifest, Sample, Shard, read_manifest
from vlp.data.schema import SampleJson, member_name
from vlp.errors import DataError
from vlp.records import Split, Study


class ShardReader:
    """Reads studies in the manifest's order.  Travels to worker processes, which open the tars for themselves."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self._places: dict[str, tuple[Shard, Sample]] = {
            sample.key: (shard, sample) for shard in manifest.shards for sample in shard.samples
        }
        self._files: dict[str, int] = {}

    def keys(self, split: Split | None = None) -> tuple[str, ...]:
        """Keys of the studies of one split (None: of all)."""
        return tuple(key for key, (shard, _) in self._places.items() if split is None or shard.split == split)

    def study(self, key: str) -> Study:
        """The study without its pixels."""
        return self.sample_json(key).to_study(self.text(key))

    def studies(self, split: Split | None = None) -> Iterator[Study]:
        """The studies of one split (None: of all), without pixels."""
        return (self.study(key) for key in self.keys(split))

    def sample(self, key: str) -> Sample:
        """What the manifest knows of the study.

        Raises:
            DataError: if there is no such study.
        """
        return self._place(key)[1]

    def sample_json(self, key: str) -> SampleJson:
        """The study's own file in the shard."""
        shard, _ = self._place(key)
        return SampleJson.parse(self.member(key, "json"), where=f"{shard.name}: study {key}")

    def text(self, key: str) -> str:
        """Content of the study's text file."""
        shard, _ = self._place(key)
        try:
            return self.member(key, "txt").decode("utf-8")
        except UnicodeDecodeError:
            raise DataError(f"{self.folder / shard.name}: study {key}: its text is not UTF-8") from None

    def num_images(self, key: str) -> int:
        """How many images the study has."""
        return len(self.sample(key).views)

    def encoded(self, key: str, index: int = 0) -> bytes:
        """File bytes of the study's image number `index`; 0 is the first frontal one."""
        return self.member(key, member_name(index, self.manifest.image_format))

    def image(self, key: str, index: int = 0) -> UInt8[np.ndarray, "rows columns"]:
        """Pixels of the study's image number `index`; 0 is the first frontal one.

        Raises:
            DataError: if the bytes in the shard are no image.
        """
        content = np.frombuffer(self.encoded(key, index), dtype=np.uint8)
        pixels = cv2.imdecode(content, cv2.IMREAD_GRAYSCALE) if content.size else None
        if pixels is None:
            shard, _ = self._place(key)
            raise DataError(f"{self.folder / shard.name}: image {index} of study {key} cannot be decoded")
        return np.asarray(pixels, dtype=np.uint8)

    def member(self, key: str, suffix: str) -> bytes:
        """File bytes of the tar member `<key>.<suffix>`.

        Raises:
            DataError: if there is no such member, or the tar ends before it does.
        """
        shard, sample = self._place(key)
        if suffix not in sample.members:
            raise DataError(f"{self.folder / shard.name}: study {key} has no {suffix}")
        offset, size = sample.members[suffix]
        if offset + size > shard.bytes:
            raise DataError(f"{self.folder / shard.name}: the manifest places {suffix} of study {key} behind its end")
        try:
            content = os.pread(self._file(shard.name), size, offset)
        except OSError as error:
            raise DataError(f"{self.folder / shard.name}: cannot be read: {error.strerror}") from None
        if len(content) != size:
            raise DataError(f"{self.folder / shard.name}: truncated; run vlp shards check {self.folder}")
        return content

    def close(self) -> None:
        """Closes the tars; they are opened again when needed."""
        for file in self._files.values():
            os.close(file)
        self._files = {}

    def __len__(self) -> int:
        return len(self._places)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "manifest": self.manifest}

    def __setstate__(self, state: dict[str, Any]) -> None:
        ShardReader.__init__(self, state["folder"], state["manifest"])

    def __del__(self) -> None:
        for file in getattr(self, "_files", {}).values():
            os.close(file)

    def _place(self, key: str) -> tuple[Shard, Sample]:
        try:
            return self._places[key]
        except KeyError:
            raise DataError(f"{self.folder}: there is no study with the key {key}") from None

    def _file(self, name: str) -> int:
        file = self._files.get(name)
        if file is None:
            file = self._files[name] = os.open(self.folder / name, os.O_RDONLY)
        return file


def open_shards(path: Path | str) -> ShardReader:
    """A reader of the shards in a folder, after checking that every tar is there in its full length.

    Raises:
        DataError: if the folder has no manifest or a tar is missing or of another size.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    for shard in manifest.shards:
        file = folder / shard.name
        size = file.stat().st_size if file.is_file() else None
        if size != shard.bytes:
            found = "missing" if size is None else f"{size} bytes instead of {shard.bytes}"
            raise DataError(f"{file}: {found}; copy the shards again or run vlp ingest")
    return ShardReader(folder, manifest)
