"""The step boundary: the one place where a run writes, checks, saves and decides whether to stop."""

import math
import time
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch

from vlp import log
from vlp.errors import ConfigError
from vlp.tensors import Batch
from vlp.train.config import TrainConfig
from vlp.train.display import Display
from vlp.train.logbook import Logbook
from vlp.train.module import PretrainingModule, diverged
from vlp.train.processes import Processes
from vlp.train.resume import Progress
from vlp.train.signals import StopFlag
from vlp.train.validate import ZeroShotCheck

_FLUSH_EVERY = 20
"""Steps between writes of metrics.csv; a loss that is not finite is found then."""

_logger = log.get_logger(__name__)


class StepBoundary(pl.Callback):
    """Runs after every trained batch, in this order: count, agree, check, write, save, stop.

    Every process has one; all of them decide alike, and only the one that leads checks, writes and saves.
    """

    def __init__(
        self,
        config: TrainConfig,
        *,
        progress: Progress,
        logbook: Logbook,
        display: Display,
        check: ZeroShotCheck | None,
        stop: StopFlag,
        processes: Processes,
        save: Callable[[Progress], None],
        save_best: Callable[[], None],
    ) -> None:
        self.progress = progress
        self._config = config
        self._logbook = logbook
        self._display = display
        self._check = check
        self._stop = stop
        self._processes = processes
        self._save = save
        self._save_best = save_best
        self._latest_check: float | None = None
        self._stopping = False
        self._entered = self._left = time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes the signals back, since Lightning has put handlers of its own over ours.

        Raises:
            ConfigError: if the processes do not continue from the same step.
        """
        self._stop.attach()
        most, least = self._processes.largest(self.progress.step, -self.progress.step)
        if most != -least:
            raise ConfigError(
                "output: the processes of this run do not find the same checkpoint there; it must be one folder that "
                "all of them see"
            )
        self._entered = self._left = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """The boundary after one step."""
        assert isinstance(pl_module, PretrainingModule)
        now = time.monotonic()
        seconds = now - self._left  # of the step alone: checks and checkpoints are no part of images per second
        self.progress.seconds += now - self._entered
        self._entered = now
        self._count(batch)
        self._agree()
        step = pl_module.step = self.progress.step
        check = self._zero_shot(pl_module)
        row = {
            **pl_module.measured,
            "images_per_s": pl_module.images / seconds,
            "zero_shot_auroc": check,
        }
        self._logbook.append(row, step=step, epoch=self.progress.epoch, keys=batch.keys)
        self._display.show(
            step=step, images=pl_module.images, loss=pl_module.measured["loss"], check=self._latest_check
        )
        reason = self._reason_to_stop()
        saving = reason is not None or step % self._config.checkpoint_every == 0
        if saving or step % _FLUSH_EVERY == 0:
            self._refuse_broken(pl_module.measured["loss"])
            self._logbook.flush()
        if saving:
            # After the rows, so that a checkpoint never knows of a step that the files do not.
            self._logbook.flush_samples()
            self._save(self.progress)
            # Nobody ends, or goes on, before the checkpoint is there.
            self._processes.wait()
        if reason:
            _logger.info("%s at step %d of %d", reason, step, self._config.max_steps)
            trainer.should_stop = True
        self._left = time.monotonic()

    def _count(self, batch: Batch) -> None:
        progress = self.progress
        if batch.position < progress.position:
            progress.epoch += 1
        progress.position = batch.position + 1
        progress.step += 1

    def _agree(self) -> None:
        """A signal to one process is for all of them, and so is the slowest clock."""
        signal, self.progress.seconds = self._processes.largest(self._stop.number, self.progress.seconds)
        # What comes to this process alone from now on waits for the next boundary.
        self._stopping = bool(signal)
        if signal:
            self._stop.number = int(signal)

    def _zero_shot(self, module: PretrainingModule) -> float | None:
        every, step = self._config.zero_shot.every, self.progress.step
        last = reason_to_finish(self._config, self.progress) is not None
        if not every or (step % every and not last):
            return None
        macro = None if self._check is None else self._run_check(self._check, module)
        self._processes.wait()
        return macro

    def _run_check(self, check: ZeroShotCheck, module: PretrainingModule) -> float:
        step = self.progress.step
        aurocs = check.run(module.model, device=module.device)
        macro = sum(aurocs.values()) / len(aurocs)
        self._latest_check = macro
        if self.progress.best is None or macro > self.progress.best:
            self.progress.best, self.progress.best_step = macro, step
            self._save_best()
        return macro

    def _refuse_broken(self, loss: float | torch.Tensor) -> None:
        if not math.isfinite(loss):
            raise diverged("the loss is not a finite number", step=self.progress.step)

    def _reason_to_stop(self) -> str | None:
        stopped = f"stopped by {self._stop.name}" if self._stopping else None
        return reason_to_finish(self._config, self.progress) or stopped


def reason_to_finish(config: TrainConfig, progress: Progress) -> str | None:
    """Why a run is over, or None while it is not."""
    if progress.step >= config.max_steps:
        return "all steps done"
    if config.max_minutes is not None and progress.seconds >= 60.0 * config.max_minutes:
        return f"{config.max_minutes:g} minutes of training are over"
    return None
