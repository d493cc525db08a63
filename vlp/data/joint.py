"""Several folders of shards read as one, each with a weight that says how often an epoch sees its studies."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8
from pydantic import PositiveFloat
from typing_extensions import override

from vlp.config import Config
from vlp.data.counts import Counts, Sums, count_patients
from vlp.data.files import USUAL, RemoteConfig
from vlp.data.manifest import Manifest, Sample, Shard
from vlp.data.order import Layout
from vlp.data.reader import ShardReader, open_shards
from vlp.data.schema import SampleJson
from vlp.errors import ConfigError, DataError
from vlp.records import Split


class ArchiveShare(Config):
    """One of several archives that are trained on together."""

    shards: str
    """A folder of shards, or its URL."""
    weight: PositiveFloat = 1.0
    """How often an epoch sees each of its studies: 1.0 once, 2.0 twice, 0.5 half of them, the other half next time."""


class JointReader(ShardReader):
    """Reads the studies of several archives, one archive after the other.

    A study's key is the archive's name, a slash and its key there.  What else it does, a reader of one archive does.

    Args:
        readers: of one archive each.
        weights: how often an epoch sees each archive's studies; None for once.

    Raises:
        ConfigError: if two archives have the same name.
    """

    def __init__(self, readers: Sequence[ShardReader], weights: Sequence[float] | None = None) -> None:
        self.readers = {reader.name: reader for reader in readers}
        self.weights = tuple(weights) if weights is not None else (1.0,) * len(readers)
        assert len(self.weights) == len(readers) >= 1
        if len(self.readers) < len(readers):
            twice = next(name for name, count in Counter(reader.name for reader in readers).items() if count > 1)
            raise ConfigError(f"shards: two archives are called {twice}, and keys begin with that; rename a folder")
        self.folder = Path(" + ".join(str(reader.folder) for reader in readers))

    @cached_property
    def manifest(self) -> Manifest:  # type: ignore[override]
        """All manifests as one, for its figures; shards of different archives may have the same name in it.

        `image_format` is the first archive's; the method of that name says each study's.
        """
        manifests = [reader.manifest for reader in self.readers.values()]
        shards = tuple(shard for manifest in manifests for shard in manifest.shards)
        sums = Sums()
        for manifest in manifests:
            sums.counts(Counts.of(manifest))
        updated = {**dict(sums.total(count_patients(shards))), "shards": shards}
        unknown = {name: Manifest.model_fields[name].get_default(call_default_factory=True) for name in _OF_ONE}
        return manifests[0].model_copy(update=updated | unknown)

    @property
    def name(self) -> str:
        """The archives' names."""
        return "+".join(self.readers)

    @override
    def digest(self) -> str:
        raise AssertionError("every archive has its own; see digests")

    @override
    def keys(self, split: Split | None = None) -> tuple[str, ...]:
        return tuple(f"{name}/{key}" for name, reader in self.readers.items() for key in reader.keys(split))

    @override
    def sample(self, key: str) -> Sample:
        reader, inner = self._find(key)
        return reader.sample(inner)

    @override
    def shard_of(self, key: str) -> Shard:
        reader, inner = self._find(key)
        return reader.shard_of(inner)

    @override
    def image_format(self, key: str) -> Literal["jpg", "png"]:
        return self._find(key)[0].manifest.image_format

    @override
    def sample_json(self, key: str) -> SampleJson:
        reader, inner = self._find(key)
        return reader.sample_json(inner)

    @override
    def text(self, key: str) -> str:
        reader, inner = self._find(key)
        return reader.text(inner)

    @override
    def encoded(self, key: str, index: int = 0) -> bytes:
        reader, inner = self._find(key)
        return reader.encoded(inner, index)

    @override
    def image(
        self, key: str, index: int = 0, *, at_least: tuple[int, int] | None = None
    ) -> UInt8[np.ndarray, "rows columns"]:
        reader, inner = self._find(key)
        return reader.image(inner, index, at_least=at_least)

    @override
    def member(self, key: str, suffix: str) -> bytes:
        reader, inner = self._find(key)
        return reader.member(inner, suffix)

    @override
    def close(self) -> None:
        for reader in self.readers.values():
            reader.close()

    def __len__(self) -> int:
        return sum(map(len, self.readers.values()))

    def __getstate__(self) -> dict[str, Any]:
        return {"readers": list(self.readers.values()), "weights": self.weights}

    def __setstate__(self, state: dict[str, Any]) -> None:
        JointReader.__init__(self, state["readers"], state["weights"])

    def _find(self, key: str) -> tuple[ShardReader, str]:
        """The archive's reader, and the study's key there."""
        name, _, inner = key.partition("/")
        try:
            return self.readers[name], inner
        except KeyError:
            raise DataError(f"{self.folder}: there is no study with the key {key}") from None


_OF_ONE = ("recipe", "source_fingerprint", "read", "faults", "left_out", "privacy", "part")
"""Fields of a manifest that say how one archive was made, and are left empty for several."""


def open_archives(
    shards: Path | str | Sequence[ArchiveShare], *, remote: RemoteConfig = USUAL
) -> ShardReader | JointReader:
    """A reader of one folder of shards, or of several with their weights.

    Raises:
        ConfigError: if none is named, or two have the same name.
        DataError: if one of them cannot be used; see `open_shards`.
    """
    if isinstance(shards, Path | str):
        return open_shards(shards, remote=remote)
    if not shards:
        raise ConfigError("shards: no archive is named")
    readers = [open_shards(share.shards, remote=remote) for share in shards]
    return JointReader(readers, [share.weight for share in shards])


def layout_of(reader: ShardReader, keys: Iterable[str]) -> Layout:
    """What an epoch over `keys`, which stand in the reader's own order, is planned by."""
    names = list(reader.readers) if isinstance(reader, JointReader) else [""]
    found: dict[str, Counter[str]] = {name: Counter() for name in names}
    last: tuple[str, str] | None = None
    for key in keys:
        name, shard = key.rpartition("/")[0], reader.shard_of(key).name
        assert (name, shard) == last or shard not in found[name], "keys in another order than the reader's"
        found[name][shard] += 1
        last = name, shard
    return Layout(
        shards=tuple(tuple(studies.values()) for studies in found.values()),
        weights=reader.weights if isinstance(reader, JointReader) else (1.0,),
    )


def digests(reader: ShardReader) -> dict[str, str]:
    """SHA-256 of every archive's manifest, by the archive's name, in order."""
    readers = reader.readers.values() if isinstance(reader, JointReader) else (reader,)
    return {each.name: each.digest() for each in readers}


def describe_difference(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """In one line, how the archives of `digests` differ; "" if they are the same.

    An archive alone is the same under another name; of several, the names are part of every key.
    """
    if list(before.items()) == list(now.items()):
        return ""
    if len(before) == len(now) == 1:
        (old,), (new,) = before.values(), now.values()
        return "" if old == new else f"{next(iter(now))} was {_short(old)} and is {_short(new)}"
    said = [
        *(f"{name} is missing" for name in before if name not in now),
        *(f"{name} is new" for name in now if name not in before),
        *(
            f"{name} was {_short(before[name])} and is {_short(digest)}"
            for name, digest in now.items()
            if before.get(name, digest) != digest
        ),
    ]
    return "; ".join(said) or f"the order was {', '.join(before)} and is {', '.join(now)}"


def _short(digest: str) -> str:
    return f"sha256 {digest[:12]}"
