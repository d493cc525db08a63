"""Bytes of shards by place, what is done when they do not come, and a cache for those from afar (`vlp.data.remote`).

Local files are read, not mapped: for an image of 120 kB two reads take 5 us where a copy out of a map takes 4, and a
file that is cut short under a map kills the process by a signal instead of raising anything.
"""

import errno
import fcntl
import os
import random
import resource
import threading
import time
import zlib
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from typing_extensions import override

from vlp import log
from vlp.config import Config
from vlp.data.storage import reason_of
from vlp.errors import DataError, VlpError

_FIRST_WAIT_S = 0.5
"""Before the second attempt; twice that before the third, and so on, each up to a half more or less."""
_MOST_OPEN = 512
"""Files held open of one folder, where the system allows a process at least eight times as many."""
_PASSING = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR, errno.ENETDOWN})
"""What network file systems say while a server is away."""
_LOCKS = 64
_HEADROOM = 16
"""When a cache is full, one part in so many is freed at once, so that it is not looked through for every block."""
_STALE_S = 3600.0
"""Age at which a half-written block is what a killed process left."""
_Result = TypeVar("_Result")
_logger = log.get_logger(__name__)


class RemoteConfig(Config):
    """How shards behind a URL are read, and how patiently; the latter holds for network file systems, too."""

    cache_folder: Path | None = None
    """Where what was read is kept, readable by its owner alone; it is as sensitive as the shards are.  null:
    vlp/shards in the user's cache folder.  Processes, runs and URLs may share one."""
    cache_bytes: NonNegativeInt = 16 << 30
    """Largest size of that folder: what was used longest ago makes room.  0: nothing is kept."""
    attempts: PositiveInt = 5
    """To read something before the run ends, with growing waits between them."""
    give_up_after_s: PositiveFloat = 120.0
    """No further attempt is begun after so many seconds."""


USUAL = RemoteConfig()
"""How shards are read where nothing else is asked for."""


class ShardFiles(ABC):
    """The files of one folder of shards.  Travels to worker processes, which open them for themselves."""

    @abstractmethod
    def where(self, name: str) -> str:
        """What a person would call the file."""

    @abstractmethod
    def size(self, name: str) -> int | None:
        """Bytes of the file, None where it is missing.

        Raises:
            DataError: if that cannot be found out.
        """

    @abstractmethod
    def read(self, name: str, offset: int, size: int) -> bytes | memoryview:
        """`size` bytes of the file from `offset` on, all of them.

        Raises:
            DataError: if the file is missing, ends before that, or stays unreadable.
        """

    @abstractmethod
    def close(self) -> None:
        """Lets go of what is open; it is opened again when needed."""

    def pieces(self, name: str, offset: int, *sizes: int) -> list[bytes]:
        """Bytes that follow each other, in pieces of these sizes; raises what `read` does."""
        content, begin, found = memoryview(self.read(name, offset, sum(sizes))), 0, []
        for size in sizes:
            found.append(bytes(content[begin : begin + size]))
            begin += size
        return found

    def whole(self, name: str) -> bytes:
        """The whole file; only for small ones.

        Raises:
            DataError: as `read` does.
        """
        size = self.size(name)
        if size is None:
            raise DataError(f"{self.where(name)}: missing")
        return bytes(self.read(name, 0, size))


class LocalFiles(ShardFiles):
    """Files of a folder of this machine, or of a network file system."""

    def __init__(self, folder: Path, *, config: RemoteConfig = USUAL) -> None:
        self.folder = folder
        self._prefix = str(folder / "_").removesuffix("_")  # once: making a path takes longer than reading
        self._config = config
        allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most_open = _MOST_OPEN if allowed == resource.RLIM_INFINITY else min(_MOST_OPEN, max(1, allowed // 8))
        self._open: OrderedDict[str, int] = OrderedDict()

    @override
    def where(self, name: str) -> str:
        return f"{self._prefix}{name}"

    @override
    def size(self, name: str) -> int | None:
        path = self.folder / name
        return path.stat().st_size if path.is_file() else None

    @override
    def read(self, name: str, offset: int, size: int) -> bytes:
        content = retried(partial(self._read, name, offset, size), what=self.where(name), config=self._config)
        if len(content) != size:
            raise DataError(f"{self.where(name)}: truncated; run vlp shards check {self.folder}")
        return content

    @override
    def pieces(self, name: str, offset: int, *sizes: int) -> list[bytes]:
        # One read and a copy of the part would touch twice the memory, which takes six times as long.
        found = []
        for size in sizes:
            found.append(self.read(name, offset, size))
            offset += size
        return found

    @override
    def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "config": self._config}

    def __setstate__(self, state: dict[str, Any]) -> None:
        LocalFiles.__init__(self, state["folder"], config=state["config"])

    def __del__(self) -> None:
        if hasattr(self, "_open"):
            self.close()

    def _read(self, name: str, offset: int, size: int) -> bytes:
        try:
            return os.pread(self._file(name), size, offset)
        except OSError as error:
            stale = self._open.pop(name, None)
            if stale is not None:
                with suppress(OSError):
                    os.close(stale)
            if error.errno in _PASSING:
                raise
            raise DataError(f"{self.where(name)}: cannot be read: {error.strerror}") from None

    def _file(self, name: str) -> int:
        file = self._open.get(name)
        if file is None:
            while len(self._open) >= self._most_open:
                os.close(self._open.popitem(last=False)[1])
            file = self._open[name] = os.open(self.where(name), os.O_RDONLY)
        else:
            self._open.move_to_end(name)
        return file


@dataclass(frozen=True, slots=True)
class _Kept:
    """One file of a cache."""

    used: float
    size: int
    path: Path


class BlockCache:
    """Blocks of remote files on the local disk, for any number of processes; the longest unused make room.

    A block is written under another name and renamed, so what has its name is whole.  A cache that cannot be written
    is a warning: reading goes on without it.
    """

    def __init__(self, folder: Path, *, limit_bytes: int) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes
        self._told = False

    def read(self, name: str, *, begin: int, end: int, size: int, fetch: Callable[[], bytes]) -> bytes:
        """Bytes `begin` to `end` of the block `name`, which has `size` bytes and which `fetch` gets.

        Of several processes that want it at once, one fetches it and the others wait.
        """
        found = self._look(name, begin, end, size)
        if found is not None:
            return found
        with self._alone(f".lock-{zlib.crc32(name.encode()) % _LOCKS:02d}"):
            found = self._look(name, begin, end, size)
            if found is None:
                block = fetch()
                self._keep(name, block)
                found = block[begin:end]
        return found

    def _look(self, name: str, begin: int, end: int, size: int) -> bytes | None:
        try:
            file = os.open(self.folder / name, os.O_RDONLY)
        except OSError:
            return None
        try:
            if os.fstat(file).st_size != size:
                return None
            with suppress(OSError):
                os.utime(file)  # used now
            return os.pread(file, end - begin, begin)
        except OSError:
            return None
        finally:
            os.close(file)

    def _keep(self, name: str, block: bytes) -> None:
        if len(block) > self.limit_bytes:
            return
        temporary = self.folder / f".{name}.{os.getpid()}-{threading.get_ident()}.partial"
        try:
            self._reserve(len(block))
            temporary.write_bytes(block)
            os.replace(temporary, self.folder / name)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            if not self._told:
                _logger.warning("%s: nothing can be cached (%s); reading goes on without", self.folder, error.strerror)
                self._told = True

    def _reserve(self, needed: int) -> None:
        """Makes sure that there is room for so many bytes; all processes count together, in the lock's own file."""
        with self._alone(".lock-room") as file:
            counted = os.pread(file, 20, 0) if file is not None else b""
            # Who is killed between here and writing has counted too much; looking through the folder puts it right.
            total = int(counted) if counted.isdigit() else self.limit_bytes
            if total + needed > self.limit_bytes:
                total = self._make_room(needed)
            if file is not None:
                os.pwrite(file, b"%020d" % (total + needed), 0)

    def _make_room(self, needed: int) -> int:
        """Deletes what was used longest ago, where that is necessary; returns the bytes that stay."""
        kept = sorted(self._kept(), key=lambda each: each.used)
        total = sum(each.size for each in kept)
        if total + needed > self.limit_bytes:
            aim = max(0, self.limit_bytes - self.limit_bytes // _HEADROOM - needed)
            for each in kept:
                if total <= aim:
                    break
                each.path.unlink(missing_ok=True)
                total -= each.size
        return total

    def _kept(self) -> Iterator[_Kept]:
        with os.scandir(self.folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # somebody removed it
                    facts = entry.stat(follow_symlinks=False)
                    stale = time.time() - facts.st_mtime > _STALE_S
                    if entry.name.endswith(".partial") and stale:
                        os.unlink(entry.path)
                    elif not entry.name.startswith(".lock"):
                        yield _Kept(used=facts.st_mtime, size=facts.st_size, path=Path(entry.path))

    @contextmanager
    def _alone(self, lock: str) -> Iterator[int | None]:
        """Holds a lock against other threads and processes; yields its file, or None where files cannot be locked."""
        file = None
        try:
            with suppress(OSError):
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                file = os.open(self.folder / lock, os.O_CREAT | os.O_RDWR, 0o600)
                fcntl.flock(file, fcntl.LOCK_EX)
            yield file
        finally:
            if file is not None:
                os.close(file)


def retried(attempt: Callable[[], _Result], *, what: str, config: RemoteConfig) -> _Result:
    """What `attempt` returns, called again with growing waits while it fails.

    Waits differ at random, so that the processes of a job do not all come back at once.

    Raises:
        DataError: naming `what` and the last failure, when attempts or time are spent.
        VlpError: at once, if an attempt raises one.
    """
    began = time.monotonic()
    for number in count(1):
        try:
            return attempt()
        except VlpError:
            raise
        except Exception as error:  # every protocol's library has errors of its own
            wait = _FIRST_WAIT_S * 2 ** (number - 1) * random.SystemRandom().uniform(0.5, 1.5)
            if number >= config.attempts or time.monotonic() - began + wait > config.give_up_after_s:
                raise DataError(
                    f"{what}: cannot be read after {number} attempts ({reason_of(error)}); "
                    "see that it can be reached, then start again"
                ) from None
            _logger.warning("%s: attempt %d failed (%s); again in %.1f s", what, number, reason_of(error), wait)
        time.sleep(wait)
    raise AssertionError("counting never ends")
