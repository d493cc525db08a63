"""One run folder, one run: a job that was started twice must not write over itself."""

import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from vlp import log
from vlp.data.locks import take_lock
from vlp.errors import DataError

LOCK_NAME = ".lock"
_ASK_EVERY_S = 0.25

_logger = log.get_logger(__name__)

_held: set[int] = set()
"""Open lock files of this process."""


def _leave_to_parent() -> None:
    # A lock lasts as long as any copy of its descriptor is open: a loader's worker that outlives a killed run for
    # some seconds would keep the run from being continued.
    for handle in _held:
        os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_leave_to_parent)


class RunLock:
    """Holds a run folder for this process alone, for as long as the block lasts or the process lives.

    The file RUN/.lock says who holds it, and stays: deleting it would let two processes hold two files of one name.
    Where the file system has no locks, a warning is all there is.

    Args:
        folder: The run folder; made if it is not there.
        patience_s: Seconds to wait for a holder of the same Slurm job: a job that is requeued may start before the
            last process of its earlier start is gone.
    """

    def __init__(self, folder: Path, *, patience_s: float = 60.0) -> None:
        self._folder = folder
        self._patience_s = patience_s
        self._handle: int | None = None

    def __enter__(self) -> "RunLock":
        """Takes the lock.

        Raises:
            DataError: if another process holds it, named by host, process and job, or the folder cannot be written.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(self._folder / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise DataError(f"{self._folder}: the run cannot be written there: {error.strerror}") from None
        _held.add(handle)
        self._handle = handle
        try:
            self._take(handle)
        except BaseException:
            self._close()
            raise
        with suppress(OSError):  # a full disk; the lock holds without its note
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps(_myself()).encode(), 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Lets go of it."""
        if self._handle in _held:
            with suppress(OSError):
                os.ftruncate(self._handle, 0)
        self._close()

    def _take(self, handle: int) -> None:
        until = time.monotonic() + self._patience_s
        while True:
            try:
                if not take_lock(handle):
                    _logger.warning(
                        "%s: this file system knows no locks; see to it that only one run writes there", self._folder
                    )
                return
            except BlockingIOError:
                holder = _holder(handle)
                if not _of_this_job(holder) or time.monotonic() >= until:
                    raise DataError(
                        f"{self._folder}: another process is training there ({_described(holder)}); wait for it or "
                        "name another output"
                    ) from None
            except OSError as error:
                raise DataError(f"{self._folder}: the run cannot be locked: {error.strerror}") from None
            time.sleep(_ASK_EVERY_S)

    def _close(self) -> None:
        if self._handle in _held:
            _held.remove(self._handle)
            os.close(self._handle)
        self._handle = None


def _myself() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "job": os.environ.get("SLURM_JOB_ID"),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _holder(handle: int) -> dict[str, Any]:
    """What the holder wrote; {} while it has written nothing."""
    try:
        note = json.loads(os.pread(handle, 4096, 0))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def _of_this_job(holder: dict[str, Any]) -> bool:
    return holder.get("job") is not None and holder["job"] == os.environ.get("SLURM_JOB_ID")


def _described(holder: dict[str, Any]) -> str:
    names = {"host": "host", "pid": "process", "job": "Slurm job", "since": "since"}
    return ", ".join(f"{name} {holder[key]}" for key, name in names.items() if holder.get(key)) or "it left no name"
