"""A whole pretraining run: start it, or continue it, with the same call, on one process or several."""

import hashlib
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from vlp import log
from vlp.config import dump
from vlp.data import ShardReader, open_shards, overlap
from vlp.data.loader import num_batches
from vlp.data.manifest import shards_digest
from vlp.errors import DataError
from vlp.model import checkpoint
from vlp.model.model import VisionLanguageModel, build
from vlp.train import validate
from vlp.train.boundary import StepBoundary, reason_to_finish
from vlp.train.config import TrainConfig
from vlp.train.display import Display
from vlp.train.logbook import Logbook, MetricsFile, SamplesFile, read_metrics
from vlp.train.module import PretrainingModule
from vlp.train.processes import Place, Processes, ending_together, find_place, standing_at
from vlp.train.resume import Progress, latest, load_state, refuse_other, save_state
from vlp.train.signals import StopFlag
from vlp.train.stream import BatchStream
from vlp.train.trainer import make_trainer, quiet_lightning, refuse_what_cannot_run, share_batch_statistics
from vlp.train.wandb_log import WandbConfig, WandbLog

_logger = log.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Folder:
    """Where things lie in a run folder."""

    run: Path

    @property
    def config(self) -> Path:
        return self.run / "config.yaml"

    @property
    def metrics(self) -> Path:
        return self.run / "metrics.csv"

    def checkpoint(self, name: str) -> Path:
        return self.run / "checkpoints" / name


def train(config: TrainConfig) -> Path:
    """Trains to the end and returns the run folder; an unfinished run there is continued, a finished one left alone.

    The folder gets config.yaml, metrics.csv (one row a step), log.txt, samples.parquet where asked,
    checkpoints/last (to continue from) and, at the end, checkpoints/final (to use).

    With several processes each of them calls this, and it returns when the run folder is complete.  A process that
    was started by another one of the run does not return at all: it ends.

    Raises:
        ConfigError: if the folder holds a run of another configuration, or the configuration cannot be run.
        DataError: if the shards cannot be used or are not those the run began with, or `output` cannot be written.
        CheckpointError: if checkpoints/last is damaged.
        BackendError: if a device or library that is asked for is not there, or another process of the run is gone.
        KeyboardInterrupt: after SIGINT, SIGTERM or SIGUSR1, once the checkpoint is saved.
    """
    try:
        place = find_place(devices=config.devices, nodes=config.nodes)
        with standing_at(place):
            return _train(config, place)
    except OSError as error:
        raise DataError(f"{config.output}: the run cannot be read or written: {error.strerror or error}") from None


def _train(config: TrainConfig, place: Place) -> Path:
    refuse_what_cannot_run(config)
    folder = _Folder(config.output)
    saved = latest(folder.checkpoint("last"))
    state = None
    if saved is not None:
        refuse_other(folder.config, config)
        state = load_state(saved)
        if folder.checkpoint("final").exists() and reason_to_finish(config, state["progress"]):
            _logger.info("%s: finished before, at step %d", config.output, state["progress"].step)
            return config.output
    reader = open_shards(config.shards)
    batches = num_batches(reader, split="train", config=config.loader, world=place.world)
    if place.leads:
        folder.checkpoint("last").parent.mkdir(parents=True, exist_ok=True)
    with _log_file(folder.run / "log.txt", place), quiet_lightning(), StopFlag().listening() as stop:
        run = _Run(config, folder, reader, place=place, saved=saved, state=state, batches=batches, stop=stop)
        if place.launched:
            _end_with(run)
        run.go()
    return config.output


def _end_with(run: "_Run") -> None:
    """The whole life of a launched process: its command line has nothing to say that the first one's does not."""
    try:
        run.go()
    except KeyboardInterrupt:
        raise SystemExit(0) from None  # stopped as it was told; any other status would read as a failure
    raise SystemExit(0)


def summary(run: Path) -> dict[str, Any]:
    """What a run came to, from its own files: steps, the last loss and check, speed, the checkpoint."""
    rows = read_metrics(run / "metrics.csv")
    final = run / "checkpoints" / "final"
    facts: dict[str, Any] = {"run": str(run), "finished": final.exists(), "steps": len(rows)}
    if rows:
        checks = [row["zero_shot_auroc"] for row in rows if row["zero_shot_auroc"]]
        speeds = sorted(float(row["images_per_s"]) for row in rows)
        facts |= {
            "epochs": int(rows[-1]["epoch"]) + 1,
            "loss": float(rows[-1]["loss"]),
            "zero_shot_auroc": float(checks[-1]) if checks else None,
            "images_per_s": round(speeds[len(speeds) // 2], 1),
        }
    if final.exists():
        facts["checkpoint"] = str(final)
    return facts


class _Run:
    """The pieces of one start of a run, and the order they are used in."""

    def __init__(
        self,
        config: TrainConfig,
        folder: _Folder,
        reader: ShardReader,
        *,
        place: Place,
        saved: Path | None,
        state: dict[str, Any] | None,
        batches: int,
        stop: StopFlag,
    ) -> None:
        self.config = config
        self.folder = folder
        self.reader = reader
        self.place = place
        self.processes = Processes()
        self.batches = batches
        self.stop = stop
        self.state = state
        self.shards = shards_digest(config.shards)
        self.sources = overlap.sources(reader, "train")
        self.progress: Progress = state["progress"] if state else Progress()
        if state and state["shards"] != self.shards:
            raise DataError(f"{config.shards}: not the shards this run began with; name another output")
        self.model = self._model(saved)
        share_batch_statistics(self.model, config, place=place)
        self.module = PretrainingModule(self.model, config, step=self.progress.step)
        if not saved and place.leads:
            _write_text(folder.config, dump(config))

    def go(self) -> None:
        """Trains what is left, then writes the final checkpoint."""
        config, progress = self.config, self.progress
        counts = ", ".join(
            f"{name} {sum(parameter.numel() for parameter in parameters) / 1e6:.2f} M"
            for name, parameters in self.model.parameter_groups().items()
        )
        _logger.info("trainable parameters: %s", counts)
        _logger.info("%d batches an epoch, %d steps: %.1f epochs", self.batches, config.max_steps,
                     config.max_steps / self.batches)  # fmt: skip
        if self.place.leads:  # ranks share the shards; one look and one warning are enough
            held_back = {*overlap.sources(self.reader, "val"), *overlap.sources(self.reader, "test")}
            for found in overlap.warnings(self.sources, held_back, same_shards=True):
                _logger.warning("%s", found.message)
        if progress.step:
            _logger.info("continuing after step %d (epoch %d, batch %d)", progress.step, progress.epoch,
                         progress.position)  # fmt: skip
        if not reason_to_finish(config, progress):
            self._fit()
        stopped = self.stop and not reason_to_finish(config, progress)
        if not stopped and self.place.leads:
            self._finish()
        self.processes.wait()
        self.processes.part()
        if stopped:
            _logger.info("checkpoint saved; the same command continues from step %d", progress.step)
            raise KeyboardInterrupt(self.stop.name)

    def _fit(self) -> None:
        config, progress, place = self.config, self.progress, self.place
        check = None
        if config.zero_shot.every and place.leads:
            check = validate.prepare(self.reader, config.zero_shot, preprocess=config.model.preprocess)
            if check is None:
                _logger.warning("no zero-shot check: the validation split has no finding with enough studies")
        logbook, wandb = self._logbook()
        trainer = make_trainer(config, self.module, place=place)
        stream = BatchStream(
            reader=self.reader,
            config=config.loader,
            preprocess=config.model.preprocess,
            tokenizer=self.model.tokenizer,
            epoch=progress.epoch,
            position=progress.position,
            rank=place.rank,
            world=place.world,
        )
        self.trainer = trainer
        try:
            with Display(first=progress.step, total=config.max_steps) as display:
                boundary = StepBoundary(
                    config,
                    progress=progress,
                    logbook=logbook,
                    display=display,
                    check=check,
                    stop=self.stop,
                    processes=self.processes,
                    save=self._save,
                    save_best=self._save_best,
                )
                trainer.callbacks.extend([_Restore(self.state), boundary])
                with ending_together(trainer.strategy.launcher, place):
                    trainer.fit(self.module, train_dataloaders=stream)
        finally:
            wandb.finish()

    def _model(self, saved: Path | None) -> VisionLanguageModel:
        if saved is not None:
            return checkpoint.load(saved).train()
        pl.seed_everything(self.config.seed, verbose=False)
        return build(self.config.model).train()

    def _logbook(self) -> tuple[Logbook, WandbLog]:
        after, leads = self.progress.step, self.place.leads
        columns = ("step", "epoch", *self.module.columns, "images_per_s", "zero_shot_auroc")
        run_id = hashlib.sha256(str(self.folder.run.absolute()).encode()).hexdigest()[:12]
        wandb = WandbLog(
            self.config.wandb if leads else WandbConfig(mode="disabled"),
            folder=self.folder.run,
            settings=self.config.model_dump(mode="json"),
            run_id=run_id,
        )
        samples = self.folder.run / "samples.parquet" if self.config.record_samples else None
        logbook = Logbook(
            metrics=MetricsFile(self.folder.metrics if leads else None, columns, after_step=after),
            samples=SamplesFile(samples, after_step=after, processes=self.processes, leads=leads),
            wandb=wandb,
        )
        return logbook, wandb

    def _save(self, progress: Progress) -> None:
        if not self.place.leads:
            return
        target = self.folder.checkpoint("last")
        building = target.with_name(f".{target.name}.building")
        checkpoint.save(building, self.model, card=self._card())
        scaler = self.trainer.precision_plugin.state_dict()
        save_state(building, progress=progress, optimizer=self.trainer.optimizers[0], scaler=scaler, shards=self.shards)
        checkpoint.take_place(building, target)

    def _save_best(self) -> None:
        if self.config.keep == "best":
            checkpoint.save(self.folder.checkpoint("best"), self.model, card=self._card())

    def _finish(self) -> None:
        final, best = self.folder.checkpoint("final"), checkpoint.latest(self.folder.checkpoint("best"))
        # Without a check in this run's own progress, a best lies there from a start that saved nothing else.
        if self.config.keep == "best" and best is not None and self.progress.best is not None:
            building = final.with_name(f".{final.name}.building")
            shutil.rmtree(building, ignore_errors=True)
            shutil.copytree(best, building)
            checkpoint.take_place(building, final)
            _logger.info("final checkpoint: step %d, the best zero-shot check", self.progress.best_step)
        else:
            checkpoint.save(final, self.model, card=self._card())
        _logger.info("finished: %s", final)

    def _card(self) -> dict[str, Any]:
        progress, manifest = self.progress, self.reader.manifest
        return {
            "step": progress.step,
            "epochs": round(progress.epoch + progress.position / self.batches, 2),
            "studies_per_batch": self.config.loader.batch_studies * self.place.world,
            "training_minutes": round(progress.seconds / 60.0, 1),
            "objective": self.config.objective.kind,
            "zero_shot_check_auroc": None if progress.best is None else round(progress.best, 4),
            "shards_sha256": self.shards,
            "sources": list(self.sources),
            "synthetic_data": manifest.synthetic,
            "sentences_from": manifest.sentences_origin,
            "licenses": manifest.licenses,
            "seed": self.config.seed,
        }


class _Restore(pl.Callback):
    """Gives optimizer and gradient scaler their state back, once Lightning has made them."""

    def __init__(self, state: dict[str, Any] | None) -> None:
        self._state = state

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._state is not None:
            trainer.optimizers[0].load_state_dict(self._state["optimizer"])
            trainer.precision_plugin.load_state_dict(self._state["scaler"])


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


@contextmanager
def _log_file(path: Path, place: Place) -> Iterator[None]:
    """Sends the package's log lines to a file as well; from the process that leads, since the others are silent."""
    if not place.leads:
        yield
        return
    logger = logging.getLogger("vlp")
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(message)s"))
    level = logger.level
    logger.setLevel(level or logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
        logger.setLevel(level)
