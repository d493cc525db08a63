"""A folder of shards behind a URL, of any kind that fsspec knows: s3, gs, abfs, sftp, file, memory and more.

There are no renames there: every closed shard is uploaded and deleted here, and the manifest comes last, so a folder
that has one is complete.
"""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from typing_extensions import override

from vlp.data.manifest import FILE_NAME, QUARANTINE_NAME, Manifest, Shard
from vlp.data.storage import Target, reason_of, refuse_strangers
from vlp.errors import BackendError, DataError, VlpError


class Remote(Target):
    """A folder behind a URL that fsspec understands; nobody but this build may write there meanwhile."""

    def __init__(self, url: str, staging: Path) -> None:
        self.name = url.rstrip("/")
        self.staging = staging
        name = hashlib.sha256(self.name.encode()).hexdigest()[:12]
        self.partial = staging / f"{name}.partial"
        self.journal = staging / f"{name}.journal.jsonl"
        self._made = []
        self._unpublished = False
        self._files, self._path = _file_system(self.name)

    @override
    def names(self) -> list[str]:
        with self._talking():
            if not self._files.isdir(self._path):
                return []
            return sorted(str(path).rstrip("/").rsplit("/", 1)[-1] for path in self._files.ls(self._path, detail=False))

    @override
    def size(self, name: str) -> int | None:
        with self._talking():
            try:
                return int(self._files.info(f"{self._path}/{name}")["size"])
            except FileNotFoundError:
                return None

    @override
    def read(self, name: str) -> bytes:
        with self._talking():
            return bytes(self._files.cat_file(f"{self._path}/{name}"))

    @override
    def refuse_foreign(self) -> None:
        names = self.names()
        refuse_strangers(self.name, names)
        if names and FILE_NAME not in names and not self.journal.exists():
            raise DataError(f"{self.name}: holds files without a {FILE_NAME}; name another output or remove them")

    @override
    def prepare(self) -> None:
        super().prepare()
        with self._talking():
            self._files.makedirs(self._path, exist_ok=True)

    @override
    def keep(self, path: Path) -> None:
        self._unpublish()
        self._upload(path)
        path.unlink()

    @override
    def kept(self, shard: Shard) -> bool:
        return self.size(shard.name) == shard.bytes

    @override
    def adopt(self, shard: Shard, part: Target, name: str) -> None:
        assert isinstance(part, Remote)
        self._unpublish()
        with self._talking():
            self._files.cp_file(f"{part._path}/{shard.name}", f"{self._path}/{name}")

    @override
    def publish(self, manifest: Manifest) -> None:
        known = {shard.name for shard in manifest.shards}
        with self._talking():
            for name in set(self.names()) - known:  # of an older, larger build
                self._files.rm_file(f"{self._path}/{name}")
        for name in (QUARANTINE_NAME, FILE_NAME):
            if (self.partial / name).exists():
                self._upload(self.partial / name)
        shutil.rmtree(self.partial, ignore_errors=True)

    @override
    def part(self, name: str) -> "Remote":
        return Remote(f"{self.name}.parts/{name}", self.staging)

    @override
    def delete(self) -> None:
        with self._talking():
            for name in self.names():
                self._files.rm_file(f"{self._path}/{name}")
            with suppress(OSError):
                self._files.rmdir(self._path)
            with suppress(OSError):
                self._files.rmdir(self._path.rsplit("/", 1)[0])

    def _unpublish(self) -> None:
        """What is there is no longer what the manifest says."""
        if not self._unpublished:
            with self._talking(), suppress(FileNotFoundError):
                self._files.rm_file(f"{self._path}/{FILE_NAME}")
            self._unpublished = True

    def _upload(self, path: Path) -> None:
        with self._talking():
            self._files.put_file(str(path), f"{self._path}/{path.name}")
            self._files.invalidate_cache(self._path)
        there, here = self.size(path.name), path.stat().st_size
        if there != here:
            raise DataError(f"{self.name}: {path.name} arrived with {there} bytes instead of {here}; run it again")

    @contextmanager
    def _talking(self) -> Iterator[None]:
        try:
            yield
        except VlpError:
            raise
        except Exception as error:  # every protocol's library has errors of its own
            raise DataError(f"{self.name}: {reason_of(error)}") from None


def _file_system(url: str) -> tuple[Any, str]:
    try:
        from fsspec.core import url_to_fs  # type: ignore[import-untyped]

        files, path = url_to_fs(url)
    except ImportError as error:
        hint = "pip install 'vlp[remote]', and the library of the protocol (for s3: s3fs)"
        raise BackendError(f"{url}: {reason_of(error)}; {hint}") from None
    except ValueError as error:
        raise DataError(f"{url}: {reason_of(error)}") from None
    return files, str(path).rstrip("/")
