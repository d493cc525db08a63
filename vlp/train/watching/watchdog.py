"""Notices when a run no longer moves, and says which of its processes holds the others up.

Every process writes a heartbeat to a file of its own.  Where one process waits for another, both stand still; the
heartbeats tell who is behind, and the Python stacks that the processes write down tell in what.
"""

import faulthandler
import json
import os
import socket
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Literal

from pydantic import PositiveFloat

from vlp import log
from vlp.config import Config
from vlp.train.folder import write_text

Phase = Literal["starting", "waiting for data", "step", "check", "checkpoint", "waiting for others"]
"""What a process is at, in the order that a step goes through them."""

STALLED_STATUS = 75
"""Exit status of a process that ended because nothing moved: "try again later" in sysexits.h."""

_ORDER = ("failed", "ended", "starting", "waiting for data", "step", "check", "checkpoint", "waiting for others")
_OVER = ("failed", "ended")
_BEAT_S = 10.0
_SILENT_S = 90.0
"""A heartbeat that has not changed for so long is missing; a network file system shows another machine's files late."""
_NAMED = 4
"""Processes that a message names."""
_logger = log.get_logger(__name__)


class WatchdogConfig(Config):
    """When a run counts as stalled, and what happens then."""

    minutes: PositiveFloat = 10.0
    """Without a sign of life from training for so long, the log names the process that the others wait for."""
    stop: bool = False
    """Then also end all processes with status 75, for a scheduler to start the run again from its checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """What one process says of itself."""

    rank: int
    host: str
    pid: int
    step: int
    """Steps trained."""
    phase: str
    since: str
    """When the phase began, by that machine's clock."""
    beats: int
    """Counts up while the process lives; clocks of several machines need not agree."""

    @property
    def key(self) -> tuple[bool, int, int]:
        """Orders processes by how far they are; one that is over holds up all others."""
        return self.phase not in _OVER, self.step, _ORDER.index(self.phase)

    def __str__(self) -> str:
        return f"rank {self.rank} on {self.host} (step {self.step}, {self.phase})"


class Watchdog:
    """A thread beside training that looks every ten seconds whether training has moved.

    Args:
        folder: of the heartbeats, RUN/heartbeats: rank-N.json, and rank-N.stack.txt of a process that stalled.
        rank: of this process.
        world: number of processes.
        config: when to speak.

    `phase` may be called whether or not the watchdog is entered; without it, nobody watches.
    """

    def __init__(self, folder: Path, *, rank: int, world: int, config: WatchdogConfig) -> None:
        self._folder = folder
        self._rank = rank
        self._config = config
        self._host = socket.gethostname()
        self._beats = 0
        self._now: tuple[Phase, int, float] = ("starting", 0, time.time())
        self._peers = _Peers(folder, world=world)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._can_write = True

    def phase(self, name: Phase, step: int) -> None:
        """Says what this process is at now, after so many steps.  Every call is a sign of life, and costs nothing."""
        self._now = (name, step, time.time())

    def __enter__(self) -> "Watchdog":
        self.phase(*self._now[:2])
        self._beat()
        with suppress(OSError):  # `_beat` has said so already
            self._stack.unlink(missing_ok=True)  # of an earlier start
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join(timeout=_BEAT_S)
        self._beat(over="failed" if kind is not None and issubclass(kind, Exception) else "ended")

    @property
    def _stack(self) -> Path:
        return self._folder / f"rank-{self._rank}.stack.txt"

    def _watch(self) -> None:
        stall, before = _Stall(since=self._now), time.monotonic()
        while not self._ending.wait(_BEAT_S):
            now = time.monotonic()
            # A process that was suspended as a whole comes back to one long wait, which is no stall.
            elapsed, before = min(now - before, 2.0 * _BEAT_S), now
            self._beat()
            if stall.since is self._now:
                self._look_closer(stall, elapsed)
                continue
            if stall.told:
                _logger.warning("training moves again, at step %d", self._now[1])
            stall = _Stall(since=self._now)
            self._peers.forget()

    def _look_closer(self, stall: "_Stall", elapsed: float) -> None:
        limit = 60.0 * self._config.minutes
        stall.seconds += elapsed
        if stall.seconds >= limit - _SILENT_S:
            self._peers.look(elapsed)
        if stall.seconds < limit:
            return
        if not stall.dumped:
            self._dump()
            stall.dumped = True
        if not stall.told and self._peers.known and self._peers.speaker == self._rank:
            self._tell()
            stall.told = True
        # The one that speaks ends first: a launcher may take the others along before they can.
        if self._config.stop and (stall.told or stall.seconds >= limit + 2.0 * _SILENT_S):
            os._exit(STALLED_STATUS)

    def _tell(self) -> None:
        ending = f"; ending with status {STALLED_STATUS}" if self._config.stop else ""
        _logger.error(
            "nothing has moved for %g minutes: %s; stacks are in %s%s",
            self._config.minutes,
            self._peers.verdict(),
            self._folder,
            ending,
        )

    def _beat(self, *, over: str | None = None) -> None:
        self._beats += 1
        phase, step, since = self._now
        heart = Heartbeat(
            rank=self._rank,
            host=self._host,
            pid=os.getpid(),
            step=step,
            phase=over or phase,
            since=datetime.fromtimestamp(since, tz=UTC).isoformat(timespec="seconds"),
            beats=self._beats,
        )
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_text(_file(self._folder, self._rank), json.dumps(asdict(heart)) + "\n")
        except OSError as error:
            if self._can_write:  # once: a full disk stays full, and training has its own word on it
                _logger.warning("%s: heartbeats cannot be written: %s", self._folder, error.strerror or error)
            self._can_write = False

    def _dump(self) -> None:
        """Writes the Python stacks of all threads: file names, functions and lines, no values."""
        try:
            with self._stack.open("w", encoding="utf-8") as file:
                file.write(f"rank {self._rank} on {self._host}, step {self._now[1]}, {self._now[0]}\n")
                file.flush()
                faulthandler.dump_traceback(file=file, all_threads=True)
        except OSError as error:
            _logger.warning("%s: cannot be written: %s", self._stack, error.strerror or error)


@dataclass(slots=True, kw_only=True)
class _Stall:
    """How long nothing has moved, and what was done about it."""

    since: tuple[Phase, int, float]
    seconds: float = 0.0
    dumped: bool = False
    told: bool = False


class _Peers:
    """What the heartbeats of all processes say while one of them stands still."""

    def __init__(self, folder: Path, *, world: int) -> None:
        self._folder = folder
        self._world = world
        self.forget()

    def forget(self) -> None:
        """Begins anew."""
        self._last: dict[int, Heartbeat | None] = {}
        self._quiet = dict.fromkeys(range(self._world), 0.0)
        self._watched = 0.0

    def look(self, elapsed: float) -> None:
        """Reads all heartbeats, `elapsed` seconds after the last time."""
        self._watched += elapsed
        for rank in self._quiet:
            found, last = read_heartbeat(self._folder, rank), self._last.get(rank)
            lives = found is not None and (last is None or (found.pid, found.beats) != (last.pid, last.beats))
            self._quiet[rank] = 0.0 if lives else self._quiet[rank] + elapsed
            self._last[rank] = found or last

    @property
    def known(self) -> bool:
        """Whether they were watched long enough to tell a slow heartbeat from a missing one."""
        return self._world == 1 or self._watched >= _SILENT_S + _BEAT_S

    @property
    def speaker(self) -> int:
        """The lowest rank that lives, which is the one to speak for all."""
        gone = {*self._silent(), *(heart.rank for heart in self._beating() if heart.phase in _OVER)}
        return min((rank for rank in self._quiet if rank not in gone), default=0)

    def verdict(self) -> str:
        """Who lags behind and who does not write, in words."""
        beating = sorted(self._beating(), key=lambda heart: heart.key)
        behind = [heart for heart in beating if heart.key == beating[0].key]
        parts = []
        if len(behind) < len(beating):
            parts.append(f"waiting for {_some([str(heart) for heart in behind])}; the last is at {_at(beating[-1])}")
        elif len(beating) > 1:
            parts.append(f"{len(beating)} processes are at the same point, {_at(behind[0])}")
        elif behind:
            parts.append(str(behind[0]))
        if silent := self._silent():
            parts.append(f"no heartbeat from {_some([self._remembered(rank) for rank in silent])}")
        return "; ".join(parts)

    def _silent(self) -> list[int]:
        if self._world == 1:
            return []
        over = {rank for rank, heart in self._last.items() if heart is not None and heart.phase in _OVER}
        return [rank for rank, quiet in self._quiet.items() if quiet >= _SILENT_S and rank not in over]

    def _beating(self) -> list[Heartbeat]:
        silent = self._silent()
        return [heart for rank, heart in self._last.items() if heart is not None and rank not in silent]

    def _remembered(self, rank: int) -> str:
        last = self._last.get(rank)
        return f"rank {rank}" if last is None else str(last)


def read_heartbeat(folder: Path, rank: int) -> Heartbeat | None:
    """The heartbeat of one process; None where there is none that can be read."""
    try:
        heart = Heartbeat(**json.loads(_file(folder, rank).read_text(encoding="utf-8")))
        return heart if heart.phase in _ORDER else None
    except (OSError, ValueError, TypeError):
        return None


def _file(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank}.json"


def _at(heart: Heartbeat) -> str:
    return f"step {heart.step}, {heart.phase}"


def _some(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
