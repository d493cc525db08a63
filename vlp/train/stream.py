"""The batches of a run, epoch after epoch, from any point on."""

import atexit
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from vlp.data.feature_store import FeatureStore
from vlp.data.loader import LoaderConfig, make_loader
from vlp.data.reader import ShardReader
from vlp.data.tokens import Tokenizer
from vlp.data.transforms import Preprocess
from vlp.tensors import Batch
from vlp.train.signals import STOP_SIGNALS


@dataclass(slots=True, kw_only=True)
class BatchStream:
    """Endless batches of the training split, beginning with batch `position` of `epoch`.

    It runs ahead of training (workers, Lightning's prefetching), so it must never be asked how far the run is:
    a trained batch's own `position` says that.
    """

    reader: ShardReader
    config: LoaderConfig
    preprocess: Preprocess
    tokenizer: Tokenizer
    epoch: int = 0
    position: int = 0
    consumed: int = 0
    """Studies of the first epoch that were trained under another number of processes; `position` counts from there."""
    rank: int = 0
    world: int = 1
    workers: int | None = None
    """Instead of `config.workers`."""
    on_gpu: bool = False
    features: FeatureStore | None = None
    """Instead of pixels, once they are there."""

    def __iter__(self) -> Iterator[Batch]:
        """A new walk from the start point."""
        loader = make_loader(
            self.reader,
            split="train",
            config=self.config,
            preprocess=self.preprocess,
            tokenizer=self.tokenizer,
            train=True,
            epoch=self.epoch,
            start=self.position,
            rank=self.rank,
            world=self.world,
            consumed=self.consumed,
            endless=True,
            workers=self.workers,
            on_gpu=self.on_gpu,
            features=self.features,
        )
        # A scheduler signals every process of a job; workers that died of it would take the run with them.
        loader.worker_init_fn = partial(deaf_worker, prepare=loader.worker_init_fn)
        yield from loader


def _end_workers() -> None:
    """Kills what is left of workers where a run ended in an error: they do not hear how Python asks them to end."""
    for worker in multiprocessing.active_children():
        worker.kill()


atexit.register(_end_workers)


def deaf_worker(worker: int, *, prepare: Callable[[int], None] | None) -> None:
    """Prepares a worker that does not hear stop signals: whoever trains decides when it ends."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if prepare is not None:
        prepare(worker)
