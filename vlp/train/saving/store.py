"""The checkpoints of a run: each written whole behind its back, and found again whatever happened meanwhile.

    step-00000200/     a checkpoint: what was written, score.json, SHA256SUMS
    .partial/          the one that is being written
    .deleted/          one that is being deleted

A checkpoint gets its name when all of it is on the disk and was read back as it was written; only then may an earlier
one go.  So a kill, a full disk or a lost machine at any moment costs the checkpoint that was being written, no other.
"""

import errno
import json
import math
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pydantic import NonNegativeInt, PositiveInt

from vlp import log
from vlp.config import Config
from vlp.errors import CheckpointError
from vlp.model import checkpoint
from vlp.train.saving.checksums import SUMS_NAME, fault, seal, sync_folder

SCORE_NAME = "score.json"
_NAME = re.compile(r"step-(\d{8,})")
_ASIDE = re.compile(r"\.(step-\d{8,})\.older")
"""One that another takes the place of, see `vlp.model.checkpoint.take_place`."""
_IN_WORK = re.compile(r"\.?step-(\d{8,})(\.partial)?")
_TELL_ABOVE = 2**30
"""Bytes of a checkpoint whose checksums take long enough to say so."""
_FULL = (errno.ENOSPC, errno.EDQUOT)

_logger = log.get_logger(__name__)


class RetainConfig(Config):
    """Which of the checkpoints that a run can be continued from stay."""

    last: PositiveInt = 2
    """So many of the newest.  More than one, so that a damaged one does not cost the run."""
    best: NonNegativeInt = 0
    """So many of those with the best zero-shot check."""
    every: PositiveInt | None = None
    """And every one whose step is a multiple of this, for good."""

    def kept(self, scores: Mapping[int, float | None]) -> frozenset[int]:
        """Those that stay of the steps that `scores` names; a step without a score is none of the best."""
        newest = sorted(scores)[-self.last :]
        periodic = [step for step in scores if self.every and step % self.every == 0]
        return frozenset([*newest, *_best_first(scores)[: self.best], *periodic])


class CheckpointStore:
    """The folder a run's checkpoints lie in.  One process writes to it; all may ask.

    Args:
        folder: RUN/checkpoints; made when something is saved.
        retain: Which ones stay.
    """

    def __init__(self, folder: Path, retain: RetainConfig) -> None:
        self._folder = folder
        self._retain = retain
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._damaged: set[int] = set()

    def save(self, step: int, write: Callable[[Path], None], *, score: float | None = None, wait: bool = False) -> None:
        """Saves the checkpoint of one step in the background, once an earlier one is saved.

        Args:
            step: Which; one of the same step is replaced.
            write: Writes everything into the empty folder it is given; called from another thread, so what it writes
                must not change meanwhile (see `vlp.train.saving.state.snapshot`).
            score: Result of the zero-shot check, where there is one; the larger, the better.
            wait: Return when the checkpoint is there.

        Raises:
            CheckpointError: if an earlier save failed, there is no room for this one, or, waiting, this one failed.
        """
        self.wait()
        with self._plainly(step):
            self._prepare(step)
        self._thread = threading.Thread(target=self._work, args=(step, write, score), name="checkpoint")
        self._thread.start()
        if wait:
            self.wait()

    def wait(self) -> None:
        """Returns when nothing is being saved.

        Raises:
            CheckpointError: if the last save failed; it is said once.
        """
        self._join()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def newest(self) -> Path | None:
        """The newest whole checkpoint, None if there is none; newer ones that are not whole are named in the log."""
        self._join()
        found = next(self._whole(reversed(self._steps())), None)
        begun = [int(match[1]) for match in map(_IN_WORK.fullmatch, _names(self._partial)) if match]
        if begun and (found is None or max(begun) > _step_of(found)):
            _logger.warning("%s: half-written checkpoint, left out", self._target(max(begun)))
        return found

    def best(self) -> Path | None:
        """The whole checkpoint with the best score, the earliest of equals; None if there is none with a score."""
        self._join()
        return next(self._whole(_best_first({step: self._score(step) for step in self._steps()})), None)

    def steps(self) -> tuple[int, ...]:
        """Steps there are checkpoints of, rising, damaged ones among them."""
        self._join()
        return self._steps()

    def has_any(self) -> bool:
        """Whether there is any checkpoint, be it damaged: a run that may not be started anew over it."""
        return bool(self.steps())

    @property
    def _partial(self) -> Path:
        return self._folder / ".partial"

    @property
    def _deleted(self) -> Path:
        return self._folder / ".deleted"

    def _target(self, step: int) -> Path:
        return self._folder / f"step-{step:08d}"

    def _aside(self, step: int) -> Path:
        return self._folder / f".{self._target(step).name}.older"

    def _path(self, step: int) -> Path:
        """Where a step's checkpoint lies: where it belongs, or aside if a kill came while another took its place."""
        return checkpoint.latest(self._target(step), holding=SUMS_NAME) or self._target(step)

    def _steps(self) -> tuple[int, ...]:
        names = _names(self._folder)
        aside = [match[1] for match in map(_ASIDE.fullmatch, names) if match]
        return tuple(sorted({int(match[1]) for match in map(_NAME.fullmatch, [*names, *aside]) if match}))

    def _score(self, step: int) -> float | None:
        try:
            score = json.loads((self._path(step) / SCORE_NAME).read_bytes())["score"]
        except (OSError, ValueError, LookupError, TypeError):
            return None  # damaged; whoever opens the checkpoint says so
        return score if isinstance(score, float) else None

    def _whole(self, steps: Iterable[int]) -> Iterator[Path]:
        for step in steps:
            path = self._path(step)
            size = _bytes_of(path)
            if size > _TELL_ABOVE:
                _logger.info("checking %s: %.1f GB", path, size / 1e9)
            found = fault(path)
            if found is None:
                yield path
            else:
                self._damaged.add(step)
                _logger.warning("%s: damaged checkpoint, left out: %s", path, found)

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _prepare(self, step: int) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        sync_folder(self._folder.parent)
        for left_behind in (self._partial, self._deleted):
            shutil.rmtree(left_behind, ignore_errors=True)
        newest = self._steps()[-1:]
        needed = _bytes_of(self._path(*newest)) if newest else 0
        free = shutil.disk_usage(self._folder).free
        if free < needed:
            raise CheckpointError(
                f"{self._target(step)}: not enough room: a checkpoint takes about {needed / 1e6:.1f} MB and "
                f"{free / 1e6:.1f} MB are free; earlier checkpoints are untouched; make room and start the same "
                "command again"
            )
        (self._partial / self._target(step).name).mkdir(parents=True)

    def _work(self, step: int, write: Callable[[Path], None], score: float | None) -> None:
        """The thread.  What goes wrong in it is raised where somebody waits for it."""
        try:
            with self._plainly(step):
                self._write(step, write, score)
        except BaseException as error:
            self._error = error
        finally:
            shutil.rmtree(self._partial, ignore_errors=True)  # of no use, and it may fill the disk

    def _write(self, step: int, write: Callable[[Path], None], score: float | None) -> None:
        target = self._target(step)
        building = self._partial / target.name
        write(building)
        finite = None if score is None or not math.isfinite(score) else float(score)
        (building / SCORE_NAME).write_text(json.dumps({"step": step, "score": finite}) + "\n", encoding="utf-8")
        seal(building)
        found = fault(building)
        if found is not None:
            raise CheckpointError(
                f"{target}: not what was written when it was read back ({found}); earlier checkpoints are untouched; "
                "check the disk"
            )
        checkpoint.take_place(building, target)
        sync_folder(self._folder)
        self._damaged.discard(step)
        self._prune(step)

    def _prune(self, saved: int) -> None:
        """Deletes what need not stay.  The one just read back always does, so a whole one is left at every moment."""
        steps = self._steps()
        scores = {step: self._score(step) for step in steps if step not in self._damaged}
        kept = self._retain.kept(scores) | {saved}
        for step in steps:
            target, aside = self._target(step), self._aside(step)
            if aside.exists() and (step not in kept or target.exists()):
                self._delete(aside)
            if target.exists() and step not in kept:
                self._delete(target)

    def _delete(self, path: Path) -> None:
        """Takes the name away first, so that a kill never leaves half a checkpoint under it."""
        try:
            self._deleted.mkdir(exist_ok=True)
            os.rename(path, self._deleted / path.name)
            shutil.rmtree(self._deleted)
        except OSError as error:
            # The run has what it needs; the disk may fill, and then the next save says so.
            _logger.warning("%s: cannot be deleted: %s", path, error.strerror)

    @contextmanager
    def _plainly(self, step: int) -> Iterator[None]:
        """Turns what the system says into one plain line."""
        try:
            yield
        except OSError as error:
            advice = "make room" if error.errno in _FULL else "see to it that the folder can be written"
            raise CheckpointError(
                f"{self._target(step)}: cannot be saved: {error.strerror or error}; earlier checkpoints are untouched; "
                f"{advice} and start the same command again"
            ) from None


def _best_first(scores: Mapping[int, float | None]) -> list[int]:
    ranked = [(-score, step) for step, score in scores.items() if score is not None]
    return [step for _, step in sorted(ranked)]


def _step_of(path: Path) -> int:
    match = re.search(r"step-(\d+)", path.name)
    assert match is not None
    return int(match[1])


def _names(folder: Path) -> list[str]:
    return os.listdir(folder) if folder.is_dir() else []


def _bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
