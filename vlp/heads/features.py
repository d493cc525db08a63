"""What a frozen tower makes of the images a head learns from, on the disk: computed once, read in every epoch."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from vlp.data.cache import ImageCache
from vlp.data.feature_store import FeatureHeader, FeatureStore, FeatureWriter, Place
from vlp.data.reader import ShardReader
from vlp.heads.encoder import Encoder
from vlp.inference.engine import Engine
from vlp.log import progress
from vlp.tensors import ImageFeatures

_AT_A_TIME = 32


def ensure_features(
    folder: Path,
    engine: Engine,
    encoder: Encoder,
    reader: ShardReader,
    places: Sequence[Place],
    *,
    cache: ImageCache,
) -> FeatureStore:
    """The tower's features of the images at `places`; parts that are not on the disk yet are computed first.

    A call that is interrupted goes on with the next part.

    Raises:
        ConfigError: if the folder holds features of another encoder, other shards or other images.
        DataError: for an image that cannot be read, or a disk without the room.
    """
    studies: dict[str, list[int]] = {}
    for key, index in places:
        studies.setdefault(key, []).append(index)
    header = FeatureHeader(
        made_from={
            "encoder": engine.fingerprint,
            "shards": reader.digest(),
            "preprocessing": json.dumps(engine.model.config.preprocess.model_dump(mode="json"), sort_keys=True),
        },
        dtype="float16",
        width=engine.model.image_tower.width,
        grid=engine.model.grid,
        studies=tuple((key, tuple(indices)) for key, indices in studies.items()),
    )
    writer = FeatureWriter(folder, header)
    writer.begin()
    missing = writer.missing()
    writer.refuse_full_disk(missing)
    for part in progress(missing, description="image features", unit="parts"):
        writer.write(part, _computed(encoder, reader, writer.places(part), cache=cache))
    return FeatureStore(folder)


def _computed(
    encoder: Encoder, reader: ShardReader, places: Sequence[Place], *, cache: ImageCache
) -> Iterator[ImageFeatures]:
    for start in range(0, len(places), _AT_A_TIME):
        seen = [cache.get(reader, key, index) for key, index in places[start : start + _AT_A_TIME]]
        with torch.no_grad():
            yield encoder.see(seen).tower.to("cpu")
