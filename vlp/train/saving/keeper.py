"""Between a running training and its checkpoints: what is taken down, what is put back, what the last one becomes."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from vlp.model import checkpoint
from vlp.model.adapters import merge_adapters
from vlp.model.model import VisionLanguageModel
from vlp.train.processes import Processes
from vlp.train.saving.state import (
    Progress,
    read_averaged,
    read_state,
    snapshot,
    versions,
    write_averaged,
    write_state,
)
from vlp.train.saving.store import CheckpointStore
from vlp.train.scale.averaging import Averaged, AveragingConfig
from vlp.train.scale.sharding import full_optimizer_state, full_weights, load_full_optimizer_state, load_full_weights


@dataclass(kw_only=True)
class Keeper(pl.Callback):
    """Saves a running training, and gives one its state back.

    Every process has one, since a sharded model is gathered from all; only the one that leads writes.
    """

    store: CheckpointStore
    model: VisionLanguageModel
    progress: Progress
    processes: Processes
    leads: bool
    settings: Mapping[str, Any]
    """The resolved configuration."""
    shards: Mapping[str, str]
    """Archive -> SHA-256 of its manifest."""
    card: Callable[[], Mapping[str, Any]]
    averaging: AveragingConfig | None = None
    start: Path | None = None
    """The checkpoint that this start of the run goes on from."""
    _averaged: Averaged | None = field(default=None, init=False)
    _trainer: pl.Trainer | None = field(default=None, init=False)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gives average, optimizer and gradient scaler their state back, once the model is where it is trained."""
        self._trainer = trainer
        if self.averaging is not None:
            self._averaged = Averaged(self.model, self.averaging)
        if self.start is not None:
            self._put_back(self.start)

    def follow(self, step: int) -> None:
        """Takes the weights after `step` trained steps into the average, if there is one."""
        if self._averaged is not None:
            self._averaged.update(step)

    def evaluated(self) -> AbstractContextManager[None]:
        """Inside the block the model has the weights that the run is for: the average, where there is one."""
        return nullcontext() if self._averaged is None else self._averaged.applied()

    def save(self, score: float | None = None) -> None:
        """Takes the training down as it is now, and writes it while training goes on.

        Raises:
            CheckpointError: if the checkpoint before could not be written.
        """
        assert self._trainer is not None
        weights = full_weights(self.model, keep=self.leads)
        optimizer = full_optimizer_state(self._trainer.optimizers[0], keep=self.leads)
        averages = None if self._averaged is None else self._averaged.state()
        if not self.leads:
            return
        weights, optimizer, averages = snapshot((weights, optimizer, averages))
        scaler = snapshot(self._trainer.precision_plugin.state_dict())
        progress, card = copy(self.progress), dict(self.card())

        def write(folder: Path) -> None:
            checkpoint.write(folder, self.model, card=card, weights=weights)
            if averages is not None:
                write_averaged(folder, averages)
            write_state(
                folder, progress=progress, optimizer_state=optimizer, scaler=scaler, shards=dict(self.shards),
                versions=versions(), config=dict(self.settings),
            )  # fmt: skip

        self.store.save(progress.step, write, score=score)

    def go_back(self) -> bool:
        """Puts weights, average and optimizer back to the newest checkpoint; False where there is none.

        The position is not put back: the batches that led here are not seen again.
        """
        if self.leads:
            self.store.wait()
        self.processes.wait()
        newest = self.store.newest()
        if newest is None:
            return False
        load_full_weights(self.model, checkpoint.read_weights(newest))
        self._put_back(newest)
        return True

    def finish(self, target: Path, *, best: bool) -> None:
        """Makes the model that the run was for, from the last checkpoint or the best; adapters are folded in.

        Raises:
            CheckpointError: if a checkpoint could not be written, or is damaged.
        """
        self.store.wait()
        source = (self.store.best() if best else None) or self.store.newest()
        assert source is not None, "a run saves its last step"
        model = checkpoint.load(source)
        averages = read_averaged(source)
        if averages is not None:
            model.load_state_dict(model.state_dict() | averages)
        merge_adapters(model)
        checkpoint.save(target, model, card=checkpoint.read_card(source) | {"averaged": averages is not None})

    def _put_back(self, folder: Path) -> None:
        assert self._trainer is not None
        state, averages = read_state(folder), read_averaged(folder)
        load_full_optimizer_state(self._trainer.optimizers[0], state.optimizer)
        self._trainer.precision_plugin.load_state_dict(state.scaler)
        if self._averaged is not None and averages is not None:
            self._averaged.load(averages)
