"""The one writer of an index: holds its lock, writes down what it begins and what is complete, puts a generation there.

Killed at any moment it leaves the index as it was, or as it was to become.  The next writer removes what was left
half-made and says what was broken off.
"""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal

from pydantic import Field, ValidationError

from vlp.config import Config
from vlp.data.locks import take_lock
from vlp.errors import DataError
from vlp.log import get_logger
from vlp.retrieval.facts import FILE_NAME, IndexFacts, read_facts
from vlp.retrieval.segments import SEGMENTS, synced_entries

JOURNAL = "journal.jsonl"
LOCK = ".lock"
_PARTIAL = ".partial-"

Operation = Literal["build", "add", "update", "remove", "compact", "merge"]

logger = get_logger(__name__)


class Write(Config):
    """One line of the journal.  It never says whose cases were written or removed."""

    generation: int
    what: Operation
    state: Literal["begun", "complete"]
    counts: dict[str, int] = Field(default_factory=dict)
    """Of a complete write: images that came and went."""


class Writer:
    """Holds an index for this process alone, for as long as the block lasts or the process lives."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._handle: int | None = None
        self._facts: IndexFacts | None = None

    @property
    def facts(self) -> IndexFacts:
        """The generation that counts now."""
        assert self._facts is not None, "only inside the block"
        return self._facts

    def __enter__(self) -> "Writer":
        """Takes the lock and removes what an earlier writer left half-made.

        Raises:
            DataError: if another process holds it, there is no index, or it cannot be written.
        """
        read_facts(self.folder)
        try:
            self._handle = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
            _lock(self._handle, self.folder)
            self._facts = read_facts(self.folder)  # somebody may have written since
            self._recover()
        except OSError as error:
            self._close()
            raise DataError(f"{self.folder}: the index cannot be written: {error.strerror}") from None
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def begin(self, what: Operation) -> None:
        """Writes down what is about to be written."""
        append(self.folder, Write(generation=self.facts.generation + 1, what=what, state="begun"))

    def place(self) -> tuple[Path, str]:
        """A folder that is not there yet to make a segment in, and the name it will have: see `keep`."""
        taken = [int(path.name) for path in (self.folder / SEGMENTS).iterdir() if path.name.isdigit()]
        name = f"{max(taken, default=0) + 1:06d}"
        return self.folder / SEGMENTS / f"{_PARTIAL}{name}", name

    def keep(self, name: str) -> None:
        """Gives the segment that was made its name; no generation names it yet."""
        segments = self.folder / SEGMENTS
        os.rename(segments / f"{_PARTIAL}{name}", segments / name)

    def commit(self, facts: IndexFacts, *, what: Operation, counts: Mapping[str, int]) -> None:
        """Makes this generation the one that counts, and removes what it does not name."""
        assert facts.generation == self.facts.generation + 1
        # What lies in a segment was brought to the disk when it was written; now the names.
        for name in ("", *(segment.name for segment in facts.segments if segment.removed_file is not None)):
            synced_entries(self.folder / SEGMENTS / name)
        write_facts(self.folder, facts)
        self._facts = facts
        append(self.folder, Write(generation=facts.generation, what=what, state="complete", counts=dict(counts)))
        self._sweep()

    def _recover(self) -> None:
        lines = read_journal(self.folder)
        if lines and lines[-1].state == "begun":
            last = lines[-1]
            if last.generation <= self.facts.generation:
                append(self.folder, last.model_copy(update={"state": "complete"}))
            else:
                logger.warning(
                    "%s: a write (%s) was broken off and had no effect; the index is as it was before it; do it again",
                    self.folder,
                    last.what,
                )
        self._sweep()

    def _sweep(self) -> None:
        """Removes segments, lists of removed rows and temporary files that the generation does not name."""
        named = {segment.name: segment.removed_file for segment in self.facts.segments}
        for path in (self.folder / SEGMENTS).iterdir():
            if path.name not in named:
                shutil.rmtree(path)
                continue
            for removed in (*path.glob("removed-*.npy"), *path.glob(f"{_PARTIAL}*")):
                if removed.name != named[path.name]:
                    removed.unlink()
        for path in self.folder.glob(f"{_PARTIAL}*"):
            path.unlink()

    def _close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def write_facts(folder: Path, facts: IndexFacts) -> None:
    """Puts a generation into the place of the one before: whole, and on the disk when this returns."""
    handle, name = tempfile.mkstemp(dir=folder, prefix=_PARTIAL)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(facts.model_dump_json(indent=1) + "\n")
        file.flush()
        os.fchmod(file.fileno(), 0o644)
        os.fsync(file.fileno())
    os.replace(name, folder / FILE_NAME)
    synced_entries(folder)


def append(folder: Path, line: Write) -> None:
    """Adds a line to the journal, on the disk when this returns; a line that a crash cut off is dropped first."""
    whole = "".join(f"{one.model_dump_json()}\n" for one in read_journal(folder)).encode()
    content = line.model_dump_json().encode() + b"\n"
    handle = os.open(folder / JOURNAL, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        os.ftruncate(handle, len(whole))
        os.pwrite(handle, content, len(whole))
        os.fsync(handle)
    finally:
        os.close(handle)


def read_journal(folder: Path) -> list[Write]:
    """The writes of an index in order, as far as the file is whole."""
    lines: list[Write] = []
    try:
        content = (folder / JOURNAL).read_bytes()
    except FileNotFoundError:
        return lines
    for line in content.splitlines(keepends=True):
        try:
            if not line.endswith(b"\n"):
                break
            lines.append(Write.model_validate_json(line))
        except ValidationError:
            break
    return lines


def _lock(handle: int, folder: Path) -> None:
    try:
        if not take_lock(handle):
            logger.warning("%s: this file system knows no locks; see to it that only one writes there", folder)
    except BlockingIOError:
        raise DataError(f"{folder}: another process is writing this index; wait for it") from None
