"""The step boundary: the one place where a run writes, checks, saves and decides whether to stop."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from vlp import log
from vlp.errors import ConfigError
from vlp.tensors import Batch
from vlp.train.config import TrainConfig
from vlp.train.display import Display
from vlp.train.logbook import Logbook
from vlp.train.module import PretrainingModule
from vlp.train.resume import Progress
from vlp.train.signals import StopFlag
from vlp.train.validate import ZeroShotCheck

_FLUSH_EVERY = 20
"""Steps between writes of metrics.csv; a loss that is not finite is found then."""

_logger = log.get_logger(__name__)


class StepBoundary(pl.Callback):
    """Runs after every trained batch, in this order: count, check, write, save, stop."""

    def __init__(
        self,
        config: TrainConfig,
        *,
        progress: Progress,
        logbook: Logbook,
        display: Display,
        check: ZeroShotCheck | None,
        stop: StopFlag,
        save: Callable[[Progress], None],
        save_best: Callable[[], None],
    ) -> None:
        self.progress = progress
        self._config = config
        self._logbook = logbook
        self._display = display
        self._check = check
        self._stop = stop
        self._save = save
        self._save_best = save_best
        self._latest_check: float | None = None
        self._since = time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes the signals back, since Lightning has put handlers of its own over ours."""
        self._stop.attach()
        self._since = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """The boundary after one step."""
        assert isinstance(pl_module, PretrainingModule)
        seconds = time.monotonic() - self._since
        self._count(batch, seconds)
        step = pl_module.step = self.progress.step
        check = self._zero_shot(pl_module)
        row = {
            **pl_module.measured,
            "images_per_s": batch.num_images * trainer.world_size / seconds,
            "zero_shot_auroc": check,
        }
        self._logbook.append(row, step=step, epoch=self.progress.epoch, keys=batch.keys)
        self._display.show(
            step=step, images=batch.num_images, loss=pl_module.measured["loss"], check=self._latest_check
        )
        reason = self._reason_to_stop()
        if step % _FLUSH_EVERY == 0 or reason:
            self._refuse_broken(pl_module.measured["loss"])
            self._logbook.flush()
        if reason or step % self._config.checkpoint_every == 0:
            self._save(self.progress)
        if reason:
            _logger.info("%s at step %d of %d", reason, step, self._config.max_steps)
            trainer.should_stop = True
        self._since = time.monotonic()

    def _count(self, batch: Batch, seconds: float) -> None:
        progress = self.progress
        if batch.position < progress.position:
            progress.epoch += 1
        progress.position = batch.position + 1
        progress.step += 1
        progress.seconds += seconds

    def _zero_shot(self, module: PretrainingModule) -> float | None:
        every, step = self._config.zero_shot.every, self.progress.step
        if self._check is None or not every or (step % every and step != self._config.max_steps):
            return None
        aurocs = self._check.run(module.model, device=module.device)
        macro = sum(aurocs.values()) / len(aurocs)
        self._latest_check = macro
        if self.progress.best is None or macro > self.progress.best:
            self.progress.best, self.progress.best_step = macro, step
            self._save_best()
        return macro

    def _refuse_broken(self, loss: torch.Tensor) -> None:
        if not bool(torch.isfinite(loss)):
            raise ConfigError(
                f"the loss is not a finite number at step {self.progress.step}; lower optimizer.lr, lengthen "
                "schedule.warmup_steps, or use precision bf16-mixed or 32"
            )

    def _reason_to_stop(self) -> str | None:
        if self.progress.step >= self._config.max_steps:
            return "finished"
        if self._stop:
            return f"stopped by {self._stop.name}"
        minutes = self._config.max_minutes
        if minutes is not None and self.progress.seconds >= 60.0 * minutes:
            return f"finished: {minutes:g} minutes are over"
        return None
