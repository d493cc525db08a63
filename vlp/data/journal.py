"""What of a build is done, on the disk before anything relies on it: one JSON line per closed shard.

The journal lies beside the folder in which shards grow.  A shard counts as made once its line is there, whole; a line
that a crash cut off is dropped.  Whoever holds the journal open holds its lock, so no folder has two writers.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal

from pydantic import Field, ValidationError

from vlp import log
from vlp.config import Config
from vlp.data.counts import Counts
from vlp.data.locks import take_lock
from vlp.data.manifest import Shard
from vlp.errors import DataError

_MAX_SHOWN = 3
_logger = log.get_logger(__name__)


class Refused(Config):
    """One study that was not taken: a line of `quarantine.jsonl`."""

    unit: str
    """Hash of the archive's unit it belongs to, e.g. a person; the same for all of that unit."""
    code: str
    message: str


class Entry(Config):
    """One closed shard, and what became of the archive's units since the one before."""

    shard: Shard
    counts: Counts
    units: tuple[str, ...] = ()
    """One text per finished unit, in order; one letter per study: its split (t, v, e) or x for one not taken."""
    refused: tuple[Refused, ...] = ()
    """Studies of these units that could not be used."""
    left_out: dict[str, int] = Field(default_factory=dict)
    """Studies of these units that a rule leaves out, by rule."""
    privacy: dict[str, int] = Field(default_factory=dict)
    """What a look for identifying text found in these units."""


class _Header(Config):
    format: Literal["vlp-journal"] = "vlp-journal"
    version: Literal[1] = 1
    identity: dict[str, Any]


class Journal:
    """The journal at `path`, made if it is not there, locked until it is closed.

    Use as a context manager.  A fresh one has no `identity`: give it one with `start`.

    Raises:
        DataError: if another process holds it, or it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.identity: Mapping[str, Any] | None = None
        """What is being built, as `start` was told."""
        self.entries: list[Entry] = []
        self._ends: list[int] = []
        """Length of the file after the header and after each entry."""
        self.removed = False
        """Whether the file is gone, and with it the lock."""
        self._file = _locked(path)
        self._read()

    def start(self, identity: Mapping[str, Any]) -> None:
        """Forgets everything and begins a build of `identity` (plain JSON values)."""
        self.entries, self._ends = [], []
        self.identity = identity
        self._file.truncate(0)
        self._append(_Header(identity=dict(identity)))

    def append(self, entry: Entry) -> None:
        """Adds one shard; on the disk when this returns."""
        self._append(entry)
        self.entries.append(entry)

    def cut(self, count: int) -> None:
        """Forgets all entries but the first `count`."""
        if count < len(self.entries):
            self.entries, self._ends = self.entries[:count], self._ends[: count + 1]
            self._file.truncate(self._ends[-1])
            os.fsync(self._file.fileno())

    def remove(self) -> None:
        """Deletes the file: the build is complete, or given up."""
        if not self.removed:  # a second time it would be somebody else's
            self.path.unlink(missing_ok=True)
            self.removed = True
        self.identity, self.entries, self._ends = None, [], []

    def close(self) -> None:
        """Lets others in."""
        self._file.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append(self, line: Config) -> None:
        end = self._ends[-1] if self._ends else 0
        content = memoryview(line.model_dump_json(exclude_defaults=isinstance(line, Entry)).encode() + b"\n")
        written = 0
        try:
            while written < len(content):
                written += os.pwrite(self._file.fileno(), content[written:], end + written)
            os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(end)
            raise
        self._ends.append(end + written)

    def _read(self) -> None:
        """Takes over what is whole; the first line that is not ends it, and the next one written replaces it."""
        with os.fdopen(os.dup(self._file.fileno()), "rb") as lines:
            for line in lines:
                try:
                    if not line.endswith(b"\n"):
                        break
                    if self.identity is None:
                        self.identity = _Header.model_validate_json(line).identity
                    else:
                        self.entries.append(Entry.model_validate_json(line))
                except ValidationError:
                    break
                self._ends.append((self._ends[-1] if self._ends else 0) + len(line))
        self._file.truncate(self._ends[-1] if self._ends else 0)


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two identities, in words, e.g. "recipe.max_side_px: 320 there, null now"."""
    old, new = _flat(before), _flat(now)
    return [
        f"{key}: {_shown(old.get(key))} there, {_shown(new.get(key))} now"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    ]


def refuse_other(journal: Journal, identity: Mapping[str, Any], *, name: str) -> None:
    """Raises a `DataError` that says what differs if the journal is about another build than `identity`."""
    assert journal.identity is not None
    found = differences(journal.identity, json.loads(json.dumps(identity)))
    if found:
        more = f"; and {len(found) - _MAX_SHOWN} more" if len(found) > _MAX_SHOWN else ""
        raise DataError(
            f"{name}: a build of something else was broken off there ({'; '.join(found[:_MAX_SHOWN])}{more}); "
            "finish that one first, or give it up with --again"
        )


def _locked(path: Path) -> IO[bytes]:
    """The file, open for reading and writing, its lock held."""
    while True:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)
        try:
            if not take_lock(file):
                _logger.warning("%s: this file system knows no locks; see to it that only one build runs", path.parent)
        except BlockingIOError:
            file.close()
            raise DataError(f"{path.parent}: another process is writing these shards; wait for it") from None
        except OSError:
            file.close()
            raise
        try:
            if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                return file
        except FileNotFoundError:
            pass
        file.close()  # whoever held it has just finished and deleted it


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    items: Sequence[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        items = tuple(value.items())
    elif isinstance(value, list | tuple):
        items = tuple(enumerate(value))
    if not items:
        return {prefix: value}
    return {key: leaf for name, part in items for key, leaf in _flat(part, f"{prefix}.{name}".lstrip(".")).items()}


def _shown(value: Any) -> str:
    return f"{json.dumps(value, default=str):.60}"
