"""How batches travel from the processes that make them to the one that trains.

Torch gives every tensor that crosses over a piece of shared memory of its own: a file that is made, sized, mapped on
both sides and thrown away, 45 us for each image of 224 px.  Here the large tensors of a batch are copied into a slab
that was there before the workers were, and out of it again (5 us), and the small ones travel as bytes in a pipe.
Slabs are no files, so they need no room in /dev/shm; what does not fit into one goes torch's way.
"""

import itertools
import mmap
import re
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from vlp.errors import BackendError
from vlp.tensors import Batch

_SMALL_BYTES = 1 << 16
"""Tensors below this go through the pipe."""
_ALIGNED = 64
_KILLED = re.compile(r"DataLoader worker.*?(killed by signal: (?P<signal>[\w ]+)|exited unexpectedly)", re.DOTALL)
_NUMBERS = itertools.count()


class Slabs:
    """Memory that a loader shares with the workers it forks: a few slabs for each of them, used again and again.

    A slab belongs to one worker, is taken by it when a batch is ready, and is given back when the batch was copied out.
    """

    def __init__(self, *, workers: int, each: int, slab_bytes: int) -> None:
        """`each` slabs of `slab_bytes` for each of the workers; memory is used when something is put into them."""
        self.number = next(_NUMBERS)
        self._each = each
        self._bytes = -(-slab_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        slabs = workers * each
        self._flags = np.frombuffer(mmap.mmap(-1, max(1, slabs)), dtype=np.uint8)
        self._memory = np.frombuffer(mmap.mmap(-1, max(1, slabs * self._bytes)), dtype=np.uint8)
        _SLABS[self.number] = self

    def take(self, worker: int) -> "_Slab | None":
        """A slab of this worker's that nothing is in; None if there is none."""
        for slab in range(worker * self._each, (worker + 1) * self._each):
            if not self._flags[slab]:
                self._flags[slab] = 1
                return _Slab(self.number, slab, self._part(slab))
        return None

    def view(self, slab: int, place: "_Place") -> Tensor:
        """The tensor at a place in a slab; it changes when the slab is used again."""
        content = self._part(slab)[place.offset : place.offset + place.num_bytes]
        return torch.from_numpy(content).view(place.dtype).view(place.shape)

    def give_back(self, slab: int) -> None:
        """Lets the worker use a slab again."""
        self._flags[slab] = 0

    def _part(self, slab: int) -> np.ndarray:
        return self._memory[slab * self._bytes : (slab + 1) * self._bytes]


_SLABS: WeakValueDictionary[int, Slabs] = WeakValueDictionary()
"""Of this process; a worker that is not forked has none."""


class Parcel:
    """A batch on its way to another process."""

    def __init__(self, batch: Batch, *, slabs: int | None = None) -> None:
        """Takes the number of the slabs to travel by, which count only in a worker."""
        worker, shared = get_worker_info(), _SLABS.get(-1 if slabs is None else slabs)
        slab = shared.take(worker.id) if shared is not None and worker is not None else None
        self._slab = None if slab is None else (slab.slabs, slab.number)
        self._content: Any = batch if worker is None else _lightened(batch, slab)

    def open(self) -> Batch:
        """The batch, in memory of its own."""
        return self._unpacked(keep=_copied)

    def pin_memory(self) -> "Parcel":
        """The same in page-locked memory; for the loader's own thread, which copies every batch there."""
        return Parcel(self._unpacked(keep=Tensor.pin_memory).pin_memory())

    def _unpacked(self, *, keep: Any) -> Batch:
        shared = None if self._slab is None else _SLABS[self._slab[0]]
        batch: Batch = _restored(self._content, shared, self._slab, keep)
        if shared is not None and self._slab is not None:
            shared.give_back(self._slab[1])
        return batch


def worker_death(error: RuntimeError) -> BackendError | None:
    """What to tell a person where `error` says that a worker of a loader is gone; None for any other error.

    Torch raises it from a signal handler, so it can come out of any line of the training process.
    """
    found = _KILLED.search(str(error))
    if found is None:
        return None
    signal = (found["signal"] or "").strip()
    how = f"was killed ({signal})" if signal else "ended by itself"
    return BackendError(
        f"a worker of the loader {how}; most often memory or /dev/shm ran out: take fewer loader.workers, a smaller "
        "loader.prefetch or loader.cache_bytes, or ask for more memory (docker run --shm-size=8g)"
    )


def _copied(tensor: Tensor) -> Tensor:
    # Not `clone`: torch's threads would copy, and then spin for work on the cores that workers decode on.
    return torch.from_numpy(tensor.numpy().copy())


class _Place(NamedTuple):
    """Where a tensor lies in a slab, and what it is."""

    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    num_bytes: int


class _Slab:
    """A slab while it is filled."""

    def __init__(self, slabs: int, number: int, memory: np.ndarray) -> None:
        self.slabs = slabs
        self.number = number
        self._memory = memory
        self._used = 0

    def put(self, tensor: Tensor) -> _Place | None:
        """Where a copy of the tensor lies from now on; None if there is no room for it."""
        begin, size = -(-self._used // _ALIGNED) * _ALIGNED, tensor.nbytes
        if begin + size > len(self._memory):
            return None
        self._used = begin + size
        self._memory[begin : self._used] = tensor.contiguous().view(-1).view(torch.uint8).numpy()
        return _Place(begin, tuple(tensor.shape), tensor.dtype, size)


class _Light(NamedTuple):
    """A dataclass taken apart, its small tensors as arrays and its large ones as places in a slab."""

    kind: type
    values: dict[str, Any]


def _lightened(value: Any, slab: _Slab | None) -> Any:
    if isinstance(value, Tensor):
        if value.nbytes < _SMALL_BYTES:
            return value.numpy()
        place = None if slab is None else slab.put(value)
        return value if place is None else place
    if is_dataclass(value):
        parts = {field.name: _lightened(getattr(value, field.name), slab) for field in fields(value)}
        return _Light(type(value), parts)
    return value


def _restored(value: Any, slabs: Slabs | None, slab: tuple[int, int] | None, keep: Any) -> Any:
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    if isinstance(value, _Place):
        assert slabs is not None
        assert slab is not None
        return keep(slabs.view(slab[1], value))
    if isinstance(value, _Light):
        return value.kind(**{name: _restored(part, slabs, slab, keep) for name, part in value.values.items()})
    return value
