"""The batches of a run, epoch after epoch, from any point on."""

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from vlp.data.loader import LoaderConfig, make_loader
from vlp.data.reader import ShardReader
from vlp.data.tokens import Tokenizer
from vlp.data.transforms import Preprocess
from vlp.tensors import Batch
from vlp.train.signals import STOP_SIGNALS


@dataclass(frozen=True, slots=True, kw_only=True)
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
    rank: int = 0
    world: int = 1

    def __iter__(self) -> Iterator[Batch]:
        """A new walk from the start point."""
        epoch, start = self.epoch, self.position
        while True:
            loader = make_loader(
                self.reader,
                split="train",
                config=self.config,
                preprocess=self.preprocess,
                tokenizer=self.tokenizer,
                train=True,
                epoch=epoch,
                start=start,
                rank=self.rank,
                world=self.world,
            )
            # A scheduler signals every process of a job; workers that died of it would take the run with them.
            loader.worker_init_fn = partial(_deaf_worker, prepare=loader.worker_init_fn)
            yield from loader
            epoch, start = epoch + 1, 0


def _deaf_worker(worker: int, *, prepare: Callable[[int], None] | None) -> None:
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if prepare is not None:
        prepare(worker)
