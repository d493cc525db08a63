"""Memory that a step frees stays with the process: on a CPU, fetching it anew costs a tenth of a step and more.

glibc gives large blocks back to the system as soon as they are freed, and every step then pays for thousands of page
faults, and for zeroing the same memory again.
"""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_KEPT = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 64 * 2**20}
_USUAL = {_M_MMAP_MAX: 65_536, _M_TRIM_THRESHOLD: 128 * 2**10, _M_TOP_PAD: 128 * 2**10}
"""glibc's own."""


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Inside the block this process, and what it forks, holds on to memory that is freed; where the C library is glibc.

    What the process holds then stays at its peak until the block ends.
    """
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    library = ctypes.CDLL(None)
    try:
        _set(library, _KEPT)
        yield
    finally:
        _set(library, _USUAL)
        library.malloc_trim(0)


def _set(library: ctypes.CDLL, settings: dict[int, int]) -> None:
    for name, value in settings.items():
        library.mallopt(name, value)
