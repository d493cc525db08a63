"""One batch: what is read, what is chosen and changed, and how it is put together.

A batch depends on (seed, epoch, position, rank, world) alone.  What is drawn for a study depends on (seed, epoch,
study), so another batch size or world draws the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch.utils.data import Dataset

from vlp import log
from vlp.config import Config
from vlp.data.cache import cache_of
from vlp.data.feature_store import FeatureStore
from vlp.data.flips import FlipsConfig, flips
from vlp.data.order import Epoch, Layout
from vlp.data.reader import ShardReader
from vlp.data.replacement import stand_ins
from vlp.data.texts import Facts, Packing, Saying, TemplateMemory, Texts, agreed, known_texts, sampled_texts, told
from vlp.data.tokens import Tokenizer
from vlp.data.transforms import Augment, Preprocess, find_padding
from vlp.data.transport import Parcel
from vlp.errors import DataError, VlpError
from vlp.records import FRONTAL
from vlp.tensors import Batch, ImageFeatures, stack_padding


class LoaderConfig(Config):
    """How studies become batches."""

    batch_studies: PositiveInt = 32
    """Studies per process and step, at most: an epoch is cut into steps of nearly equal size."""
    workers: NonNegativeInt | Literal["auto"] = "auto"
    """Processes that decode and tokenise ahead, for each process that trains; 0 does it in that one.  auto: as many as
    the processor has cores for (`loader.default_workers`)."""
    prefetch: PositiveInt = 4
    """Batches each worker prepares ahead."""
    shuffle_window: PositiveInt | None = None
    """null: an epoch is shuffled over everything.  n: shards come in random order and studies are shuffled within
    windows of n shards, so that reads stay near each other; for disks that seek and for shards behind a URL."""
    corrupt_budget: NonNegativeInt = 0
    """Studies that may be unreadable, in the whole run, before it stops: each is replaced by another study of its
    epoch, told, and counted.  0: the first one stops the run."""
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
    keys: tuple[str, ...]
    """Their keys."""
    without_sentences: int
    without_image: int
    """Studies without a frontal image where one is asked for."""
    memory: TemplateMemory
    """What the usable ones say, as far as it was read; it stays from epoch to epoch."""


class Batches(Dataset):
    """Item `(epoch, n)` is batch number `n` of an epoch on its way, or the error that kept it from being made."""

    def __init__(
        self,
        reader: ShardReader,
        *,
        selection: Selection,
        config: LoaderConfig,
        preprocess: Preprocess,
        tokenizer: Tokenizer,
        train: bool,
        plan: Epoch,
        rank: int,
        features: FeatureStore | None = None,
    ) -> None:
        """Batches of the epoch that `plan` describes, and of the epochs after it."""
        self._reader = reader
        self._selection = selection
        self._config = config
        self._tokenizer = tokenizer
        self._train = train
        self._plan = plan
        self._rank = rank
        self._features = features
        self._size = preprocess.rows_columns if features is None else (0, 0)
        self._augment = config.augment if train else None
        if self._augment is not None:
            self._augment.prepare()
        self._flips = config.flips if train else None
        self._cache = cache_of(reader, preprocess, limit_bytes=config.cache_bytes)
        self._now = _Visits(plan, rank)
        self.slabs: int | None = None
        """Number of the `transport.Slabs` that batches travel by."""

    def __getitem__(self, place: tuple[int, int]) -> Parcel | VlpError:
        try:
            return Parcel(self._batch(*place), slabs=self.slabs)
        except VlpError as error:
            # Raised where the batch is used: a worker would wrap it in its own traceback.
            return error

    def batch_bytes(self) -> int:
        """Size of a batch's images and their padding, or of their features; of some batches, where views vary."""
        views = [self._num_images(key) for key in self._selection.keys[:: max(1, len(self._selection.keys) // 1000)]]
        images = self._config.batch_studies * -(-sum(views) // len(views))
        rows, columns = self._size
        return images * (2 * rows * columns if self._features is None else self._features.header.bytes_per_image + 64)

    def fill_cache(self) -> None:
        """Decodes this split before workers are forked."""
        wanted = [
            (key, image)
            for key in self._selection.keys
            for image in self._views(key)
            if (key, image) not in self._cache
        ]
        self._cache.fill(self._reader, log.progress(wanted, description="decoding", unit="images"))

    def _batch(self, epoch: int, position: int) -> Batch:
        if self._now.plan.epoch != epoch:
            self._now = _Visits(replace(self._plan, epoch=epoch, consumed=0), self._rank)
        visits = self._now[position]
        images = sum(self._num_images(self._selection.keys[study]) for study, _ in visits)
        parts = _Parts(pixels=np.empty((images, 1, *self._size), dtype=np.uint8))
        for study, before in visits:
            self._add(parts, study, before)
        return Batch(
            images=torch.from_numpy(parts.pixels[: len(parts.study)]),
            padding=stack_padding(parts.padding),
            study=torch.tensor(parts.study, dtype=torch.int64),
            **parts.packing.tensors(self._tokenizer),
            keys=tuple(parts.keys),
            position=position,
            features=None if self._features is None else ImageFeatures.joined(parts.features),
            replaced=tuple(parts.replaced),
        )

    def _add(self, parts: "_Parts", study: int, before: int) -> None:
        """Adds a study, or, where it cannot be read and that is allowed, one that stands in for it."""
        keys, epoch = self._selection.keys, self._now.plan.epoch
        draws = _Draws(seed=self._config.seed, epoch=epoch, study=self._selection.indices[study], before=before)
        try:
            self._add_one(parts, study, draws)
        except DataError:
            parts.replaced.append(keys[study])
            if not self._train or len(parts.replaced) > self._config.corrupt_budget:
                raise
            order = self._now.plan.permutation()
            others = stand_ins(order, failed=study, seed=self._config.seed, epoch=epoch)
            if not any(self._could_add(parts, other, draws) for other in others):
                raise

    def _could_add(self, parts: "_Parts", study: int, draws: "_Draws") -> bool:
        try:
            self._add_one(parts, study, draws)
        except DataError:
            return False
        return True

    def _add_one(self, parts: "_Parts", study: int, draws: "_Draws") -> None:
        """Adds a study whole, or nothing of it."""
        key, images = self._selection.keys[study], len(parts.study)
        try:
            self._add_images(parts, key, draws)
            texts, flipped, known = self._said(study, draws)
        except DataError:
            parts.keep(images)
            raise
        parts.packing.add(len(parts.keys), texts, flips=flipped, known=known)
        parts.keys.append(key)

    def _views(self, key: str) -> Sequence[int]:
        """The study's images that are asked for."""
        views = self._reader.sample(key).views
        if self._config.images_per_study != "frontal":
            return range(len(views))
        return [next(index for index, view in enumerate(views) if view in FRONTAL)]

    def _num_images(self, key: str) -> int:
        limit = self._config.images_per_study
        if limit == "frontal":
            return 1
        views = len(self._reader.sample(key).views)
        return min(views, limit) if isinstance(limit, int) else views

    def _add_images(self, parts: "_Parts", key: str, draws: "_Draws") -> None:
        views = self._views(key)
        limit = self._config.images_per_study
        if isinstance(limit, int):
            views = self._choose(views, limit, draws)
        for index in views:
            parts.study.append(len(parts.keys))
            row = parts.next_row()
            if self._features is not None:
                parts.features.append(self._features.get(key, index))
                parts.padding.append(None)
            elif self._augment is None:
                parts.padding.append(self._cache.get(self._reader, key, index, out=row)[2])
            else:
                seen, placement, _ = self._cache.get(self._reader, key, index)
                row[:], moved = self._augment.change(seen, draws.generator)
                parts.padding.append(find_padding(placement, moved))

    def _said(self, study: int, draws: "_Draws") -> tuple[Facts, Facts, Sequence[Saying]]:
        """The texts of a study, flipped ones, and everything it says."""
        config, key = self._config, self._selection.keys[study]
        if config.texts == "template" and self._flips is None:
            sayings = self._selection.memory.get(self._reader, key, study)
            return agreed(self._choose(sayings, config.sentences_per_study, draws)), {}, tuple(dict.fromkeys(sayings))
        said = told(self._reader, key)
        texts = sampled_texts(said, self._choose(said.sentences, config.sentences_per_study, draws), config.texts)
        flipped: Facts = {}
        if self._flips is not None:
            made = tuple(flips(said, config=self._flips).items())
            flipped = dict(self._choose(made, self._flips.per_study, draws))
        return texts, flipped, known_texts(said, config.texts)

    def _choose(self, things: Sequence[Any], count: int | None, draws: "_Draws") -> Sequence[Any]:
        if count is None or len(things) <= count:
            return things
        if not self._train:
            return things[:count]
        return [things[index] for index in sorted(draws.generator.choice(len(things), size=count, replace=False))]


class _Visits:
    """Which studies a rank visits in an epoch, step by step."""

    def __init__(self, plan: Epoch, rank: int) -> None:
        self.plan = plan
        self._order = plan.permutation()
        # The plan of an epoch that has as many studies and leaves them in order gives their places in this one.
        alike = replace(plan, layout=Layout(shards=((len(self._order),),), weights=(1.0,)), shuffle=False)
        self._places = alike.steps(rank)
        repeats = plan.shuffle and max(plan.layout.weights) > 1.0
        self._before = _occurrences(self._order) if repeats else np.zeros_like(self._order)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, step: int) -> list[tuple[int, int]]:
        """The studies of a step, each with how often it came before in this epoch."""
        places = self._places[step]
        return list(zip(self._order[places].tolist(), self._before[places].tolist(), strict=True))


def _occurrences(order: Int[np.ndarray, " place"]) -> Int[np.ndarray, " place"]:
    """How often the number at each place stands before it."""
    together = np.argsort(order, kind="stable")
    ordered = order[together]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    counts = np.zeros_like(order)
    counts[together] = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    return counts


class _Draws:
    """The generator of what is drawn for a study, made when something is: that takes longer than reading the study."""

    def __init__(self, *, seed: int, epoch: int, study: int, before: int) -> None:
        self._key = [seed & 0xFFFFFFFF, epoch, study, *([before] if before else [])]

    @cached_property
    def generator(self) -> np.random.Generator:
        return np.random.default_rng(self._key)


@dataclass(slots=True, kw_only=True)
class _Parts:
    """A batch while it is put together."""

    pixels: np.ndarray
    """Room for its images, [image 1 rows columns]."""
    padding: list[np.ndarray | None] = field(default_factory=list)
    study: list[int] = field(default_factory=list)
    features: list[ImageFeatures] = field(default_factory=list)
    packing: Packing = field(default_factory=Packing)
    keys: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)

    def next_row(self) -> np.ndarray:
        """Where the image that `study` ends with is to be written."""
        if len(self.study) > len(self.pixels):  # a study that stands in for another may have more
            self.pixels = np.concatenate([self.pixels, np.empty_like(self.pixels[:1])])
        row: np.ndarray = self.pixels[len(self.study) - 1, 0]
        return row

    def keep(self, images: int) -> None:
        """Forgets all images but the first so many."""
        del self.padding[images:], self.study[images:], self.features[images:]
