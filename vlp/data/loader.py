"""Shards to batches: any number of workers, the same batches.

One item of the data set is one whole batch, so the sampler is plain arithmetic (`order`), resuming is starting at a
later number, and a batch depends on (seed, epoch, position, rank, world) alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import cv2
import numpy as np
import torch
from pydantic import Field, model_validator
from torch.utils.data import DataLoader, Dataset

from vlp import log
from vlp.config import Config
from vlp.data.cache import cache_of
from vlp.data.flips import FlipsConfig, flips
from vlp.data.order import Epoch
from vlp.data.reader import ShardReader
from vlp.data.texts import Facts, Packing, Texts, known_texts, report_text, sampled_texts
from vlp.data.tokens import Tokenizer
from vlp.data.transforms import Augment, Preprocess, find_padding
from vlp.errors import DataError, VlpError
from vlp.records import Sentence, Split, Study
from vlp.tensors import Batch, stack_padding

PositiveInt = Annotated[int, Field(ge=1)]
_REPORTS_COUNTED = 2000
"""Reports whose tokens are counted before the first epoch, spread over the split: enough to say how many are cut."""
_logger = log.get_logger(__name__)


class LoaderConfig(Config):
    """How studies become batches."""

    batch_studies: PositiveInt = 32
    """Studies per process and step, at most: an epoch is cut into steps of nearly equal size."""
    workers: Annotated[int, Field(ge=0)] = 2
    """Processes that decode and tokenise ahead; 0 does it in the training process."""
    prefetch: PositiveInt = 4
    """Batches each worker prepares ahead."""
    images_per_study: Literal["frontal", "all"] | PositiveInt = "frontal"
    """The first frontal image; every view; or up to so many views, chosen anew each epoch while training."""
    sentences_per_study: PositiveInt | None = None
    """Up to so many sentences, chosen anew each epoch while training; null takes all of them."""
    texts: Texts = "template"
    """The sentence as "There is F of L.", in the words of the report, or both as two texts; or the whole report
    (findings and impression as written) as the study's one text, cut where the tokenizer's max_tokens end."""
    flips: FlipsConfig | None = None
    """Sentences turned into what is not true of their study, beside its true ones while training; null for none.
    They are template texts, whatever `texts` says."""
    augment: Augment | None = Augment()
    """Changes of pose and exposure while training; null for none."""
    seed: int = 0
    """Decides order, choices and augmentation."""
    cache_bytes: Annotated[int, Field(ge=0)] = 0
    """Memory for images at the model's size, kept from epoch to epoch; worth it where all of them fit."""

    @model_validator(mode="after")
    def _a_report_is_one_text(self) -> "LoaderConfig":
        if self.texts == "report" and self.sentences_per_study is not None:
            raise ValueError("texts: report takes whole reports; leave sentences_per_study out")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The studies of a split that can be used, and how many cannot, by reason."""

    indices: tuple[int, ...]
    """Positions in the split's own order."""
    without_sentences: int
    without_image: int
    """Studies without a frontal image where one is asked for."""


def select(reader: ShardReader, *, split: Split, config: LoaderConfig, train: bool) -> Selection:
    """Which studies of a split a loader uses.  Training needs sentences; looking at images does not."""
    indices: list[int] = []
    without_sentences = without_image = 0
    for index, key in enumerate(reader.keys(split)):
        sample = reader.sample(key)
        if config.images_per_study == "frontal" and not sample.frontal:
            without_image += 1
        elif train and not sample.sentences:
            without_sentences += 1
        else:
            indices.append(index)
    return Selection(indices=tuple(indices), without_sentences=without_sentences, without_image=without_image)


def num_batches(reader: ShardReader, *, split: Split, config: LoaderConfig, world: int = 1, train: bool = True) -> int:
    """Batches each of `world` processes sees per epoch.

    Raises:
        DataError: if the split has no usable study, or fewer than there are processes.
    """
    num_studies = len(_usable(reader, split=split, config=config, train=train, world=world).indices)
    return Epoch(num_studies=num_studies, batch=config.batch_studies, world=world).num_steps


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
) -> "BatchLoader":
    """The batches of one epoch from number `start` on; `len` counts what is left.

    `train` shuffles, chooses and augments; otherwise the split comes in its own order, untouched.  `consumed` studies
    of the epoch were seen under another world size (`order.Epoch.consumed_before`) and are skipped; `start` and
    `Batch.position` then count from there.  Images are uint8 `[image 1 rows columns]`.

    Raises:
        DataError: if the split has no usable study, or fewer than there are processes.  A damaged shard raises it
            where its batch would have come.
    """
    selection = _usable(reader, split=split, config=config, train=train, world=world)
    if epoch == 0 and start == 0:
        _tell_left_out(selection, split)
        if config.texts == "report":
            _tell_cut(reader, selection, split, tokenizer)
    plan = Epoch(
        num_studies=len(selection.indices),
        batch=config.batch_studies,
        world=world,
        seed=config.seed,
        epoch=epoch,
        shuffle=train,
        consumed=consumed,
    )
    batches = Batches(
        reader,
        split=split,
        config=config,
        preprocess=preprocess,
        tokenizer=tokenizer,
        train=train,
        plan=plan,
        rank=rank,
    )
    if config.workers and config.cache_bytes:
        batches.fill_cache()
    return BatchLoader(batches, start=min(start, plan.num_steps), workers=config.workers, prefetch=config.prefetch)


class Batches(Dataset):
    """Item `n` is batch number `n` of an epoch, or the error that kept it from being made."""

    def __init__(
        self,
        reader: ShardReader,
        *,
        split: Split,
        config: LoaderConfig,
        preprocess: Preprocess,
        tokenizer: Tokenizer,
        train: bool,
        plan: Epoch,
        rank: int,
    ) -> None:
        self.selection = select(reader, split=split, config=config, train=train)
        self._reader = reader
        self._config = config
        self._tokenizer = tokenizer
        self._train = train
        self._epoch = plan.epoch
        self._keys = reader.keys(split)
        self._steps = plan.steps(rank)
        self._cache = cache_of(reader, preprocess, limit_bytes=config.cache_bytes)

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, position: int) -> Batch | VlpError:
        try:
            return self._batch(position)
        except VlpError as error:
            # Raised where the batch is used: a worker would wrap it in its own traceback.
            return error

    def fill_cache(self) -> None:
        """Decodes this split before workers are forked."""
        wanted = [
            (self._keys[index], image)
            for index in self.selection.indices
            for image in self._candidates(self._keys[index])
            if (self._keys[index], image) not in self._cache
        ]
        self._cache.fill(self._reader, log.progress(wanted, description="decoding", unit="images"))

    def _batch(self, position: int) -> Batch:
        images: list[np.ndarray] = []
        paddings: list[np.ndarray | None] = []
        image_study: list[int] = []
        packing = Packing()
        keys: list[str] = []
        for number, chosen in enumerate(self._steps[position]):
            index = self.selection.indices[int(chosen)]
            key = self._keys[index]
            rng = np.random.default_rng([self._config.seed & 0xFFFFFFFF, self._epoch, index])
            keys.append(key)
            for pixels, padding in self._images(key, rng):
                images.append(pixels)
                paddings.append(padding)
                image_study.append(number)
            said = self._reader.study(key)
            packing.add(
                number,
                self._texts(said, rng),
                flips=self._flips(said, rng),
                known=known_texts(said, self._config.texts),
            )
        return Batch(
            images=torch.from_numpy(np.stack(images)[:, None]),
            padding=stack_padding(paddings),
            study=torch.tensor(image_study, dtype=torch.int64),
            **packing.tensors(self._tokenizer),
            keys=tuple(keys),
            position=position,
        )

    def _candidates(self, key: str) -> Sequence[int]:
        sample = self._reader.sample(key)
        return sample.frontal[:1] if self._config.images_per_study == "frontal" else range(len(sample.views))

    def _images(self, key: str, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Images of a study at the model's size, each with its padding."""
        candidates = self._candidates(key)
        if isinstance(self._config.images_per_study, int):
            candidates = self._choose(candidates, self._config.images_per_study, rng)
        for index in candidates:
            seen, placement = self._cache.get(self._reader, key, index)
            augment = self._config.augment if self._train else None
            if augment is None:
                yield seen, find_padding(placement)
            else:
                changed, moved = augment.change(seen, rng)
                yield changed, find_padding(placement, moved)

    def _texts(self, study: Study, rng: np.random.Generator) -> Facts:
        sentences: Sequence[Sentence] = study.sentences
        if self._config.sentences_per_study is not None:
            sentences = self._choose(sentences, self._config.sentences_per_study, rng)
        return sampled_texts(study, sentences, self._config.texts)

    def _flips(self, study: Study, rng: np.random.Generator) -> Facts:
        if self._config.flips is None or not self._train:
            return {}
        made = tuple(flips(study, config=self._config.flips).items())
        return dict(self._choose(made, self._config.flips.per_study, rng))

    def _choose(self, things: Sequence[Any], count: int, rng: np.random.Generator) -> Sequence[Any]:
        if len(things) <= count:
            return things
        if not self._train:
            return things[:count]
        return [things[index] for index in sorted(rng.choice(len(things), size=count, replace=False))]


class BatchLoader(DataLoader):
    """A `DataLoader` of ready batches."""

    dataset: Batches

    def __init__(self, batches: Batches, *, start: int, workers: int, prefetch: int) -> None:
        super().__init__(
            batches,
            batch_size=None,
            sampler=range(start, len(batches)),
            num_workers=workers,
            prefetch_factor=prefetch if workers else None,
            collate_fn=_as_it_is,
            worker_init_fn=_prepare_worker,
            pin_memory=torch.cuda.is_available(),
            # A generator of its own: else starting an epoch would advance the global one that dropout draws from.
            generator=torch.Generator().manual_seed(0),
        )

    def __iter__(self) -> Any:
        """Yields batches; raises the `VlpError` of the first that could not be made."""
        for item in super().__iter__():
            if isinstance(item, VlpError):
                raise item
            yield item


def _usable(reader: ShardReader, *, split: Split, config: LoaderConfig, train: bool, world: int) -> Selection:
    """The selection, if there is enough to go on with."""
    selection = select(reader, split=split, config=config, train=train)
    if not selection.indices:
        raise DataError(
            f"{reader.folder}: split {split} has no study to use ({selection.without_sentences} without a sentence, "
            f"{selection.without_image} without a frontal image)"
        )
    if len(selection.indices) < world:
        raise DataError(f"{reader.folder}: split {split} has fewer studies than there are processes ({world})")
    return selection


def _tell_left_out(selection: Selection, split: Split) -> None:
    if selection.without_sentences + selection.without_image:
        _logger.info(
            "split %s: %d studies used; left out: %d without a sentence, %d without a frontal image",
            split,
            len(selection.indices),
            selection.without_sentences,
            selection.without_image,
        )


def _tell_cut(reader: ShardReader, selection: Selection, split: Split, tokenizer: Tokenizer) -> None:
    """Says how many reports do not fit into the tokens of the text tower."""
    keys, total = reader.keys(split), len(selection.indices)
    places = np.linspace(0, total - 1, num=min(total, _REPORTS_COUNTED)).astype(int)
    texts = (report_text(reader.study(keys[selection.indices[place]])) for place in places)
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


def _prepare_worker(worker: int) -> None:
    cv2.setNumThreads(0)  # workers are the parallelism; more threads would fight over the same cores
