"""A dry run before the long one: does the largest batch fit, how fast is it, and what is the limit?

The batch is made by the loader and the step by the trainer that a run would use; nothing is written.
"""

import gc
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from statistics import median
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor

from vlp import log
from vlp.data.batches import Batches, Selection
from vlp.data.joint import open_archives
from vlp.data.loader import BatchLoader, make_loader, num_batches, select
from vlp.data.order import Epoch, Layout
from vlp.data.reader import ShardReader
from vlp.model.model import VisionLanguageModel, build
from vlp.tensors import Batch
from vlp.train.config import TrainConfig
from vlp.train.module import PretrainingModule
from vlp.train.processes import Place
from vlp.train.trainer import (
    make_trainer,
    num_workers,
    prepare_model,
    quiet_lightning,
    refuse_what_cannot_run,
    threads,
    uses_gpu,
)
from vlp.train.watching.resources import disk_free_bytes, memory_bytes, peak_memory_bytes, shared_memory_free_bytes

_STEPS = 4
"""Steps of the dry run; the first is slow for reasons of its own and is not timed."""
_LOADED_BATCHES = 24
_LOADING_S = 15.0
_SEARCHED = 6
"""Halvings of the micro batch that are tried where memory is short."""
_IN_HAND = 2
"""Batches of a worker in shared memory beside those it prepared ahead: the one it makes and the one that is taken."""
_MUCH_WAIT = 0.02
"""A share of time spent waiting for data that is worth advice."""
_GB = 1e9
_logger = log.get_logger(__name__)


class Check(NamedTuple):
    """One line of what was found."""

    what: str
    value: str
    good: bool
    advice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    """What a dry run found, for one process of the run."""

    device: str
    world: int
    """Processes of the run, on all machines."""
    processes: int
    """Of them on this machine."""
    studies: int
    images: int
    texts: int
    tokens: int
    """Of the longest text."""
    peak_bytes: int | None
    """Memory of one process with the largest batch; None where there was not enough."""
    memory_bytes: int
    """What there is for all processes of the device: a GPU has one."""
    micro_batch: int | None
    """A smaller one that fits, or may fit, where the configuration's does not."""
    step_s: float | None
    step_images_per_s: float | None
    loader_images_per_s: float
    workers: int
    shared_bytes: int
    """What batches on their way from the workers take at most, on this machine."""
    shared_free_bytes: int | None
    """Of /dev/shm; None where there is none."""
    checkpoint_bytes: int
    checkpoints: int
    """Of this size at most, the one being written and the final one included."""
    disk_free_bytes: int

    @property
    def checks(self) -> list[Check]:
        """Line by line, with advice."""
        return [self._batch(), self._memory(), *self._speed(), *self._shared(), self._disk()]

    @property
    def fits(self) -> bool:
        """Whether nothing is lacking."""
        return all(check.good for check in self.checks)

    @property
    def data_wait(self) -> float | None:
        """Share of its time that training will wait for data; workers load while the model computes."""
        if self.step_images_per_s is None:
            return None
        load, step = 1.0 / self.loader_images_per_s, 1.0 / self.step_images_per_s
        return max(0.0, 1.0 - step / load) if self.workers else load / (load + step)

    def _batch(self) -> Check:
        value = f"{self.studies} studies, {self.images} images, {self.texts} texts of up to {self.tokens} tokens"
        return Check("largest batch of a process", value, good=True)

    def _memory(self) -> Check:
        there = f"{self.memory_bytes / _GB:.1f} GB on {self.device}"
        smaller = f"try micro_batch={self.micro_batch}" if self.micro_batch else "try a smaller loader.batch_studies"
        if self.peak_bytes is None:
            return Check("memory", f"more than there is: {there}", False, f"does not fit; {smaller}")
        sharing = 1 if self.device.startswith("cuda") else self.processes
        times = f"{sharing} x " if sharing > 1 else ""
        enough = self.peak_bytes * sharing <= self.memory_bytes
        value = f"{times}{self.peak_bytes / _GB:.2f} GB of {there}"
        return Check("memory", value, enough, "" if enough else f"does not fit; {smaller}")

    def _speed(self) -> list[Check]:
        loading = Check("loader", f"{self.loader_images_per_s:.0f} images/s with {self.workers} workers", good=True)
        wait = self.data_wait
        if wait is None or self.step_s is None:
            return [loading]
        step = Check("step", f"{self.step_s:.3f} s, {self.step_images_per_s:.0f} images/s", good=True)
        advice = ""
        if wait > _MUCH_WAIT:
            advice = "raise loader.workers, or store smaller images" if self.workers else "try loader.workers=auto"
            advice += "; loader.cache_bytes helps from the second epoch on"
        return [step, loading, Check("waiting for data", f"{wait:.0%} of the time", good=True, advice=advice)]

    def _shared(self) -> list[Check]:
        if not self.workers or self.shared_free_bytes is None:
            return []
        enough = self.shared_bytes <= self.shared_free_bytes
        value = f"{self.shared_bytes / _GB:.2f} GB of {self.shared_free_bytes / _GB:.2f} GB free"
        advice = "" if enough else "lower loader.prefetch or loader.workers, or give the container more (--shm-size)"
        return [Check("/dev/shm", value, enough, advice)]

    def _disk(self) -> Check:
        need = self.checkpoint_bytes * self.checkpoints
        enough = need <= self.disk_free_bytes
        value = f"{self.checkpoints} x {self.checkpoint_bytes / _GB:.2f} GB of {self.disk_free_bytes / _GB:.1f} GB free"
        return Check("checkpoints", value, enough, "" if enough else "free some room, or retain fewer")


def examine(config: TrainConfig) -> Preflight:
    """Trains a few steps on the largest batch that the configuration can give, and measures.

    Raises:
        VlpError: for what would also keep the run from starting.
    """
    refuse_what_cannot_run(config)
    reader = open_archives(config.shards)
    world = config.devices * config.nodes
    num_batches(reader, split="train", config=config.loader, world=world)
    with quiet_lightning(), threads(config):
        model = _built(config)
        batch = largest_batch(reader, config, model)
        _logger.info("largest batch: %d images, %d texts; trying a few steps", batch.num_images, len(batch.tokens.ids))
        if config.feature_cache is not None:
            _logger.info("feature_cache: the images themselves are tried, which is the most that a step can need")
        tried = _try(config, model, batch)
        there = _memory(config)
        speed, workers = _loading(reader, config, model, world=world)
        shared = workers * (config.loader.prefetch + _IN_HAND) * _bytes_of(batch) * config.devices
        return Preflight(
            device=_device(config),
            world=world,
            processes=config.devices,
            studies=len(batch.keys),
            images=batch.num_images,
            texts=len(batch.tokens.ids),
            tokens=int(batch.tokens.ids.shape[1]),
            peak_bytes=tried.peak_bytes,
            memory_bytes=there,
            micro_batch=_smaller(config, batch, tried, memory_bytes=there),
            step_s=tried.step_s,
            step_images_per_s=None if tried.step_s is None else batch.num_images / tried.step_s,
            loader_images_per_s=speed,
            workers=workers,
            shared_bytes=shared,
            shared_free_bytes=shared_memory_free_bytes(),
            checkpoint_bytes=_checkpoint_bytes(model, config),
            checkpoints=_checkpoints(config),
            disk_free_bytes=disk_free_bytes(config.output),
        )


def _built(config: TrainConfig) -> VisionLanguageModel:
    model = build(config.model)
    prepare_model(model, config)
    return model.train()


def largest_batch(reader: ShardReader, config: TrainConfig, model: VisionLanguageModel) -> Batch:
    """The batch of the studies with the most images, saying what those with the most sentences say.

    Raises:
        DataError: if one of the studies cannot be read.
    """
    loader, count = config.loader, config.loader.batch_studies
    selection = select(reader, split="train", config=loader, train=True)
    samples = {key: reader.sample(key) for key in selection.keys}
    limit = loader.images_per_study
    most = {"frontal": 1, "all": max(len(sample.views) for sample in samples.values())}.get(str(limit), limit)

    def made(weight: Any) -> Batch:
        order = sorted(range(len(selection.keys)), key=lambda place: -weight(samples[selection.keys[place]]))
        return _batch_of(reader, selection, order[:count], config=config, model=model)

    seen = made(lambda sample: min(len(sample.views), int(most)))
    said = made(lambda sample: sample.sentences)
    return replace(said, images=seen.images, padding=seen.padding, study=seen.study)


def _batch_of(
    reader: ShardReader,
    selection: Selection,
    places: Sequence[int],
    *,
    config: TrainConfig,
    model: VisionLanguageModel,
) -> Batch:
    """The training batch of some studies of a selection, as the loader makes it."""
    chosen = replace(
        selection,
        indices=tuple(selection.indices[place] for place in places),
        keys=tuple(selection.keys[place] for place in places),
    )
    plan = Epoch(layout=Layout(shards=((len(places),),), weights=(1.0,)), batch=len(places), shuffle=False)
    batches = Batches(
        reader,
        selection=chosen,
        config=config.loader.model_copy(update={"cache_bytes": 0}),
        preprocess=config.model.preprocess,
        tokenizer=model.tokenizer,
        train=True,
        plan=plan,
        rank=0,
    )
    made: Batch = next(iter(BatchLoader(batches, places=[(0, 0)], workers=0, prefetch=1, pin=False)))
    return made


class _Tried(NamedTuple):
    """What a few steps came to; nothing where memory was short."""

    peak_bytes: int | None
    step_s: float | None


@dataclass(frozen=True, slots=True)
class _Repeated:
    """One batch, again and again; Lightning would take a list for several loaders."""

    batch: Batch

    def __iter__(self) -> Iterator[Batch]:
        while True:
            yield self.batch


class _Watch(pl.Callback):
    """Ends the training after a few steps, and times them."""

    def __init__(self) -> None:
        self.times = [time.monotonic()]

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        _wait_for(trainer.strategy.root_device)
        self.times.append(time.monotonic())
        trainer.should_stop = len(self.times) > _STEPS

    @property
    def step_s(self) -> float:
        """Of the median step after the first."""
        return median(after - before for before, after in zip(self.times[1:], self.times[2:], strict=False))


def _try(config: TrainConfig, model: VisionLanguageModel, batch: Batch) -> _Tried:
    alone = config.model_copy(update={"devices": 1, "nodes": 1, "strategy": "ddp"})
    # The last step of a run has the full resolution.
    module = PretrainingModule(model, alone, step=config.max_steps - 1)
    trainer, watch = make_trainer(alone, module, place=Place()), _Watch()
    trainer.callbacks.append(watch)
    if uses_gpu(config):
        torch.cuda.reset_peak_memory_stats()
    try:
        trainer.fit(module, train_dataloaders=_Repeated(batch))
        return _Tried(_peak(config), watch.step_s)
    except (RuntimeError, MemoryError) as error:
        if not _is_lack_of_memory(error):
            raise
    finally:
        model.zero_grad()
        model.cpu()
    return _Tried(None, None)


def _smaller(config: TrainConfig, batch: Batch, tried: _Tried, *, memory_bytes: int) -> int | None:
    """A micro batch that fits where the configuration's does not: found by trying on a GPU, else by proportion."""
    now = config.micro_batch or batch.num_images
    if tried.peak_bytes is not None:
        share = memory_bytes / (tried.peak_bytes * (1 if uses_gpu(config) else config.devices))
        return None if share >= 1.0 else max(1, int(now * share / 2.0))
    for size in (now >> halving for halving in range(1, _SEARCHED + 1)):
        if size == 0:
            break
        gc.collect()
        if uses_gpu(config):
            torch.cuda.empty_cache()
        _logger.info("not enough memory; trying micro_batch=%d", size)
        # A model of its own: what broke off in the middle may hold on to what it had.
        if _try(config.model_copy(update={"micro_batch": size}), _built(config), batch).peak_bytes is not None:
            return size
    return None


def _loading(reader: ShardReader, config: TrainConfig, model: VisionLanguageModel, *, world: int) -> tuple[float, int]:
    """Images per second that the loader of one process gives, and its workers; what it remembers left out."""
    loader = make_loader(
        reader,
        split="train",
        config=config.loader.model_copy(update={"cache_bytes": 0}),
        preprocess=config.model.preprocess,
        tokenizer=model.tokenizer,
        train=True,
        world=world,
        endless=True,
        workers=num_workers(config),
        on_gpu=uses_gpu(config),
    )
    images, batches = 0, iter(loader)
    next(batches)  # starting workers is no part of their speed
    ahead = loader.num_workers * config.loader.prefetch  # what they made while nobody waited
    started = time.monotonic()
    for number, batch in enumerate(islice(batches, ahead + _LOADED_BATCHES)):
        if number < ahead:
            started = time.monotonic()
            continue
        images += batch.num_images
        if time.monotonic() - started > _LOADING_S:
            break
    return images / max(time.monotonic() - started, 1e-9), loader.num_workers


def _memory(config: TrainConfig) -> int:
    return int(torch.cuda.mem_get_info()[1]) if uses_gpu(config) else memory_bytes()


def _peak(config: TrainConfig) -> int:
    return int(torch.cuda.max_memory_reserved()) if uses_gpu(config) else peak_memory_bytes()


def _checkpoint_bytes(model: VisionLanguageModel, config: TrainConfig) -> int:
    """Weights, the two moments of AdamW, and the average where there is one."""
    weights = sum(value.nbytes for value in model.state_dict().values())
    learned = sum(value.nbytes for value in model.parameters() if value.requires_grad)
    return weights + (2 + (config.averaging is not None)) * learned


def _checkpoints(config: TrainConfig) -> int:
    kept = config.retain.last + max(config.retain.best, int(config.keeps_best))
    if config.retain.every is not None:
        kept += config.max_steps // config.retain.every
    return min(kept, config.max_steps // config.checkpoint_every + 1) + 2


def _bytes_of(batch: Batch) -> int:
    parts = (batch.images, batch.padding, batch.tokens.ids, batch.tokens.mask)
    return sum(part.nbytes for part in parts if isinstance(part, Tensor))


def _device(config: TrainConfig) -> str:
    return f"cuda, {torch.cuda.get_device_name()}" if uses_gpu(config) else "cpu"


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _is_lack_of_memory(error: Exception) -> bool:
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or "can't allocate memory" in str(error) or "out of memory" in str(error)
