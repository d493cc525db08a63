"""The step boundary: the one place where a run writes, checks, saves and decides whether to stop."""

import json
import time
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl

from vlp import log
from vlp.errors import ConfigError, DataError
from vlp.tensors import Batch
from vlp.train.config import TrainConfig
from vlp.train.folder import RunFolder
from vlp.train.guard import Guard
from vlp.train.module import PretrainingModule, diverged
from vlp.train.processes import Place, Processes
from vlp.train.saving.keeper import Keeper
from vlp.train.saving.state import Progress
from vlp.train.signals import StopFlag
from vlp.train.validate import ZeroShotCheck
from vlp.train.watching.display import Display
from vlp.train.watching.logbook import Logbook
from vlp.train.watching.memory import peak_gb
from vlp.train.watching.watchdog import Watchdog

_FLUSH_EVERY = 20
"""Steps between writes of metrics.csv."""
COLUMNS = ("images_per_s", "data_wait", "memory_gb", "skipped", "replaced", "zero_shot_auroc")
"""What a boundary adds to the numbers of a step."""

_logger = log.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruments:
    """What a boundary writes to, looks at and asks; every process has its own."""

    folder: RunFolder
    logbook: Logbook
    display: Display
    watchdog: Watchdog
    place: Place
    processes: Processes
    stop: StopFlag
    keeper: Keeper
    check: ZeroShotCheck | None = None
    """On the process that leads, where a check is wanted and can be made."""


class StepBoundary(pl.Callback):
    """Runs after every trained batch, in this order: count, agree, judge, check, write, save, stop.

    Every process has one; all of them decide alike, and only the one that leads checks and writes.
    """

    def __init__(self, config: TrainConfig, instruments: Instruments, *, progress: Progress) -> None:
        self.progress = progress
        self._config = config
        self._with = instruments
        self._guard = Guard(config.guard)
        self._latest_check: float | None = None
        self._stopping = False
        self._replaced_before = progress.replaced
        self._replaced_here = 0
        """By this process, in this start of the run."""
        self._entered = self._left = self._began = time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes the signals back, since Lightning has put handlers of its own over ours.

        Raises:
            ConfigError: if the processes do not continue from the same step.
        """
        self._with.stop.attach()
        most, least, *_ = self._with.processes.largest(self.progress.step, -self.progress.step)
        if most != -least:
            raise ConfigError(
                "output: the processes of this run do not find the same checkpoint there; it must be one folder that "
                "all of them see"
            )
        self._entered = self._left = time.monotonic()
        self._with.watchdog.phase("waiting for data", self.progress.step)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """The batch is there: what came before was waiting for it."""
        self._began = time.monotonic()
        self._with.watchdog.phase("step", self.progress.step)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """The boundary after one step."""
        assert isinstance(pl_module, PretrainingModule)
        now = time.monotonic()
        seconds = now - self._left  # of the step alone: checks and checkpoints are no part of images per second
        waited = (self._began - self._left) / seconds
        self.progress.seconds += now - self._entered
        self._entered = now
        replaced = -self.progress.replaced
        self._count(batch)
        self._agree(len(batch.replaced))
        replaced += self.progress.replaced
        pl_module.step = self.progress.step
        self._judge(pl_module, batch)
        check = self._zero_shot(pl_module)
        self._write(pl_module, batch, check, replaced=replaced, seconds=seconds, waited=waited)
        self._save_or_stop(trainer, check, sound=not pl_module.skipped)
        self._with.watchdog.phase("waiting for data", self.progress.step)
        self._left = time.monotonic()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """What led to an error is written down, too; a run that is continued drops what no checkpoint knows of."""
        self._with.logbook.flush()

    def _count(self, batch: Batch) -> None:
        progress = self.progress
        if batch.position < progress.position:
            progress.epoch += 1
            progress.consumed = 0
        progress.position = batch.position + 1
        progress.step += 1

    def _agree(self, replaced: int) -> None:
        """A signal to one process is for all of them, and so is the slowest clock; damaged studies add up.

        Raises:
            DataError: if more studies were replaced than the configuration allows.
        """
        processes, stop = self._with.processes, self._with.stop
        self._replaced_here += replaced
        by_rank = [0.0] * self._with.place.world
        by_rank[self._with.place.rank] = self._replaced_here
        number, self.progress.seconds, *by_rank = processes.largest(stop.number, self.progress.seconds, *by_rank)
        # What comes to this process alone from now on waits for the next boundary.
        self._stopping = bool(number)
        if number:
            stop.number = int(number)
        self.progress.replaced = self._replaced_before + int(sum(by_rank))
        budget = self._config.loader.corrupt_budget
        if self.progress.replaced > budget:
            raise DataError(
                f"{self.progress.replaced} damaged studies were met and loader.corrupt_budget is {budget}; run "
                "vlp shards check on the shards, or raise the budget"
            )

    def _judge(self, module: PretrainingModule, batch: Batch) -> None:
        """Moves the average, or counts a step that was left out and goes back when they are too many.

        Raises:
            ConfigError: if there is nothing to go back to, or the run has gone back too often.
        """
        progress = self.progress
        if module.skipped:
            progress.skipped += 1
            self._note_skipped(batch)
        else:
            self._with.keeper.follow(progress.step)
        if self._guard.too_many(skipped=module.skipped):
            progress.rollbacks += 1
            if progress.rollbacks > self._config.guard.rollbacks or not self._with.keeper.go_back():
                raise diverged("the loss or its gradient is not a finite number", step=progress.step)
            _logger.warning("step %d: weights and optimizer are those of the last checkpoint again", progress.step)

    def _note_skipped(self, batch: Batch) -> None:
        step = self.progress.step
        _logger.warning("step %d: the loss or its gradient is not a finite number; nothing is updated", step)
        keys = [json.loads(text) for text in self._with.processes.collect(json.dumps(batch.keys))]
        if self._with.place.leads:
            with self._with.folder.skipped.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, "epoch": self.progress.epoch, "keys": keys}) + "\n")

    def _zero_shot(self, module: PretrainingModule) -> float | None:
        every, step = self._config.zero_shot.every, self.progress.step
        last = reason_to_finish(self._config, self.progress) is not None
        if not every or (step % every and not last):
            return None
        self._with.watchdog.phase("check", step)
        macro = None if self._with.check is None else self._run_check(self._with.check, module)
        self._with.watchdog.phase("waiting for others", step)
        # Others would take a better model for a worse one: whether to save is for all of them to know.
        found = self._with.processes.largest(-1.0 if macro is None else macro)[0]
        macro = None if found < 0 else found
        if macro is not None:
            self._latest_check = macro
            if self.progress.best is None or macro > self.progress.best:
                self.progress.best, self.progress.best_step = macro, step
        return macro

    def _run_check(self, check: ZeroShotCheck, module: PretrainingModule) -> float | None:
        with self._with.keeper.evaluated():
            aurocs = check.attempt(module.model, device=module.device)
        return sum(aurocs.values()) / len(aurocs) if aurocs else None

    def _write(
        self,
        module: PretrainingModule,
        batch: Batch,
        check: float | None,
        *,
        replaced: int,
        seconds: float,
        waited: float,
    ) -> None:
        progress, memory = self.progress, peak_gb(module.device)
        row = {
            **module.measured,
            "images_per_s": module.images / seconds,
            "data_wait": waited,
            "memory_gb": memory,
            "skipped": int(module.skipped),
            "replaced": replaced,
            "zero_shot_auroc": check,
        }
        self._with.logbook.append(row, step=progress.step, epoch=progress.epoch, keys=batch.keys)
        self._with.display.show(
            step=progress.step,
            images=module.images,
            loss=module.measured["loss"],
            check=self._latest_check,
            data_wait=waited,
            memory_gb=memory,
        )

    def _save_or_stop(self, trainer: pl.Trainer, check: float | None, *, sound: bool) -> None:
        step = self.progress.step
        reason = self._reason_to_stop()
        best = check is not None and self.progress.best_step == step and self._config.keeps_best
        # After a step that was left out the weights may be its cause: what a run goes back to is from before it.
        due = best or step % self._config.checkpoint_every == 0
        saving = reason is not None or (due and sound)
        if saving or step % _FLUSH_EVERY == 0:
            self._with.logbook.flush()
        if saving:
            self._with.watchdog.phase("checkpoint", step)
            # After the rows, so that a checkpoint never knows of a step that the files do not.
            self._with.logbook.flush_samples()
            self._with.keeper.save(check)
        if reason:
            _logger.info("%s at step %d of %d", reason, step, self._config.max_steps)
            trainer.should_stop = True

    def _reason_to_stop(self) -> str | None:
        stopped = f"stopped by {self._with.stop.name}" if self._stopping else None
        return reason_to_finish(self._config, self.progress) or stopped


def reason_to_finish(config: TrainConfig, progress: Progress) -> str | None:
    """Why a run is over, or None while it is not."""
    if progress.step >= config.max_steps:
        return "all steps done"
    if config.max_minutes is not None and progress.seconds >= 60.0 * config.max_minutes:
        return f"{config.max_minutes:g} minutes of training are over"
    return None
