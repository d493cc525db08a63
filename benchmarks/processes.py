"""Processor time of a process with everything it started, and what the rest of the machine used meanwhile."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_TICK = os.sysconf("SC_CLK_TCK")


def family(pid: int) -> Iterator[int]:
    """The process and its descendants that are alive; none of them where the system does not tell (no Linux)."""
    yield pid
    try:
        for task in (_PROC / str(pid) / "task").iterdir():
            for child in (task / "children").read_text().split():
                yield from family(int(child))
    except OSError:
        return  # it has just ended


def cpu_seconds(pid: int) -> float:
    """Of the process and its descendants, those that ended and were waited for included."""
    return sum(_ticks(each) for each in family(pid)) / _TICK


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A reading of the clocks; the difference of two says what happened in between."""

    wall: float
    own: float
    """Processor seconds of the process that was looked at, with its descendants."""
    machine: float
    """Processor seconds of everybody."""

    @classmethod
    def now(cls, pid: int | None = None) -> "Moment":
        """This moment of a process (None: of this one) and of the machine."""
        return cls(wall=time.perf_counter(), own=cpu_seconds(pid or os.getpid()), machine=_machine_seconds())

    def since(self, earlier: "Moment") -> dict[str, float]:
        """seconds, cpu_seconds, and `others`: cores that all other processes kept busy."""
        seconds, cpu = self.wall - earlier.wall, self.own - earlier.own
        others = max(0.0, self.machine - earlier.machine - cpu) / seconds
        return {"seconds": seconds, "cpu_seconds": cpu, "others": others}


def _ticks(pid: int) -> int:
    """User and system time, its own and that of the children it waited for."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return 0
    # The second field is a name in brackets that may hold anything.
    return sum(int(field) for field in text.rpartition(")")[2].split()[11:15])


def _machine_seconds() -> float:
    try:
        first = (_PROC / "stat").read_text().partition("\n")[0].split()
    except OSError:
        return 0.0
    user, nice, system, _idle, _waiting, *rest = (int(field) for field in first[1:])
    return (user + nice + system + sum(rest[:2])) / _TICK
