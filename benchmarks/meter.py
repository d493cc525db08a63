"""Seconds and peak memory of a call, beyond what was held when the meter was made."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

_PROC = Path("/proc/self")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One call."""

    seconds: float
    peak_bytes: int | None
    """None where the system does not tell (no CUDA device and no Linux)."""


class Meter:
    """Make it when the inputs are there; what they take is not counted.

    On a CPU the peak is the process's largest resident size during the call (the kernel's counter, set back before it),
    so it holds what the allocator and the libraries take as well; on a CUDA device it is what torch had allocated at
    most.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before = self._held()

    def measure(self, call: Callable[[], object]) -> Measured:
        """Runs the call to its end on the device."""
        self._forget_peak()
        started = time.perf_counter()
        call()
        self.wait()
        seconds = time.perf_counter() - started
        peak = self._peak()
        before = self._before
        return Measured(seconds=seconds, peak_bytes=None if peak is None or before is None else peak - before)

    def wait(self) -> None:
        """Returns when the device has done all it was given."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _held(self) -> int | None:
        if self._device.type == "cuda":
            self.wait()
            return torch.cuda.memory_allocated(self._device)
        return _status_bytes("VmRSS")

    def _forget_peak(self) -> None:
        self.wait()
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        elif sys.platform == "linux":
            (_PROC / "clear_refs").write_text("5")

    def _peak(self) -> int | None:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return _status_bytes("VmHWM")


def available_bytes(device: torch.device) -> int | None:
    """Memory a new process may take; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if sys.platform != "linux":
        return None
    free = _field_bytes(Path("/proc/meminfo"), "MemAvailable")
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if free is not None and limit.exists() and used.exists() and (text := limit.read_text().strip()) != "max":
        return min(free, int(text) - int(used.read_text()))
    return free


def _status_bytes(field: str) -> int | None:
    return _field_bytes(_PROC / "status", field) if sys.platform == "linux" else None


def _field_bytes(path: Path, field: str) -> int | None:
    for line in path.read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == field:
            return int(rest.split()[0]) * 1024
    return None
