"""A whole pretraining run: start it, or continue it, with the same call, on one process or several."""

import hashlib
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from vlp import log
from vlp.config import dump
from vlp.data import overlap
from vlp.data.joint import describe_difference, digests, open_archives
from vlp.data.loader import num_batches, plan_epoch
from vlp.data.reader import ShardReader
from vlp.data.transport import worker_death
from vlp.errors import DataError
from vlp.model import checkpoint
from vlp.model.model import VisionLanguageModel, build
from vlp.train import validate
from vlp.train.boundary import COLUMNS, Instruments, StepBoundary, reason_to_finish
from vlp.train.config import TrainConfig
from vlp.train.folder import RunFolder, logging_to, write_text
from vlp.train.module import PretrainingModule
from vlp.train.processes import Place, Processes, ending_together, find_place, standing_at
from vlp.train.saving.card import make_card
from vlp.train.saving.keeper import Keeper
from vlp.train.saving.lock import RunLock
from vlp.train.saving.resume import Start, find_start, refuse_other
from vlp.train.saving.state import Progress, describe_versions, versions
from vlp.train.saving.store import CheckpointStore, RetainConfig
from vlp.train.scale.features import ensure_features, refuse_features
from vlp.train.scale.resolution import check_stages
from vlp.train.signals import StopFlag, Stopped
from vlp.train.stream import BatchStream
from vlp.train.trainer import (
    make_trainer,
    num_workers,
    prepare_model,
    quiet_lightning,
    refuse_what_cannot_run,
    share_batch_statistics,
    threads,
    uses_gpu,
)
from vlp.train.watching.display import Display
from vlp.train.watching.logbook import Logbook, MetricsFile, SamplesFile, Sink, note_start
from vlp.train.watching.tensorboard_log import TensorboardLog
from vlp.train.watching.wandb_log import WandbLog
from vlp.train.watching.watchdog import Watchdog

_logger = log.get_logger(__name__)


def train(config: TrainConfig) -> Path:
    """Trains to the end and returns the run folder; an unfinished run there is continued, a finished one left alone.

    The folder gets config.yaml, metrics.csv (one row a step), log.txt, samples.parquet where asked,
    checkpoints/step-* (to continue from) and, at the end, checkpoints/final (to use).

    With several processes each of them calls this, and it returns when the run folder is complete.  A process that
    was started by another one of the run does not return at all: it ends.

    Raises:
        ConfigError: if the folder holds a run of another configuration, or the configuration cannot be run.
        DataError: if the shards cannot be used or are not those the run began with, `output` cannot be written, or
            another job writes it.
        CheckpointError: if no checkpoint of a run is whole, or one cannot be written.
        BackendError: if a device or library that is asked for is not there, or another process of the run is gone.
        Stopped: after SIGINT, SIGTERM or SIGUSR1, once the checkpoint is saved.
    """
    try:
        place = find_place(devices=config.devices, nodes=config.nodes)
        with standing_at(place):
            return _train(config, place)
    except RuntimeError as error:  # torch says so from a signal handler: it can come out of any line
        if (death := worker_death(error)) is None:
            raise
        raise death from None
    except OSError as error:
        raise DataError(f"{config.output}: the run cannot be read or written: {error.strerror or error}") from None


def _train(config: TrainConfig, place: Place) -> Path:
    refuse_what_cannot_run(config)
    folder = RunFolder(config.output)
    reader = open_archives(config.shards, remote=config.remote)
    batches = num_batches(reader, split="train", config=config.loader, world=place.world)
    with ExitStack() as stack:
        if place.leads:
            folder.checkpoints.mkdir(parents=True, exist_ok=True)
            stack.enter_context(RunLock(folder.run))
        store = CheckpointStore(folder.checkpoints, _retained(config))
        stack.enter_context(logging_to(folder.run / "log.txt", leads=place.leads))
        start = find_start(store, where=folder.checkpoints)
        if start is not None:
            worlds = (start.progress.world, place.world)
            refuse_other(folder.config, config, worlds=worlds)
            if folder.final.exists() and reason_to_finish(config, start.progress):
                _logger.info("%s: finished before, at step %d", config.output, start.progress.step)
                return config.output
        stack.enter_context(quiet_lightning())
        stop = stack.enter_context(StopFlag().listening())
        run = _Run(config, folder, reader, place=place, store=store, start=start, batches=batches, stop=stop)
        if place.launched:
            _end_with(run)
        run.go()
    return config.output


def _retained(config: TrainConfig) -> RetainConfig:
    """What stays; the best one must, if it is to be the run's model."""
    best = max(config.retain.best, 1) if config.keep == "best" else config.retain.best
    return config.retain.model_copy(update={"best": best})


def _end_with(run: "_Run") -> None:
    """The whole life of a launched process: its command line has nothing to say that the first one's does not."""
    try:
        run.go()
    except Stopped:
        raise SystemExit(0) from None  # as it was told; any other status would read as a failure
    raise SystemExit(0)


class _Run:
    """The pieces of one start of a run, and the order they are used in."""

    def __init__(
        self,
        config: TrainConfig,
        folder: RunFolder,
        reader: ShardReader,
        *,
        place: Place,
        store: CheckpointStore,
        start: Start | None,
        batches: int,
        stop: StopFlag,
    ) -> None:
        self.config = config
        self.folder = folder
        self.reader = reader
        self.place = place
        self.store = store
        self.processes = Processes()
        self.batches = batches
        self.stop = stop
        self.start = start
        self.workers = num_workers(config)
        self.shards = digests(reader)
        self.sources = overlap.sources(reader, "train")
        self.progress = self._progress()
        self.model = self._model()
        check_stages(config.resolution, full=config.model.preprocess.rows_columns, tower=self.model.image_tower)
        if config.feature_cache is not None:
            refuse_features(self.model, config.loader)
        share_batch_statistics(self.model, config, place=place)
        self.module = PretrainingModule(self.model, config, step=self.progress.step)
        self.keeper = Keeper(
            store=store,
            model=self.model,
            progress=self.progress,
            processes=self.processes,
            leads=place.leads,
            settings=config.model_dump(mode="json"),
            shards=self.shards,
            card=self._card,
            averaging=config.averaging,
            start=start.checkpoint if start else None,
        )
        if place.leads:
            write_text(folder.config, dump(config))

    def go(self) -> None:
        """Trains what is left, then writes the final checkpoint."""
        config, progress = self.config, self.progress
        self._tell()
        if not reason_to_finish(config, progress):
            self._fit()
        finished = reason_to_finish(config, progress)
        if self.place.leads:
            self.store.wait()
            if finished:
                self.keeper.finish(self.folder.final, best=config.keep == "best")
        self.processes.wait()
        self.processes.part()
        if not finished and self.stop:
            _logger.info("checkpoint saved; the same command continues from step %d", progress.step)
            raise Stopped(self.stop.number)

    def _progress(self) -> Progress:
        """How far the run is, in epochs and batches as this many processes count them.

        Raises:
            DataError: if the archives are not those the run began with.
        """
        start, place = self.start, self.place
        if start is None:
            return Progress(world=place.world)
        if difference := describe_difference(start.state.shards, self.shards):
            raise DataError(f"{self.folder.run}: not the shards this run began with; name another output: {difference}")
        if changed := describe_versions(start.state.versions, versions()):
            _logger.warning("continuing with other versions: %s", changed)
        progress, batch = start.progress, start.state.config["loader"]["batch_studies"]
        if (progress.world, batch) != (place.world, self.config.loader.batch_studies):
            before = self.config.loader.model_copy(update={"batch_studies": batch})
            plan = plan_epoch(self.reader, split="train", config=before, world=progress.world, epoch=progress.epoch,
                              consumed=progress.consumed)  # fmt: skip
            progress.consumed, progress.position = plan.consumed_before(progress.position), 0
            if progress.consumed == plan.num_studies:
                progress.epoch, progress.consumed = progress.epoch + 1, 0
            _logger.info("%d processes instead of %d: %d studies of epoch %d are trained", place.world, progress.world,
                         progress.consumed, progress.epoch)  # fmt: skip
            progress.world = place.world
        return progress

    def _tell(self) -> None:
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

    def _fit(self) -> None:
        config, place = self.config, self.place
        check = None
        # Shares of a sharded tower are put together by all processes: then all make the check.
        if config.zero_shot.every and (place.leads or config.strategy == "fsdp"):
            check = validate.prepare(self.reader, config.zero_shot, preprocess=config.model.preprocess)
            if check is None:
                _logger.warning("no zero-shot check: the validation split has no finding with enough studies")
        logbook = self._logbook()
        trainer = make_trainer(config, self.module, place=place)
        prepare_model(self.model, config)
        stream = self._stream()
        watchdog = Watchdog(self.folder.run / "heartbeats", rank=place.rank, world=place.world, config=config.watchdog)
        try:
            with Display(first=self.progress.step, total=config.max_steps) as display, watchdog, threads(config):
                instruments = Instruments(
                    folder=self.folder,
                    logbook=logbook,
                    display=display,
                    watchdog=watchdog,
                    place=place,
                    processes=self.processes,
                    stop=self.stop,
                    keeper=self.keeper,
                    check=check,
                )
                boundary = StepBoundary(config, instruments, progress=self.progress)
                trainer.callbacks.extend([self.keeper, boundary, _Features(self, stream)])
                with ending_together(trainer.strategy.launcher, place):
                    trainer.fit(self.module, train_dataloaders=stream)
        finally:
            logbook.finish()

    def _stream(self) -> BatchStream:
        progress = self.progress
        return BatchStream(
            reader=self.reader,
            config=self.config.loader,
            preprocess=self.config.model.preprocess,
            tokenizer=self.model.tokenizer,
            epoch=progress.epoch,
            position=progress.position,
            consumed=progress.consumed,
            rank=self.place.rank,
            world=self.place.world,
            workers=self.workers,
            on_gpu=uses_gpu(self.config),
        )

    def _model(self) -> VisionLanguageModel:
        if self.start is not None:
            return checkpoint.load(self.start.checkpoint).train()
        pl.seed_everything(self.config.seed, verbose=False)
        return build(self.config.model).train()

    def _logbook(self) -> Logbook:
        folder, after, leads = self.folder, self.progress.step, self.place.leads
        sinks: list[Sink] = []
        if leads:
            note_start(folder.run / "starts.csv", step=after, processes=self.place.world)
            run_id = hashlib.sha256(str(folder.run.absolute()).encode()).hexdigest()[:12]
            sinks.append(
                WandbLog(
                    self.config.wandb, folder=folder.run, settings=self.config.model_dump(mode="json"), run_id=run_id
                )
            )
        if leads and self.config.tensorboard:
            sinks.append(TensorboardLog(folder.run / "tensorboard", after_step=after))
        samples = folder.samples if self.config.record_samples else None
        columns = ("step", "epoch", *self.module.columns, *COLUMNS)
        return Logbook(
            metrics=MetricsFile(folder.metrics if leads else None, columns, after_step=after),
            samples=SamplesFile(samples, after_step=after, processes=self.processes, leads=leads),
            sinks=sinks,
        )

    def _card(self) -> dict[str, Any]:
        return make_card(self.config, self.progress, self.reader, shards=self.shards, sources=self.sources,
                         batches=self.batches)  # fmt: skip


class _Features(pl.Callback):
    """Gives the stream what a frozen tower says of the images, once processes are connected and the model is placed."""

    def __init__(self, run: _Run, stream: BatchStream) -> None:
        self._run = run
        self._stream = stream

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        run, config = self._run, self._run.config
        if config.feature_cache is None:
            return
        try:
            self._stream.features = ensure_features(
                run.model,
                run.reader,
                loader=config.loader,
                config=config.feature_cache,
                folder=run.folder.run / "features",
                shards=run.shards,
                workers=run.workers,
                processes=run.processes,
                stop=run.stop,
                rank=run.place.rank,
                world=run.place.world,
                precision=str(trainer.precision).removesuffix("-true"),
            )
        except KeyboardInterrupt:
            trainer.should_stop = True
