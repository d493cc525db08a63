"""`vlp train` of a segmentation head: a frozen encoder, few masks, and a comparison with the map it began as.

The same call starts and continues.  Nothing is random beyond the seed: order, dropout and learning rate are functions
of (seed, step), so weights, optimizer and step are the whole state.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vlp.config import dump
from vlp.data.cache import cache_of
from vlp.data.feature_store import FeatureStore
from vlp.data.reader import ShardReader, open_shards
from vlp.errors import ConfigError, DataError
from vlp.evaluate.results import RESULTS_FILE, Result, read_results, write_results
from vlp.heads import compare
from vlp.heads.config import SegmentationHeadConfig
from vlp.heads.encoder import Encoder, Seen
from vlp.heads.features import ensure_features
from vlp.heads.head import (
    CARD_FILE,
    HEAD_FOLDER,
    WEIGHTS_FILE,
    Head,
    HeadCard,
    load_head,
    make_network,
    put_weights,
    read_weights,
    save_head,
    weights_of,
    write_weights,
)
from vlp.heads.loss import mask_loss
from vlp.heads.studies import keys_of, refuse_shared_patients
from vlp.heads.targets import Item, Targets, classes_of, prompt_of, read_items
from vlp.inference.engine import Engine, load
from vlp.log import get_logger, progress
from vlp.prompts.descriptors import load_descriptors
from vlp.tensors import ImageFeatures
from vlp.train.folder import RunFolder, logging_to, write_text
from vlp.train.optimizer import make_optimizer, set_lr
from vlp.train.saving.lock import RunLock
from vlp.train.saving.resume import Start, find_start, refuse_other
from vlp.train.saving.state import Progress, describe_versions, snapshot, versions, write_state
from vlp.train.saving.store import CheckpointStore, RetainConfig
from vlp.train.signals import StopFlag, Stopped
from vlp.train.watching.logbook import MetricsFile

ROWS_FILE = "predictions/segmentation.parquet"
_COLUMNS = ("step", "epoch", "loss", "cross_entropy", "dice_loss", "lr", "images_per_s")
_logger = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadRun:
    """What a training of a head came to."""

    folder: Path
    head: Path
    card: HeadCard
    results: list[Result]


def train_head(config: SegmentationHeadConfig) -> HeadRun:
    """Trains a head, or goes on with one, and compares it with the zero-shot map of its encoder.

    Raises:
        ConfigError: if the folder holds a run of another configuration, or the configuration cannot be run.
        DataError: if the shards cannot be used or are not those the run began with, or the folder cannot be written.
        CheckpointError: for an encoder that cannot be loaded, or checkpoints of the run that are damaged.
        Stopped: after SIGINT, SIGTERM or SIGUSR1, once the checkpoint is saved.
    """
    folder = RunFolder(config.output)
    engine = load(config.encoder, device=config.device)
    reader = open_shards(config.shards)
    refuse_shared_patients(reader, ("train", config.threshold_split, config.split))
    try:
        with ExitStack() as stack:
            stack.enter_context(RunLock(folder.run))
            stack.enter_context(logging_to(folder.run / "log.txt", leads=True))
            stop = stack.enter_context(StopFlag().listening())
            store = CheckpointStore(folder.checkpoints, RetainConfig())
            start = find_start(store, where=folder.checkpoints)
            if start is not None:
                refuse_other(folder.config, config)
            write_text(folder.config, dump(config))
            return _train(config, folder, engine, reader, store=store, start=start, stop=stop)
    except OSError as error:
        raise DataError(f"{config.output}: the run cannot be read or written: {error.strerror or error}") from None


def _train(
    config: SegmentationHeadConfig,
    folder: RunFolder,
    engine: Engine,
    reader: ShardReader,
    *,
    store: CheckpointStore,
    start: Start | None,
    stop: StopFlag,
) -> HeadRun:
    target = folder.run / HEAD_FOLDER
    identity = {"encoder": engine.fingerprint, "shards": reader.digest()}
    if start is not None and (other := [name for name in identity if start.state.shards.get(name) != identity[name]]):
        raise DataError(f"{folder.run}: not the {' and '.join(other)} this run began with; name another output")
    done = (target / CARD_FILE).is_file() and (folder.run / RESULTS_FILE).is_file()
    if done and start is not None and start.progress.step >= config.max_steps:
        _logger.info("%s: finished before, at step %d", config.output, start.progress.step)
    else:
        training = _Training(config, folder, engine, reader, store=store, start=start, identity=identity)
        training.go(stop)
        _finish(training, reader, target, stop=stop)
    head = load_head(target, engine)
    return HeadRun(folder=folder.run, head=target, card=head.card, results=read_results(folder.run))


class _Training:
    """The pieces of one start of a training."""

    def __init__(
        self,
        config: SegmentationHeadConfig,
        folder: RunFolder,
        engine: Engine,
        reader: ShardReader,
        *,
        store: CheckpointStore,
        start: Start | None,
        identity: dict[str, str],
    ) -> None:
        self.config, self.folder, self.engine, self.store, self.identity = config, folder, engine, store, identity
        self.progress = start.progress if start is not None else Progress()
        if start is not None and (changed := describe_versions(start.state.versions, versions())):
            _logger.warning("continuing with other versions: %s", changed)
        descriptors = load_descriptors()
        self.items = _items(config, reader)
        self.classes = _classes(config, self.items)
        self.prompts = tuple(prompt_of(name, descriptors) for name in self.classes)
        torch.manual_seed(config.seed)
        self.encoder = Encoder(engine, thaw=config.thaw)
        self.network = make_network(engine, config.decoder, conditioning=config.conditioning, classes=len(self.classes))
        self.optimizer = make_optimizer(self._groups(), config.optimizer)
        if start is not None:
            file = start.checkpoint / WEIGHTS_FILE
            put_weights(read_weights(file), self.network, self.encoder, where=file)
            self.optimizer.load_state_dict(start.state.optimizer)
        self.images = cache_of(reader, engine.model.config.preprocess, limit_bytes=config.cache_bytes)
        self.reader = reader
        seen = progress(self.items, description="masks", unit="images")
        placements = [self.images.get(reader, item.key, item.index).placement for item in seen]
        rows, columns = engine.model.grid
        size = rows * self.network.scale, columns * self.network.scale
        self.targets = Targets(self.items, placements, self.classes, size=size)
        self.store_of_features: FeatureStore | None = None
        if not self.encoder.thawed:
            places = [(item.key, item.index) for item in self.items]
            self.store_of_features = ensure_features(
                folder.run / "features", engine, self.encoder, reader, places, cache=self.images
            )
        self.texts = self.encoder.texts(self.prompts)
        self.units = self.encoder.units(self.texts)

    def facts(self) -> dict[str, Any]:
        """On what the head was trained and how, as JSON values."""
        return {
            "shards": self.identity["shards"],
            "patients": len({item.patient for item in self.items}),
            "images": len(self.items),
            "masks": self.targets.num_masks,
            "share": self.config.share,
            "steps": self.progress.step,
            "seconds": round(self.progress.seconds, 1),
            "seed": self.config.seed,
            "weights": sum(value.numel() for value in weights_of(self.network, self.encoder).values()),
        }

    def go(self, stop: StopFlag) -> None:
        """Trains what is left.

        Raises:
            Stopped: after a signal, once the checkpoint is saved.
        """
        config, first = self.config, self.progress.step
        facts = self.facts()
        _logger.info("head: %d classes, %d masks on %d images of %d patients, %.2f M weights", len(self.classes),
                     facts["masks"], facts["images"], facts["patients"], facts["weights"] / 1e6)  # fmt: skip
        if first:
            _logger.info("continuing after step %d", first)
        metrics = MetricsFile(self.folder.metrics, _COLUMNS, after_step=first)
        self.network.train()
        for step in progress(range(first, config.max_steps), description="training the head", unit="steps"):
            metrics.append(self._step(step))
            self.progress.step = step + 1
            last = self.progress.step == config.max_steps
            if last or stop or self.progress.step % config.checkpoint_every == 0:
                metrics.flush()
                self._save()
            if stop and not last:
                self.store.wait()
                _logger.info("checkpoint saved; the same command continues from step %d", self.progress.step)
                raise Stopped(stop.number)
        self.store.wait()
        self.network.eval()

    def _step(self, step: int) -> dict[str, Any]:
        config, began = self.config, time.monotonic()
        epoch, rows = _order(step, num=len(self.items), batch=config.batch_images, seed=config.seed)
        torch.manual_seed((config.seed << 32) + step)  # of dropout, so that a continued run draws the same
        rate = config.optimizer.lr * config.schedule.share(step, max_steps=config.max_steps)
        set_lr(self.optimizer, rate)
        truth, known, valid = (values.to(self.engine.device) for values in self.targets.of(rows))
        seen = self._seen(rows)
        logits = self.network(seen, self.units, self.encoder.maps(self.texts, seen))
        loss = mask_loss(logits, truth, known, valid)
        total = loss.cross_entropy + config.dice_weight * loss.dice
        if not torch.isfinite(total):
            raise ConfigError(f"the loss is no finite number at step {step + 1}; lower optimizer.lr")
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(self._learning(), config.gradient_clip)
        self.optimizer.step()
        seconds = time.monotonic() - began
        self.progress.seconds += seconds
        return {
            "step": step + 1,
            "epoch": epoch,
            "loss": total.detach(),
            "cross_entropy": loss.cross_entropy.detach(),
            "dice_loss": loss.dice.detach(),
            "lr": rate,
            "images_per_s": len(rows) / seconds,
        }

    def _seen(self, rows: Sequence[int]) -> Seen:
        places = [(self.items[row].key, self.items[row].index) for row in rows]
        if self.store_of_features is None:
            return self.encoder.see([self.images.get(self.reader, key, index) for key, index in places])
        parts = [self.store_of_features.get(key, index) for key, index in places]
        return self.encoder.projected(ImageFeatures.joined(parts).float().to(self.engine.device))

    def _groups(self) -> dict[str, list[nn.Parameter]]:
        return {"image": list(self.encoder.learned().values()), "rest": list(self.network.parameters())}

    def _learning(self) -> Iterator[Tensor]:
        for parameters in self._groups().values():
            yield from parameters

    def _save(self) -> None:
        taken = snapshot((weights_of(self.network, self.encoder), self.optimizer.state_dict(), self.progress))
        weights, optimizer, state = taken
        settings = self.config.model_dump(mode="json")

        def write(into: Path) -> None:
            write_weights(into / WEIGHTS_FILE, weights)
            write_state(into, progress=state, optimizer_state=optimizer, scaler={}, shards=self.identity,
                        versions=versions(), config=settings)  # fmt: skip

        self.store.save(self.progress.step, write)


def _finish(training: _Training, reader: ShardReader, target: Path, *, stop: StopFlag) -> None:
    """Thresholds from validation studies, the head's folder, and the comparison on the others."""
    config, network, encoder = training.config, training.network, training.encoder
    card = HeadCard(
        encoder=training.identity["encoder"],
        decoder=config.decoder,
        conditioning=config.conditioning,
        thaw=config.thaw,
        classes=training.classes,
        prompts=training.prompts,
        thresholds={},
        threshold=0.5,
        trained=training.facts(),
        weights_sha256="",
    )
    head = Head(training.engine, card, encoder=encoder, network=network)
    rows = {}
    for split in (config.threshold_split, config.split):
        rows[split] = compare.evaluate_head(
            head, reader, split, views=config.views, boxes=config.boxes, map_prompts=config.map_prompts
        )
        if stop:
            _logger.info("trained; the same command compares the head with the map")
            raise Stopped(stop.number)
    cuts = compare.choose_thresholds(rows[config.threshold_split], training.classes)
    own = cuts[compare.HEAD]
    card = card.model_copy(update={"thresholds": {name: own[name] for name in training.classes}, "threshold": own[""]})
    results = compare.estimate(
        rows[config.split], cuts, classes=training.classes, resamples=config.resamples, level=config.level,
        seed=config.seed,
    )  # fmt: skip
    compare.write_rows(training.folder.run / ROWS_FILE, [row for each in rows.values() for row in each])
    save_head(target, card, weights_of(network, encoder))
    write_results(results, training.folder.run)


def _items(config: SegmentationHeadConfig, reader: ShardReader) -> list[Item]:
    keys = keys_of(reader, "train", share=config.share, seed=config.seed)
    wanted = None if config.classes == "auto" else config.classes
    items = read_items(reader, keys, classes=wanted, views=config.views, boxes=config.boxes)
    if not any(item.masks for item in items):
        raise DataError(f"{config.shards}: no region of the classes in the training studies; a head needs masks")
    return items


def _classes(config: SegmentationHeadConfig, items: Sequence[Item]) -> tuple[str, ...]:
    found = classes_of(items)
    if config.classes == "auto":
        return found
    missing = sorted(set(config.classes) - set(found))
    if missing:
        raise DataError(f"{config.shards}: no region of {', '.join(missing)} in the training studies that are used")
    return tuple(sorted(set(config.classes)))


def _order(step: int, *, num: int, batch: int, seed: int) -> tuple[int, list[int]]:
    """(epoch, rows) of a step: epochs follow each other without a gap, each in an order of its own."""
    epoch = step * batch // num
    rows: list[int] = []
    for place in range(step * batch, (step + 1) * batch):
        number, within = divmod(place, num)
        rows.append(int(_permutation(seed, number, num)[within]))
    return epoch, rows


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, num: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(num)
