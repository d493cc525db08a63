"""What there is of memory and disk for a run, and the most that this process has taken."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil

_PROCESS = Path("/proc/self/status")
_MEMBERSHIPS = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")
_SHARED_MEMORY = Path("/dev/shm")


def memory_bytes() -> int:
    """Memory that this process may take: what is free and what it has, within the limits of its job or container."""
    free = psutil.virtual_memory().available + psutil.Process().memory_info().rss
    return min([int(free), *group_limits(_MEMBERSHIPS, _GROUPS)])


def peak_memory_bytes() -> int:
    """The most that this process ever held; what it holds now where the system does not keep count."""
    if _PROCESS.is_file():
        for line in _PROCESS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return int(psutil.Process().memory_info().rss)


def shared_memory_free_bytes() -> int | None:
    """Room in /dev/shm, through which worker processes hand over batches; None where there is none."""
    return shutil.disk_usage(_SHARED_MEMORY).free if _SHARED_MEMORY.is_dir() else None


def disk_free_bytes(folder: Path) -> int:
    """Room where `folder` is, or will be made."""
    folder = folder.absolute()
    return shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.is_dir())).free


def group_limits(memberships: Path, groups: Path) -> Iterator[int]:
    """Memory limits of the control groups (Linux, version 1 and 2) that a process is in, from the inner to the outer.

    Args:
        memberships: what /proc/PID/cgroup says: a line `number:controllers:path` for each hierarchy.
        groups: where the hierarchies are mounted.
    """
    if not memberships.is_file():
        return
    for line in memberships.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        root = groups / controllers
        place = root / path.strip("/")
        name = "memory.limit_in_bytes" if controllers else "memory.max"
        for folder in (place, *place.parents):
            if (folder / name).is_file() and (text := (folder / name).read_text().strip()).isdigit():
                yield int(text)  # version 2 says "max" for none
            if folder == root:
                break
