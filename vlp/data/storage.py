"""Where a folder of shards is made and where it ends up: a folder here, or one behind a URL.

Shards always grow in a local folder.  Here, that folder takes the target's place by one rename when all is done; for
a folder behind a URL see `vlp.data.remote`.
"""

import os
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from typing_extensions import override

from vlp.data.manifest import (
    FILE_NAME,
    QUARANTINE_NAME,
    SHARD_NAME,
    Manifest,
    Shard,
    is_shard_folder,
    parse_manifest,
)
from vlp.errors import DataError

URL = r"[A-Za-z][A-Za-z0-9+.-]+://.+"
"""What an output behind a URL looks like, e.g. s3://bucket/shards; a Windows drive is none."""
_OURS = re.compile(rf"{re.escape(FILE_NAME)}|{re.escape(QUARANTINE_NAME)}|{SHARD_NAME}")
"""Files that may be replaced."""


class Target(ABC):
    """A folder of shards to be.  Everything that fails because of its surroundings raises a `DataError`."""

    name: str
    """As the person gave it."""
    partial: Path
    """The local folder shards grow in."""
    journal: Path
    """Beside it, what is done; see `vlp.data.journal`."""

    @abstractmethod
    def names(self) -> list[str]:
        """Names of what is in the target; [] where there is none."""

    @abstractmethod
    def size(self, name: str) -> int | None:
        """Bytes of one file of the target, None where it is missing."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Content of one file of the target; only for small ones."""

    @abstractmethod
    def refuse_foreign(self) -> None:
        """Raises a `DataError` if the target holds anything but shards, which alone may be replaced."""

    @abstractmethod
    def keep(self, path: Path) -> None:
        """Takes over a file of `partial` that is complete."""

    @abstractmethod
    def kept(self, shard: Shard) -> bool:
        """Whether `keep` took over this shard, whole."""

    @abstractmethod
    def adopt(self, shard: Shard, part: "Target", name: str) -> None:
        """Takes over a finished shard of a part under another name; the part keeps it."""

    @abstractmethod
    def publish(self, manifest: Manifest) -> None:
        """Makes everything taken over, and the manifest and quarantine in `partial`, the target's whole content."""

    @abstractmethod
    def part(self, name: str) -> "Target":
        """Where a part of the archive goes before it is merged into this target."""

    @abstractmethod
    def delete(self) -> None:
        """Deletes the target."""

    def settle(self) -> None:
        """Puts in order what a kill in the middle of `publish` left."""
        return

    def prepare(self) -> None:
        """Makes the folders that are written to."""
        with self.writing():
            self._made = self._made or [parent for parent in self.partial.parents if not parent.exists()]
            self.partial.parent.mkdir(parents=True, exist_ok=True)

    def discard(self) -> None:
        """Deletes what is half made."""
        shutil.rmtree(self.partial, ignore_errors=True)

    def retreat(self) -> None:
        """Deletes the folders above that `prepare` made, if nothing else is in them."""
        with suppress(OSError):
            for parent in self._made:
                parent.rmdir()

    _made: list[Path]
    """Folders above `partial` that were not there before, the innermost first."""

    def manifest(self) -> Manifest | None:
        """The target's manifest, None where it has none.

        Raises:
            DataError: if it cannot be read.
        """
        if FILE_NAME not in self.names():
            return None
        return parse_manifest(self.read(FILE_NAME), where=f"{self.name}/{FILE_NAME}")

    def finished(self) -> Manifest | None:
        """The target's manifest if it and every shard are there in full length, else None."""
        try:
            manifest = self.manifest()
        except DataError:
            return None  # damaged
        if manifest is None or any(self.size(shard.name) != shard.bytes for shard in manifest.shards):
            return None
        return manifest

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turns what the system says into one plain line."""
        try:
            yield
        except OSError as error:
            raise DataError(f"{self.name}: cannot write shards: {error.strerror or reason_of(error)}") from None


class Folder(Target):
    """A folder of this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = str(folder)
        self.partial = folder.parent / f".{folder.name}.partial"
        self.journal = folder.parent / f".{folder.name}.journal.jsonl"
        self._old = folder.parent / f".{folder.name}.old"
        self._made = []

    @override
    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir()) if self.folder.is_dir() else []

    @override
    def size(self, name: str) -> int | None:
        path = self.folder / name
        return path.stat().st_size if path.is_file() else None

    @override
    def read(self, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except OSError as error:
            raise DataError(f"{self.folder / name}: cannot be read: {error.strerror}") from None

    @override
    def refuse_foreign(self) -> None:
        if self.folder.is_dir() and (is_shard_folder(self.folder) or not any(self.folder.iterdir())):
            refuse_strangers(self.name, self.names())
        elif self.folder.exists():
            raise DataError(f"{self.folder}: exists and is no folder of shards; name another output or remove it")

    @override
    def keep(self, path: Path) -> None:
        return  # it is where it belongs

    @override
    def kept(self, shard: Shard) -> bool:
        path = self.partial / shard.name
        return path.is_file() and path.stat().st_size == shard.bytes

    @override
    def adopt(self, shard: Shard, part: Target, name: str) -> None:
        assert isinstance(part, Folder)
        source, copy = part.folder / shard.name, self.partial / name
        try:
            os.link(source, copy)
        except OSError:  # another file system, or one without links
            shutil.copyfile(source, copy)
            sync(copy)

    @override
    def publish(self, manifest: Manifest) -> None:
        sync(self.partial)
        if not self.folder.exists():
            os.rename(self.partial, self.folder)
        else:
            os.rename(self.folder, self._old)
            try:
                os.rename(self.partial, self.folder)
            except OSError:
                os.rename(self._old, self.folder)
                raise
        sync(self.folder.parent)
        shutil.rmtree(self._old, ignore_errors=True)

    @override
    def settle(self) -> None:
        if self._old.exists():
            if self.folder.exists():
                shutil.rmtree(self._old, ignore_errors=True)
            else:
                os.rename(self._old, self.folder)

    @override
    def part(self, name: str) -> "Folder":
        return Folder(self.folder.parent / f"{self.folder.name}.parts" / name)

    @override
    def delete(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.folder.parent.suffix == ".parts":
            with suppress(OSError):
                self.folder.parent.rmdir()


def target_of(output: Path | str, *, staging: Path) -> Target:
    """The target a person means; `staging` is where shards lie until they are uploaded.

    Raises:
        BackendError: for a URL whose library is not installed.
    """
    if isinstance(output, str) and re.fullmatch(URL, output):
        from vlp.data.remote import Remote

        return Remote(output, staging)
    return Folder(Path(output))


def sync(path: Path) -> None:
    """Has a file, or the names in a folder, on the disk when it returns."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def refuse_strangers(name: str, names: list[str]) -> None:
    """Raises a `DataError` if one of the `names` of files in a target is none that a writer of shards makes."""
    strangers = [found for found in names if not _OURS.fullmatch(found)]
    if strangers:
        raise DataError(f"{name}: holds {strangers[0]} beside its shards and would lose it; move it away first")


def reason_of(error: Exception) -> str:
    """The first line of what an error says of itself."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
