"""A folder of shards behind a URL, of any kind that fsspec knows: s3, gs, abfs, sftp, file, memory and more.

Written (`Remote`): there are no renames there, so every closed shard is uploaded and deleted here, and the manifest
comes last; a folder that has one is complete.  Read (`RemoteFiles`): in ranges, through a cache on the local disk.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from typing_extensions import override

from vlp.data.files import USUAL, BlockCache, RemoteConfig, ShardFiles, retried
from vlp.data.manifest import FILE_NAME, QUARANTINE_NAME, Manifest, Shard
from vlp.data.storage import Target, reason_of, refuse_strangers
from vlp.errors import BackendError, DataError, VlpError

BLOCK_BYTES = 4 << 20
"""What is fetched and cached at a time: long enough that the way there and back does not count."""
_Result = TypeVar("_Result")


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
        self._files, self._path = file_system(self.name)

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


class RemoteFiles(ShardFiles):
    """Files of a folder behind a URL of any kind that fsspec knows, read in ranges.

    Args:
        url: the folder.
        version: tells its content from an earlier one under the same URL.  "": nothing is cached.
        config: the cache, and how patient to be.
        block_bytes: what is fetched and cached at a time.

    Raises:
        BackendError: if fsspec, or the library of the protocol, is not installed.
        DataError: if nobody knows the protocol.
    """

    def __init__(
        self,
        url: str,
        *,
        version: str = "",
        config: RemoteConfig = USUAL,
        block_bytes: int = BLOCK_BYTES,
    ) -> None:
        self.url = url.rstrip("/")
        self._settings = {"version": version, "config": config, "block_bytes": block_bytes}
        self._config = config
        self._block_bytes = block_bytes
        self._cache = None
        if version and config.cache_bytes >= block_bytes:
            self._cache = BlockCache(config.cache_folder or _users_cache(), limit_bytes=config.cache_bytes)
        self._prefix = hashlib.sha256(f"{self.url}\n{version}\n{block_bytes}".encode()).hexdigest()[:16]
        self._sizes: dict[str, int] | None = None
        self._system: Any = None
        self._path = ""
        self._owner = 0
        self._connect()

    @override
    def where(self, name: str) -> str:
        return f"{self.url}/{name}"

    @override
    def size(self, name: str) -> int | None:
        if self._sizes is None:
            self._sizes = self._retried(self._listed, what=self.url)
        return self._sizes.get(name)

    @override
    def read(self, name: str, offset: int, size: int) -> bytes:
        length = self.size(name)
        if length is None:
            raise DataError(f"{self.where(name)}: missing")
        if not 0 <= offset <= length - size:
            raise DataError(f"{self.where(name)}: truncated; copy the shards there again")
        if self._cache is None:
            return self._fetch(name, offset, offset + size)
        first, last = offset // self._block_bytes, (offset + max(size, 1) - 1) // self._block_bytes
        return b"".join(
            self._part(self._cache, name, number, offset, offset + size, length) for number in range(first, last + 1)
        )

    @override
    def close(self) -> None:
        self._system = None

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "settings": self._settings, "sizes": self._sizes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        RemoteFiles.__init__(self, state["url"], **state["settings"])
        self._sizes = state["sizes"]

    def _part(self, cache: BlockCache, name: str, number: int, begin: int, end: int, length: int) -> bytes:
        """What block `number` of a file holds of the bytes from `begin` to `end`."""
        first = number * self._block_bytes
        last = min(first + self._block_bytes, length)
        return cache.read(
            f"{self._prefix}-{name}-{number}",
            begin=max(begin, first) - first,
            end=min(end, last) - first,
            size=last - first,
            fetch=partial(self._fetch, name, first, last),
        )

    def _fetch(self, name: str, begin: int, end: int) -> bytes:
        def attempt() -> bytes:
            content = bytes(self._connect().cat_file(f"{self._path}/{name}", start=begin, end=end))
            if len(content) != end - begin:
                raise OSError(f"{len(content)} bytes came instead of {end - begin}")
            return content

        return self._retried(attempt, what=self.where(name))

    def _listed(self) -> dict[str, int]:
        system = self._connect()
        system.invalidate_cache(self._path)
        if not system.isdir(self._path):
            return {}
        entries = system.ls(self._path, detail=True)
        return {str(entry["name"]).rsplit("/", 1)[-1]: int(entry["size"] or 0) for entry in entries}

    def _connect(self) -> Any:
        """The file system; made anew in a forked process, where the threads of its library are gone."""
        if self._system is None or self._owner != os.getpid():
            self._system, self._path = file_system(self.url)
            self._owner = os.getpid()
        return self._system

    def _retried(self, attempt: Callable[[], _Result], *, what: str) -> _Result:
        return retried(attempt, what=what, config=self._config)


def file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL and the path in it.

    Raises:
        BackendError: if fsspec, or the library of the protocol, is not installed.
        DataError: if nobody knows the protocol.
    """
    try:
        from fsspec.core import url_to_fs

        files, path = url_to_fs(url)
    except ImportError as error:
        hint = "pip install 'vlp[remote]', and the library of the protocol (for s3: s3fs)"
        raise BackendError(f"{url}: {reason_of(error)}; {hint}") from None
    except ValueError as error:
        raise DataError(f"{url}: {reason_of(error)}") from None
    return files, str(path).rstrip("/")


def _users_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vlp" / "shards"
