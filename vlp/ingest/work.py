"""From the name of a unit to studies packed for a shard, in as many processes as there are cores, in order.

Nothing here knows where the shards go; the processes that do the work load no more than what they need for it.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace

from vlp.data.packing import PackedStudy, pack
from vlp.errors import DataError
from vlp.ingest.annotations.annotation import Annotation
from vlp.ingest.preparation import Preparation, prepare
from vlp.ingest.privacy import PhiBudget, Privacy
from vlp.ingest.source import Source, StudyFault
from vlp.records import LoadedStudy

Outcome = PackedStudy | StudyFault

_CHUNK_SECONDS = 0.05
"""Units that take about this long together travel together: long enough that the way there and back is nothing."""
_MAX_CHUNK = 64
_LOOK_AHEAD = 4
"""Chunks per worker that may always be under way or waiting for their turn."""
_FAR_AHEAD = 40
"""The same where what waits is small, so that one slow unit does not stop everybody."""
_MAX_WAITING_BYTES = 64 << 20
_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitResult:
    """What became of the studies of one unit, in their order, and what of theirs was identifying."""

    outcomes: Sequence[Outcome]
    phi: PhiBudget

    @property
    def num_bytes(self) -> int:
        """Bytes for the shards."""
        return sum(len(outcome.content) for outcome in self.outcomes if isinstance(outcome, PackedStudy))


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is done to every unit; travels to the processes that do it."""

    source: Source
    preparation: Preparation
    privacy: Privacy
    annotations: tuple[Annotation, ...] = ()

    def run(self, unit: str) -> UnitResult:
        """The unit's studies, packed, or why they are not taken."""
        outcomes: list[Outcome] = []
        phi = PhiBudget(self.privacy.config)
        try:
            for loaded in self.source.load(unit):
                # One by one: what came before a fault of the whole unit stays.
                outcomes.append(loaded if isinstance(loaded, StudyFault) else self._study(loaded, phi))  # noqa: PERF401
        except DataError as error:
            outcomes.append(_fault(error, "unreadable_unit"))
        return UnitResult(outcomes=outcomes, phi=phi)

    def _study(self, loaded: LoadedStudy, phi: PhiBudget) -> Outcome:
        code = "bad_annotation"
        try:
            study = loaded.study
            for annotation in self.annotations:  # they know the archive's own ids, so pseudonyms come after them
                study = annotation.apply(study)
            code = "unusable_study"
            cleaned = self.privacy.apply(replace(loaded, study=study))
            phi.add(cleaned)
            if isinstance(cleaned, StudyFault):
                return cleaned
            encoded = prepare(replace(loaded, study=cleaned.study), self.preparation)
            return encoded if isinstance(encoded, StudyFault) else pack(encoded, salt=self.preparation.splits.salt)
        except DataError as error:
            return _fault(error, code)
        except UnicodeEncodeError:
            return StudyFault(code="unusable_study", message="an id holds half a character; its encoding is broken")


def work_through(work: Work, units: Sequence[str], *, workers: int) -> Generator[UnitResult, None, None]:
    """The results of all units, in order, whoever did the work.

    Memory does not grow with the number of units: what is under way or waits for its turn is bounded.

    Raises:
        DataError: if a worker process dies.
    """
    if workers <= 1 or len(units) <= 1:
        for unit in units:
            yield work.run(unit)
        return
    # Spawned, not forked: the calling program may hold threads and devices.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        min(workers, len(units)), mp_context=context, initializer=_start_worker, initargs=(work,)
    )
    try:
        yield from _Queue(pool, units, workers).results()
    except BrokenProcessPool:
        raise DataError(
            "a worker process died, perhaps for lack of memory; run it again with fewer workers and it goes on"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Done:
    results: list[UnitResult]
    seconds: float
    num_bytes: int


class _Queue:
    """Chunks of units on their way through a pool."""

    def __init__(self, pool: ProcessPoolExecutor, units: Sequence[str], workers: int) -> None:
        self._pool = pool
        self._units = units
        self._workers = workers
        self._handed_out = 0
        self._waiting: deque[Future[_Done]] = deque()
        self._chunk = 1.0
        # One counter per thread that writes it, so that neither needs a lock.
        self._arrived_bytes = 0
        self._taken_bytes = 0

    def results(self) -> Iterator[UnitResult]:
        """One per unit, in order."""
        self._hand_out()
        while self._waiting:
            done = self._first()
            self._taken_bytes += done.num_bytes
            self._adapt(done)
            self._hand_out()
            yield from done.results

    def _first(self) -> _Done:
        """The next chunk in order; while it takes its time, the others get more to do."""
        while True:
            try:
                result = self._waiting[0].result(timeout=_POLL_SECONDS)
            except TimeoutError:
                self._hand_out()
            else:
                self._waiting.popleft()
                return result

    def _hand_out(self) -> None:
        while self._handed_out < len(self._units) and self._room():
            chunk = self._units[self._handed_out : self._handed_out + max(1, int(self._chunk))]
            self._handed_out += len(chunk)
            future = self._pool.submit(_work, chunk)
            future.add_done_callback(self._arrived)
            self._waiting.append(future)

    def _room(self) -> bool:
        if len(self._waiting) < self._workers * _LOOK_AHEAD:
            return True
        small = self._arrived_bytes - self._taken_bytes < _MAX_WAITING_BYTES
        return small and len(self._waiting) < self._workers * _FAR_AHEAD

    def _arrived(self, future: Future[_Done]) -> None:
        if not future.cancelled() and future.exception() is None:
            self._arrived_bytes += future.result().num_bytes

    def _adapt(self, done: _Done) -> None:
        wanted = _CHUNK_SECONDS * len(done.results) / max(done.seconds, 1e-6)
        self._chunk = min(0.5 * (self._chunk + wanted), _MAX_CHUNK)


def _fault(error: DataError, code: str) -> StudyFault:
    return StudyFault(code=str(getattr(error, "code", code)), message=str(error))


_worker: Work | None = None


def _start_worker(work: Work) -> None:
    global _worker
    import cv2

    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process decides what a Ctrl-C means
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker = work


def _end_with_parent() -> None:
    """Without it the workers of a killed process would wait for it for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(units: Sequence[str]) -> _Done:
    assert _worker is not None
    started = time.perf_counter()
    results = [_worker.run(unit) for unit in units]
    seconds = time.perf_counter() - started
    return _Done(results=results, seconds=seconds, num_bytes=sum(result.num_bytes for result in results))
