"""Random access to the studies of a folder of shards, by offset, without scanning or unpacking tars."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vlp.data import hostile
from vlp.data.encoded import BadImageError, decode
from vlp.data.faults import shown
from vlp.data.manifest import Manifest, Sample, Shard
from vlp.data.schema import SampleJson, member_name
from vlp.data.ustar import BLOCK
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
            DataError: if the bytes in the shard are no whole image, or one of more pixels than a radiograph has.
        """
        try:
            return decode(self.encoded(key, index), image_format=self.manifest.image_format)
        except BadImageError as error:
            shard, _ = self._place(key)
            where = f"{self.folder / shard.name}: image {index} of study {key}"
            raise DataError(f"{where} cannot be decoded: {error}") from None

    def member(self, key: str, suffix: str) -> bytes:
        """File bytes of the tar member `<key>.<suffix>`.

        Raises:
            DataError: if there is no such member, or the tar ends before it does.
        """
        shard, sample = self._place(key)
        if suffix not in sample.members:
            raise DataError(f"{self.folder / shard.name}: study {key} has no {suffix}")
        offset, size = sample.members[suffix]
        where = f"{self.folder / shard.name}: study {key}"
        if not BLOCK <= offset <= shard.bytes - size:
            raise DataError(f"{where}: the manifest places {shown(suffix)} before its beginning or behind its end")
        if size > hostile.max_bytes(suffix):
            raise DataError(f"{where}: {shown(suffix)} is too large to be what it says ({size} bytes)")
        try:
            # With the header before it, so that nothing but this very file is ever taken for it.
            content = os.pread(self._file(shard.name), BLOCK + size, offset - BLOCK)
        except OSError as error:
            raise DataError(f"{self.folder / shard.name}: cannot be read: {error.strerror}") from None
        if len(content) != BLOCK + size:
            raise DataError(f"{self.folder / shard.name}: truncated; run vlp shards check {self.folder}")
        hostile.refuse_other(content[:BLOCK], sample, suffix, where=where)
        return content[BLOCK:]

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

    A folder with anything in it that a writer of shards does not make is refused (see `hostile`): the tars may have
    come from somewhere.

    Raises:
        DataError: if the folder has no manifest, a tar is missing or of another size, or the manifest or a tar holds
            what no shard does.
    """
    folder = Path(path)
    manifest = hostile.trusted_manifest(folder)
    for shard in manifest.shards:
        file = folder / shard.name
        size = file.stat().st_size if file.is_file() else None
        if size != shard.bytes:
            found = "missing" if size is None else f"{size} bytes instead of {shard.bytes}"
            raise DataError(f"{file}: {found}; copy the shards again or run vlp ingest")
    hostile.refuse_hostile(folder, manifest)
    return ShardReader(folder, manifest)
