"""A frozen image tower looks at every image once, before the first step; from then on its features are read.

Without augmentation a frozen tower says the same of an image in every epoch.  What it says lies in a
`data.feature_store`, and training reads it in the place of pixels: no decoding, no tower.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from vlp import log
from vlp.config import Config
from vlp.data.cache import seen_image
from vlp.data.feature_store import FeatureHeader, FeatureStore, FeatureType, FeatureWriter, Place
from vlp.data.loader import LoaderConfig, prepare_worker, select
from vlp.data.reader import ShardReader
from vlp.data.transforms import Preprocess
from vlp.errors import ConfigError, VlpError
from vlp.model.model import VisionLanguageModel
from vlp.records import Split
from vlp.tensors import ImageFeatures, stack_padding
from vlp.train.processes import Processes
from vlp.train.signals import StopFlag
from vlp.train.stream import deaf_worker

_logger = log.get_logger(__name__)

_NOT_FEATURES = frozenset({"head", "freeze", "weights", "weights_by", "pretrained", "path"})
"""Settings of an image tower that its weights stand for, or that come after it."""


class FeatureCacheConfig(Config):
    """Where a frozen image tower's features are kept."""

    folder: Path | None = None
    """null: `features` in the run folder.  Runs with the same tower, images and studies may share one."""
    dtype: FeatureType = "float16"
    """float16 takes half the room and changes features by up to 0.05 %."""
    images_at_a_time: PositiveInt = 32
    """Images the tower sees at once while the folder is filled."""


def refuse_features(model: VisionLanguageModel, loader: LoaderConfig) -> None:
    """Makes sure that the tower says the same of an image in every epoch.

    Raises:
        ConfigError: if it learns or images are changed while training.
    """
    if not model.image_tower.frozen:
        raise ConfigError(
            "feature_cache: the image tower learns; set model.image.freeze to 'all', or feature_cache to null"
        )
    if loader.augment is not None:
        raise ConfigError("feature_cache: images are changed anew each epoch; set loader.augment to null")


def ensure_features(
    model: VisionLanguageModel,
    reader: ShardReader,
    *,
    split: Split = "train",
    loader: LoaderConfig,
    config: FeatureCacheConfig,
    folder: Path,
    shards: Mapping[str, str],
    workers: int,
    processes: Processes,
    stop: StopFlag,
    rank: int = 0,
    world: int = 1,
    precision: str = "32",
) -> FeatureStore:
    """The features of every image that a loader may ask for; those that are not on the disk yet are computed first.

    All processes of a run call it, once they are connected, with the model on its device; each computes its share of
    the missing parts.  A call that is interrupted goes on with the next part.

    Args:
        model: Its image tower is frozen and whole in this process.
        reader: Of the shards.
        split: Whose images.
        loader: Decides which of them.
        config: How they are kept.
        folder: Where they are kept, unless `config.folder` says so.
        shards: What identifies them: archive -> digest.
        workers: Processes that decode ahead.
        processes: Of the run.
        stop: Raised by a signal; the fill then ends after the part it is at.
        rank: Of this process.
        world: How many processes there are.
        precision: What the tower computes in: 32, bf16-mixed or 16-mixed.

    Raises:
        ConfigError: if the tower learns, images are augmented, or the folder holds other features.
        DataError: if more images cannot be read than `loader.corrupt_budget` allows, or the disk has not the room.
        KeyboardInterrupt: in all processes, where a signal stopped one of them.
    """
    refuse_features(model, loader)
    header = FeatureHeader(
        made_from=_made_from(model, shards, precision),
        dtype=config.dtype,
        width=model.image_tower.width,
        grid=model.grid,
        studies=tuple(wanted_images(reader, split=split, loader=loader)),
    )
    writer = FeatureWriter(config.folder or folder, header)
    if rank == 0:
        writer.begin()
    processes.wait()
    missing = writer.missing()
    processes.wait()  # nobody begins before everybody has looked, so that all divide the same parts
    if missing and rank == 0:
        _announce(writer, missing)
    images = _Images(reader, model.config.preprocess, writer, missing[rank::world], size=config.images_at_a_time)
    with torch.no_grad(), _autocast(model.device, precision):
        budget = loader.corrupt_budget
        seen = _fill(model, images, writer, workers=workers, budget=budget, stop=stop)
        for _ in log.progress(seen, description="image features", total=images.total, unit="images"):
            pass
    stop.number = int(processes.largest(stop.number)[0])  # also waits until all parts are there
    if stop:
        raise KeyboardInterrupt(stop.name)
    return FeatureStore(writer.folder)


def wanted_images(reader: ShardReader, *, split: Split, loader: LoaderConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Keys of the studies a loader trains on, with the numbers of the images it may ask for."""
    keys = reader.keys(split)
    for index in select(reader, split=split, config=loader, train=True).indices:
        sample = reader.sample(keys[index])
        frontal_only = loader.images_per_study == "frontal"
        yield keys[index], sample.frontal[:1] if frontal_only else tuple(range(len(sample.views)))


def tower_digest(tower: nn.Module) -> str:
    """SHA-256 of the names and values of all weights and buffers."""
    digest = hashlib.sha256()
    for name, value in sorted(tower.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


class _Images(Dataset):
    """Item `n` is the `n`-th handful of images of some parts, at the model's size: (uint8 pixels, padding)."""

    def __init__(
        self, reader: ShardReader, preprocess: Preprocess, writer: FeatureWriter, parts: Sequence[int], *, size: int
    ) -> None:
        self.parts = parts
        self._reader = reader
        self._preprocess = preprocess
        self._handfuls: list[tuple[Place, ...]] = []
        self.of_part: list[int] = []
        """Handfuls of each part."""
        for part in parts:
            places = writer.places(part)
            handfuls = [tuple(places[first : first + size]) for first in range(0, len(places), size)]
            self._handfuls += handfuls
            self.of_part.append(len(handfuls))

    @property
    def total(self) -> int:
        """Images in all."""
        return sum(len(handful) for handful in self._handfuls)

    def __len__(self) -> int:
        return len(self._handfuls)

    def __getitem__(self, number: int) -> "_Handful":
        seen: list[tuple[np.ndarray, np.ndarray | None]] = []
        errors: dict[int, VlpError] = {}
        for place, (key, index) in enumerate(self._handfuls[number]):
            try:
                pixels, _, padding = seen_image(self._reader, key, index, preprocess=self._preprocess)
            except VlpError as error:
                errors[place] = error
                pixels, padding = np.zeros(self._preprocess.rows_columns, dtype=np.uint8), None
            seen.append((pixels, padding))
        return _Handful(
            pixels=torch.from_numpy(np.stack([pixels for pixels, _ in seen])[:, None]),
            padding=stack_padding([padding for _, padding in seen]),
            errors=errors,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Handful:
    """Images at the model's size."""

    pixels: UInt8[Tensor, "image 1 rows columns"]
    padding: Bool[Tensor, "image rows columns"] | None
    errors: dict[int, VlpError]
    """Of images that cannot be read, by their place; they are black here."""


def _fill(
    model: VisionLanguageModel,
    images: _Images,
    writer: FeatureWriter,
    *,
    workers: int,
    budget: int,
    stop: StopFlag,
) -> Iterator[None]:
    """Writes part after part; yields once an image."""
    if not images.parts:
        return
    loaded = iter(
        DataLoader(
            images,
            batch_size=None,
            num_workers=workers,
            collate_fn=_as_it_is,
            worker_init_fn=partial(deaf_worker, prepare=prepare_worker),
            generator=torch.Generator().manual_seed(0),  # else the global one moves, which dropout draws from
        )
    )
    for part, handfuls in zip(images.parts, images.of_part, strict=True):
        if stop:
            return
        blocks: list[ImageFeatures | None] = []
        for _ in range(handfuls):
            handful = next(loaded)
            for error in handful.errors.values():
                budget -= 1
                if budget < 0:
                    raise error
            for features in _look(model, handful):
                blocks.append(features)
                yield
        writer.write(part, blocks)


def _look(model: VisionLanguageModel, handful: _Handful) -> Iterator[ImageFeatures | None]:
    """The features of one image after the other; None for one that cannot be read."""
    padding = None if handful.padding is None else handful.padding.to(model.device)
    features = model.image_features(handful.pixels.to(model.device), padding=padding).to("cpu")
    for place in range(len(handful.pixels)):
        yield None if place in handful.errors else features[place : place + 1]


def _announce(writer: FeatureWriter, parts: Sequence[int]) -> None:
    images = sum(len(writer.places(part)) for part in parts)
    _logger.info("image features: %d images, %.2f GB in %s", images, writer.bytes_of(parts) / 1e9, writer.folder)
    writer.refuse_full_disk(parts)


def _made_from(model: VisionLanguageModel, shards: Mapping[str, str], precision: str) -> dict[str, str]:
    design = model.config.image.model_dump(mode="json", exclude=set(_NOT_FEATURES))
    preprocess = model.config.preprocess.model_dump(mode="json")
    return {
        "image tower": tower_digest(model.image_tower),
        "settings of the image tower": json.dumps(design, sort_keys=True),
        "preprocessing": json.dumps(preprocess, sort_keys=True),
        "shards": hashlib.sha256("".join(sorted(shards.values())).encode()).hexdigest(),
        "precision": precision,
    }


def _autocast(device: torch.device, precision: str) -> torch.autocast:
    half = torch.float16 if precision == "16-mixed" else torch.bfloat16
    return torch.autocast(device.type, dtype=half, enabled=precision != "32")


def _as_it_is(item: Any) -> Any:
    return item
