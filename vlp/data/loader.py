"""Shards to batches: any number of workers, the same batches.

One item of the data set is one whole batch, so the sampler is plain arithmetic (`order`), resuming is starting at a
later number, and a batch depends on (seed, epoch, position, rank, world) alone.
"""

import ctypes
import gc
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader

from vlp import log
from vlp.data.batches import Batches, LoaderConfig, Selection
from vlp.data.feature_store import FeatureStore
from vlp.data.joint import layout_of
from vlp.data.order import Epoch
from vlp.data.reader import ShardReader
from vlp.data.texts import TemplateMemory, report_text, told
from vlp.data.tokens import Tokenizer
from vlp.data.transforms import Preprocess
from vlp.data.transport import Parcel, Slabs, worker_death
from vlp.errors import ConfigError, DataError, VlpError
from vlp.records import Split

__all__ = [
    "BatchLoader",
    "LoaderConfig",
    "default_workers",
    "make_loader",
    "num_batches",
    "plan_epoch",
    "prepare_worker",
    "select",
]

_REPORTS_COUNTED = 2000
"""Reports whose tokens are counted before the first epoch, spread over the split: enough to say how many are cut."""
_PR_SET_PDEATHSIG = 1
"""Of Linux's prctl: the signal a process gets when the thread that started it ends."""
_logger = log.get_logger(__name__)


def select(reader: ShardReader, *, split: Split, config: LoaderConfig, train: bool) -> Selection:
    """Which studies of a split a loader uses.  Training needs sentences; looking at images does not."""
    kind = (split, config.images_per_study == "frontal", train)
    known = _SELECTIONS.setdefault(reader, {})
    if kind not in known:  # a pass over all studies, and a run asks again every epoch
        known[kind] = _select(reader, split, frontal=kind[1], train=train)
    return known[kind]


_SELECTIONS: WeakKeyDictionary[ShardReader, dict[tuple[Split, bool, bool], Selection]] = WeakKeyDictionary()


def _select(reader: ShardReader, split: Split, *, frontal: bool, train: bool) -> Selection:
    usable: dict[int, str] = {}
    without_sentences = without_image = 0
    for index, key in enumerate(reader.keys(split)):
        sample = reader.sample(key)
        if frontal and not sample.frontal:
            without_image += 1
        elif train and not sample.sentences:
            without_sentences += 1
        else:
            usable[index] = key
    return Selection(
        indices=tuple(usable),
        keys=tuple(usable.values()),
        memory=TemplateMemory([reader.sample(key).sentences for key in usable.values()]),
        without_sentences=without_sentences,
        without_image=without_image,
    )


def num_batches(reader: ShardReader, *, split: Split, config: LoaderConfig, world: int = 1, train: bool = True) -> int:
    """Batches each of `world` processes sees per epoch, give or take one where archives have fractional weights.

    Raises:
        DataError: if the split has no usable study, or fewer than there are processes.
    """
    return plan_epoch(reader, split=split, config=config, world=world, train=train).num_steps


def plan_epoch(
    reader: ShardReader,
    *,
    split: Split,
    config: LoaderConfig,
    world: int = 1,
    train: bool = True,
    epoch: int = 0,
    consumed: int = 0,
) -> Epoch:
    """The plan that `make_loader` follows with the same arguments.

    Raises:
        DataError: if the split has no usable study, or fewer than there are processes.
    """
    selection = select(reader, split=split, config=config, train=train)
    return _plan(
        reader, selection, split=split, config=config, train=train, world=world, epoch=epoch, consumed=consumed
    )


def default_workers(*, processors: int | None = None, processes: int = 1, on_gpu: bool) -> int:
    """Workers of each of `processes` on a machine with so many processors (None: as many as this process may use).

    Where a GPU trains, workers have the processors to themselves, but for one that feeds it; 16 keep up with any
    model at 224 px.  Where the processors train, one worker for eight of them is more than they can use, and another
    would take from the training what it gives.
    """
    share = (processors or len(os.sched_getaffinity(0))) // max(1, processes)
    return min(16, max(1, share - 1)) if on_gpu else max(1, share // 8)


def make_loader(
    reader: ShardReader,
    *,
    split: Split,
    config: LoaderConfig,
    preprocess: Preprocess,
    tokenizer: Tokenizer,
    train: bool,
    epoch: int = 0,
    start: int = 0,
    rank: int = 0,
    world: int = 1,
    consumed: int = 0,
    endless: bool = False,
    workers: int | None = None,
    on_gpu: bool | None = None,
    features: FeatureStore | None = None,
) -> "BatchLoader":
    """The batches of one epoch from number `start` on; `len` counts what is left.

    `train` shuffles, chooses and augments; otherwise the split comes in its own order, untouched.  `consumed` studies
    of the epoch were seen under another world size (`order.Epoch.consumed_before`) and are skipped; `start` and
    `Batch.position` then count from there.  Images are uint8 `[image 1 rows columns]`.

    Args:
        reader: The shards.
        split: Which of their studies.
        config: How they become batches.
        preprocess: How images are brought to the model's size.
        tokenizer: The text tower's.
        train: Whether it is for training.
        epoch: Number of the epoch.
        start: Number of its first batch.
        rank: Which of the processes that train this is.
        world: How many there are.
        consumed: Studies of the epoch that are done.
        endless: Go on with the next epoch, and the next: workers stay, and nobody waits where epochs meet.
        workers: Instead of `config.workers`; None: what that says, auto for one process alone.
        on_gpu: Whether a GPU trains; batches then come in page-locked memory.  None: whether there is one.
        features: What a frozen tower makes of the images.  They are not read then: `Batch.features` takes their
            place, and `Batch.images` is `[image 1 0 0]`.

    Raises:
        DataError: if the split has no usable study, or fewer than there are processes.  A damaged shard raises it
            where its batch would have come.
        ConfigError: if images whose features are remembered are to be augmented.
    """
    if features is not None and train and config.augment is not None:
        raise ConfigError("loader.augment: features of images are remembered, so images cannot change; set it to null")
    selection = select(reader, split=split, config=config, train=train)
    plan = _plan(
        reader, selection, split=split, config=config, train=train, world=world, epoch=epoch, consumed=consumed
    )
    if epoch == 0 and start == 0:
        _tell_left_out(selection, split)
        if config.texts == "report":
            _tell_cut(reader, selection, split, tokenizer)
    batches = Batches(
        reader,
        selection=selection,
        config=config,
        preprocess=preprocess,
        tokenizer=tokenizer,
        train=train,
        plan=plan,
        rank=rank,
        features=features,
    )
    on_gpu = torch.cuda.is_available() if on_gpu is None else on_gpu
    if workers is None:
        workers = default_workers(on_gpu=on_gpu) if config.workers == "auto" else config.workers
    if workers and config.cache_bytes and features is None:
        batches.fill_cache()
    first = [(epoch, position) for position in range(start, plan.num_steps)]
    places: Iterable[tuple[int, int]] = _Onwards(first, plan) if endless else first
    return BatchLoader(batches, places=places, workers=workers, prefetch=config.prefetch, pin=on_gpu)


class BatchLoader(DataLoader):
    """A `DataLoader` of ready batches."""

    dataset: Batches

    def __init__(
        self, batches: Batches, *, places: Iterable[tuple[int, int]], workers: int, prefetch: int, pin: bool
    ) -> None:
        """Takes the (epoch, position) of every batch that shall come."""
        super().__init__(
            batches,
            batch_size=None,
            sampler=places,
            num_workers=workers,
            prefetch_factor=prefetch if workers else None,
            collate_fn=_as_it_is,
            worker_init_fn=prepare_worker,
            pin_memory=pin,
            # A generator of its own: else starting an epoch would advance the global one that dropout draws from.
            generator=torch.Generator().manual_seed(0),
        )
        # One more than a worker can have on its way, and one for the batch that is being copied out.
        self._slabs = Slabs(workers=workers, each=prefetch + 2, slab_bytes=batches.batch_bytes()) if workers else None
        batches.slabs = None if self._slabs is None else self._slabs.number

    def __iter__(self) -> Any:
        """Yields batches; raises the `VlpError` of the first that could not be made, or of a worker that died."""
        found = self._found()
        while True:
            try:
                item = next(found)
            except StopIteration:
                return
            except RuntimeError as error:
                death = worker_death(error)
                if death is None:
                    raise
                raise death from None
            if isinstance(item, VlpError):
                raise item
            batch = item.open()
            for key in batch.replaced:
                _logger.warning("study %s cannot be read; another one of its epoch takes its place", key)
            yield batch

    def _found(self) -> Iterator[Parcel | VlpError]:
        return super().__iter__()


class _Onwards:
    """The places of an epoch's batches, and of those of all epochs after it."""

    def __init__(self, first: list[tuple[int, int]], plan: Epoch) -> None:
        self._first = first
        self._plan = plan

    def __iter__(self) -> Iterator[tuple[int, int]]:
        yield from self._first
        for epoch in count(self._plan.epoch + 1):
            plan = replace(self._plan, epoch=epoch, consumed=0)
            yield from ((epoch, position) for position in range(plan.num_steps))


def _plan(
    reader: ShardReader,
    selection: Selection,
    *,
    split: Split,
    config: LoaderConfig,
    train: bool,
    world: int,
    epoch: int = 0,
    consumed: int = 0,
) -> Epoch:
    """The plan of an epoch, if there is enough to go on with."""
    if not selection.keys:
        raise DataError(
            f"{reader.folder}: split {split} has no study to use ({selection.without_sentences} without a sentence, "
            f"{selection.without_image} without a frontal image)"
        )
    plan = Epoch(
        layout=layout_of(reader, selection.keys),
        batch=config.batch_studies,
        world=world,
        seed=config.seed,
        epoch=epoch,
        shuffle=train,
        window_shards=config.shuffle_window,
        consumed=consumed,
    )
    if plan.num_studies < world:
        raise DataError(f"{reader.folder}: split {split} has fewer studies than there are processes ({world})")
    return plan


def _tell_left_out(selection: Selection, split: Split) -> None:
    if selection.without_sentences + selection.without_image:
        _logger.info(
            "split %s: %d studies used; left out: %d without a sentence, %d without a frontal image",
            split,
            len(selection.keys),
            selection.without_sentences,
            selection.without_image,
        )


def _tell_cut(reader: ShardReader, selection: Selection, split: Split, tokenizer: Tokenizer) -> None:
    """Says how many reports do not fit into the tokens of the text tower."""
    total = len(selection.keys)
    places = np.linspace(0, total - 1, num=min(total, _REPORTS_COUNTED)).astype(int)
    texts = (report_text(told(reader, selection.keys[place])) for place in places)
    looked = log.progress(texts, description="counting tokens", total=len(places), unit="reports")
    cut = sum(tokenizer.count(text) > tokenizer.max_tokens for text in looked)
    _logger.info(
        "split %s: %d of %d reports%s are longer than %d tokens and are cut there",
        split,
        cut,
        len(places),
        "" if len(places) == total else f" looked at (of {total})",
        tokenizer.max_tokens,
    )


def _as_it_is(item: Any) -> Any:
    return item


def prepare_worker(worker: int) -> None:
    """What every process that decodes ahead begins with."""
    _end_with_parent()
    gc.freeze()  # what was there before the fork is never garbage here, and looking at it would copy its pages
    cv2.setNumThreads(0)  # workers are the parallelism; more threads would fight over the same cores


def _end_with_parent() -> None:
    """A worker whose training process is killed would wait for ever for somebody to take its batches."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
