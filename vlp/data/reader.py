"""Random access to the studies of a folder of shards, by offset, without scanning or unpacking tars.

The folder may be one of this machine or one behind a URL.
"""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8

from vlp.data import hostile
from vlp.data.encoded import BadImageError, decode
from vlp.data.faults import shown
from vlp.data.files import USUAL, LocalFiles, RemoteConfig, ShardFiles
from vlp.data.manifest import FILE_NAME, Manifest, Sample, Shard, parse_manifest
from vlp.data.remote import RemoteFiles
from vlp.data.schema import SampleJson, member_name
from vlp.data.storage import URL
from vlp.data.ustar import BLOCK
from vlp.errors import DataError
from vlp.records import Split, Study


class ShardReader:
    """Reads studies in the manifest's order.  Travels to worker processes, which open the tars for themselves.

    Args:
        folder: where the shards are; of a URL, what messages call it.
        manifest: what they hold.
        files: how they are read; by default, as files of `folder`.
    """

    def __init__(self, folder: Path, manifest: Manifest, *, files: ShardFiles | None = None) -> None:
        self.folder = folder
        self.manifest = manifest
        self._places: dict[str, tuple[Shard, Sample]] = {
            sample.key: (shard, sample) for shard in manifest.shards for sample in shard.samples
        }
        self._files: ShardFiles = files or LocalFiles(folder)

    @property
    def name(self) -> str:
        """What the archive is called: the last part of its folder's path."""
        return self.folder.resolve().name

    def digest(self) -> str:
        """SHA-256 of the manifest's file, which in turn names the SHA-256 of every shard."""
        return hashlib.sha256(self._files.whole(FILE_NAME)).hexdigest()

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

    def shard_of(self, key: str) -> Shard:
        """The shard that the study lies in.

        Raises:
            DataError: if there is no such study.
        """
        return self._place(key)[0]

    def image_format(self, key: str) -> Literal["jpg", "png"]:
        """What the study's images are files of."""
        return self.manifest.image_format

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
            raise DataError(f"{self._where(shard)}: study {key}: its text is not UTF-8") from None

    def num_images(self, key: str) -> int:
        """How many images the study has."""
        return len(self.sample(key).views)

    def encoded(self, key: str, index: int = 0) -> bytes:
        """File bytes of the study's image number `index`; 0 is the first frontal one."""
        return self.member(key, member_name(index, self.manifest.image_format))

    def image(
        self, key: str, index: int = 0, *, at_least: tuple[int, int] | None = None
    ) -> UInt8[np.ndarray, "rows columns"]:
        """Pixels of the study's image number `index`; 0 is the first frontal one.

        Args:
            key: the study.
            index: which of its images.
            at_least: (rows, columns) that will do; see `decode`.

        Raises:
            DataError: if the bytes in the shard are no whole image, or one of more pixels than a radiograph has.
        """
        try:
            return decode(self.encoded(key, index), image_format=self.manifest.image_format, at_least=at_least)
        except BadImageError as error:
            where = f"{self._where(self._place(key)[0])}: image {index} of study {key}"
            raise DataError(f"{where} cannot be decoded: {error}") from None

    def member(self, key: str, suffix: str) -> bytes:
        """File bytes of the tar member `<key>.<suffix>`.

        Raises:
            DataError: if there is no such member, or the tar is gone or ends before it does.
        """
        shard, sample = self._place(key)
        where = f"{self._where(shard)}: study {key}"
        if suffix not in sample.members:
            raise DataError(f"{where} has no {suffix}")
        offset, size = sample.members[suffix]
        if not BLOCK <= offset <= shard.bytes - size:
            raise DataError(f"{where}: the manifest places {shown(suffix)} before its beginning or behind its end")
        if size > hostile.max_bytes(suffix):
            raise DataError(f"{where}: {shown(suffix)} is too large to be what it says ({size} bytes)")
        # With the header before it, so that nothing but this very file is ever taken for it.
        header, content = self._files.pieces(shard.name, offset - BLOCK, BLOCK, size)
        hostile.refuse_other(header, sample, suffix, where=where)
        return content

    def close(self) -> None:
        """Closes the tars; they are opened again when needed."""
        self._files.close()

    def __len__(self) -> int:
        return len(self._places)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "manifest": self.manifest, "files": self._files}

    def __setstate__(self, state: dict[str, Any]) -> None:
        ShardReader.__init__(self, state["folder"], state["manifest"], files=state["files"])

    def _place(self, key: str) -> tuple[Shard, Sample]:
        try:
            return self._places[key]
        except KeyError:
            raise DataError(f"{self.folder}: there is no study with the key {key}") from None

    def _where(self, shard: Shard) -> str:
        return self._files.where(shard.name)


def open_shards(path: Path | str, *, remote: RemoteConfig = USUAL) -> ShardReader:
    """A reader of the shards in a folder, after checking that every tar is there in its full length.

    A folder with anything in it that a writer of shards does not make is refused (see `hostile`): the tars may have
    come from somewhere.  Of a folder behind a URL, the manifest is judged here and every member when it is read.

    Args:
        path: a folder, or the URL of one, e.g. s3://bucket/shards.
        remote: how a URL is read, and what is kept of it here.

    Raises:
        DataError: if the folder has no manifest, a tar is missing or of another size, or the manifest or a tar holds
            what no shard does.
        BackendError: if the library for the URL's protocol is not installed.
    """
    url = _url(path)
    if url is not None:
        return _open_remote(url, remote)
    folder = Path(path)
    manifest = hostile.trusted_manifest(folder)
    files = LocalFiles(folder, config=remote)
    _refuse_incomplete(manifest, files)
    hostile.refuse_hostile(folder, manifest)
    return ShardReader(folder, manifest, files=files)


def _open_remote(url: str, config: RemoteConfig) -> ShardReader:
    files = RemoteFiles(url, config=config)
    where, size = files.where(FILE_NAME), files.size(FILE_NAME)
    if size is None:
        raise DataError(f"{url}: not a folder of shards: there is no {FILE_NAME}; run vlp ingest first")
    if size > hostile.MAX_MANIFEST_BYTES:
        raise DataError(f"{where}: {size} bytes; no manifest is larger than {hostile.MAX_MANIFEST_BYTES >> 30} GiB")
    content = files.whole(FILE_NAME)
    try:
        manifest = parse_manifest(content, where=where)
    except DataError as error:
        # The fault may quote the names of keys, which whoever made the file chose.
        raise DataError(str(error).encode("unicode_escape").decode("ascii")) from None
    files = RemoteFiles(url, version=hashlib.sha256(content).hexdigest(), config=config)
    for fault in hostile.manifest_faults(manifest):
        study = f"study {fault.key}: " if fault.key else ""
        raise DataError(f"{files.where(fault.shard)}: {study}{fault.message}")
    _refuse_incomplete(manifest, files)
    return ShardReader(Path(url), manifest, files=files)


def _refuse_incomplete(manifest: Manifest, files: ShardFiles) -> None:
    for shard in manifest.shards:
        size = files.size(shard.name)
        if size != shard.bytes:
            found = "missing" if size is None else f"{size} bytes instead of {shard.bytes}"
            raise DataError(f"{files.where(shard.name)}: {found}; copy the shards again or run vlp ingest")


def _url(path: Path | str) -> str | None:
    """The URL that is meant, also where one became a `Path` on its way, which makes s3:/bucket of s3://bucket."""
    if isinstance(path, str):
        return path if re.fullmatch(URL, path) else None
    protocol, colon, rest = str(path).partition(":/")
    if not colon or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]+", protocol) or path.exists():
        return None
    return f"{protocol}:///{rest}" if protocol in ("file", "local") else f"{protocol}://{rest}"
