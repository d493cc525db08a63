"""What comes next in an epoch: pure arithmetic on (seed, epoch, step, rank, world, batch).

An epoch of `n` studies takes `ceil(n / (world * batch))` steps of nearly equal size, so that there is no tiny last
batch, every rank has the same number of steps and no study is dropped or repeated.  No state, no random generator:
the same numbers give the same studies on every machine and with every version of every library.

The order is one for all ranks, and a step's studies lie side by side in it; so what is left of an epoch after any
number of steps can be dealt anew to any number of ranks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from math import ceil, floor

import numpy as np
from jaxtyping import Int, UInt64

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
_LARGEST_DENOMINATOR = 10**9
"""Weights are ratios: 0.1 is a tenth, and ten epochs of a tenth are the archive exactly."""
# What a hash is for, so that no two orders are related.
_RING, _FRACTION, _SHARDS = 1, 2, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What there is to read: one or several archives, each made of shards.

    A study's index counts usable studies over all archives, archive after archive, in reading order.
    """

    shards: tuple[tuple[int, ...], ...]
    """Per archive: usable studies in each of its shards, in reading order."""
    weights: tuple[float, ...]
    """Per archive: how often an epoch sees each of its studies.  1.0: once, 2.0: twice, 0.5: half of them, and the
    other half in the next epoch."""

    def __post_init__(self) -> None:
        assert len(self.shards) == len(self.weights) >= 1
        assert all(weight > 0 for weight in self.weights)

    @property
    def total(self) -> int:
        """Usable studies in all archives."""
        return sum(map(sum, self.shards))

    @property
    def num_studies(self) -> int:
        """Studies of a shuffled epoch, at least.

        Where weight times studies is no whole number, what is missing is carried: some epochs have one more.
        """
        return sum(floor(archive.exact_weight * archive.num_studies) for archive in self.archives())

    def length(self, epoch: int) -> int:
        """Studies of the shuffled epoch number `epoch`."""
        return sum(archive.length(epoch) for archive in self.archives())

    def archives(self) -> "tuple[Archive, ...]":
        """The archives with their numbers and places."""
        firsts = accumulate((sum(shards) for shards in self.shards), initial=0)
        rows = zip(self.shards, self.weights, firsts, strict=False)
        return tuple(
            Archive(number=number, first=first, shards=shards, weight=weight)
            for number, (shards, weight, first) in enumerate(rows)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """One archive of a `Layout`."""

    number: int
    first: int
    """Index of its first study."""
    shards: tuple[int, ...]
    """Usable studies in each shard."""
    weight: float

    @property
    def num_studies(self) -> int:
        """Usable studies."""
        return sum(self.shards)

    @property
    def exact_weight(self) -> Fraction:
        """The weight as the ratio that was meant."""
        return Fraction(self.weight).limit_denominator(_LARGEST_DENOMINATOR)

    def length(self, epoch: int) -> int:
        """Studies that it gives to an epoch."""
        passes, begin, end = self._share(epoch)
        return len(passes) * self.num_studies + end - begin

    def permutation(self, *, seed: int, epoch: int, window_shards: int | None) -> Int[np.ndarray, "study"]:
        """The studies that it gives to an epoch, in order.

        A weight of 2.3 is two passes over everything and three tenths of a pass.  The tenths are cut, epoch after
        epoch, from one ring of all studies: none comes twice in a cut, and ten epochs hold each three times.
        """
        passes, begin, end = self._share(epoch)
        everything = np.arange(self.num_studies)
        # An archive alone is ordered by (seed, epoch): runs recorded before there could be several go on as they did.
        keys = [(seed, number) if self.number == 0 else (seed, number, self.number) for number in passes]
        parts = [self._shuffled(everything, key=key, window_shards=window_shards) for key in keys]
        if end > begin:
            ring = self._ring(seed=seed, by_shard=window_shards is not None)
            cut = ring[np.arange(begin, end) % self.num_studies]
            key = (seed, epoch, self.number, _FRACTION)
            parts.append(self._shuffled(np.sort(cut), key=key, window_shards=window_shards))
        return self.first + np.concatenate([np.zeros(0, dtype=np.int64), *parts])

    def _share(self, epoch: int) -> tuple[range, int, int]:
        """Numbers of the whole passes, and the piece of the endless ring, that fall into an epoch."""
        whole, rest = divmod(self.exact_weight, 1)
        begin, end = (ceil(rest * self.num_studies * number) for number in (epoch, epoch + 1))
        return range(whole * epoch, whole * (epoch + 1)), begin, end

    def _ring(self, *, seed: int, by_shard: bool) -> Int[np.ndarray, "study"]:
        """All studies in the order that fractions are cut from; whole shards side by side where reads shall be few."""
        key = (seed, self.number, _RING)
        if not by_shard:
            return _by_hash(np.arange(self.num_studies), key=key)
        ranks = np.argsort(_by_hash(np.arange(len(self.shards)), key=key))
        return np.argsort(ranks[self._shard_of()], kind="stable")

    def _shuffled(
        self, studies: Int[np.ndarray, "study"], *, key: Sequence[int], window_shards: int | None
    ) -> Int[np.ndarray, "study"]:
        shuffled = _by_hash(studies, key=key)
        if window_shards is None:
            return shuffled
        shards = self._shard_of()[shuffled]
        present = np.unique(shards)
        ranks = np.zeros(len(self.shards), dtype=np.int64)
        ranks[_by_hash(present, key=(*key, _SHARDS))] = np.arange(len(present))
        return shuffled[np.argsort(ranks[shards] // window_shards, kind="stable")]

    def _shard_of(self) -> Int[np.ndarray, "study"]:
        return np.repeat(np.arange(len(self.shards)), self.shards)


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """The plan of one epoch, or of what is left of it after `consumed` studies."""

    layout: Layout
    batch: int
    """Studies per rank and step, at most."""
    world: int = 1
    seed: int = 0
    epoch: int = 0
    shuffle: bool = True
    """False: every study once, in reading order, whatever its archive's weight."""
    window_shards: int | None = None
    """None: shuffled over everything.  n: shards come in random order, and studies are shuffled within windows of so
    many shards, so that no more than n shards of each archive (2 n where a window ends) are read at a time."""
    consumed: int = 0
    """Studies of this epoch that were trained on before, perhaps with another world size."""

    @property
    def num_studies(self) -> int:
        """Studies of the whole epoch, the consumed ones included."""
        return self.layout.length(self.epoch) if self.shuffle else self.layout.total

    @property
    def num_steps(self) -> int:
        """Steps of the plan; the same on every rank."""
        left = self.num_studies - self.consumed
        if left <= 0:
            return 0
        steps = -(-left // (self.world * self.batch))
        # With a batch of one, equal steps can leave a rank empty-handed; a fuller step is the lesser evil.
        return min(steps, max(1, left // self.world))

    def consumed_before(self, step: int) -> int:
        """Studies of the epoch that are done when `step` begins: what to resume with under another world size."""
        left = self.num_studies - self.consumed
        return self.consumed + (left * step) // max(1, self.num_steps)

    def indices(self, step: int, rank: int = 0) -> Int[np.ndarray, "study"]:
        """The studies that `rank` sees at `step`."""
        return self._share(self.permutation(), step, rank)

    def permutation(self) -> Int[np.ndarray, "study"]:
        """The whole epoch in order, the consumed studies included.

        With several archives, any stretch of it holds each one's share: `share * length` studies, give or take less
        than `1 + share * (archives - 2)`, so less than one of two archives.
        """
        if not self.shuffle:
            return np.arange(self.layout.total)
        parts = [
            archive.permutation(seed=self.seed, epoch=self.epoch, window_shards=self.window_shards)
            for archive in self.layout.archives()
        ]
        return parts[0] if len(parts) == 1 else _interleaved(parts)

    def steps(self, rank: int = 0) -> list[Int[np.ndarray, "study"]]:
        """`indices` of every step, computed at once."""
        order = self.permutation()
        return [self._share(order, step, rank) for step in range(self.num_steps)]

    def _share(self, order: np.ndarray, step: int, rank: int) -> np.ndarray:
        assert 0 <= rank < self.world
        assert 0 <= step < self.num_steps
        begin, end = self.consumed_before(step), self.consumed_before(step + 1)
        first, last = ((end - begin) * share // self.world for share in (rank, rank + 1))
        return order[begin + first : begin + last]


def find_step(
    layout: Layout, step: int, *, batch: int, world: int = 1, epoch: int = 0, consumed: int = 0
) -> tuple[int, int]:
    """Where step number `step` of a run lies, as (epoch, position in it).

    Steps count from the beginning of `epoch`, or from what is left of it after `consumed` studies; there, positions
    count from what is left too, as they do in `Epoch`.
    """
    assert layout.num_studies or layout.length(0)
    while True:
        steps = Epoch(layout=layout, batch=batch, world=world, epoch=epoch, consumed=consumed).num_steps
        if step < steps:
            return epoch, step
        step, epoch, consumed = step - steps, epoch + 1, 0
        if _always_alike(layout):
            steps = Epoch(layout=layout, batch=batch, world=world, epoch=epoch).num_steps
            return epoch + step // steps, step % steps


def epoch_permutation(num_studies: int, *, seed: int, epoch: int) -> Int[np.ndarray, "study"]:
    """All studies in the order of one epoch of one archive: sorted by a hash of (seed, epoch, study)."""
    return _by_hash(np.arange(num_studies), key=(seed, epoch))


def _always_alike(layout: Layout) -> bool:
    """Whether every epoch has the same number of studies."""
    return all((archive.exact_weight * archive.num_studies).denominator == 1 for archive in layout.archives())


def _interleaved(parts: Sequence[Int[np.ndarray, "_"]]) -> Int[np.ndarray, "study"]:
    """One order of several, each spread evenly: study j of n stands at (j + 1/2) / n."""
    places = np.concatenate([(2.0 * np.arange(len(part)) + 1.0) / max(1, 2 * len(part)) for part in parts])
    order: np.ndarray = np.concatenate(parts)[np.argsort(places, kind="stable")]
    return order


def _by_hash(studies: Int[np.ndarray, "study"], *, key: Sequence[int]) -> Int[np.ndarray, "study"]:
    """The studies sorted by a hash of the key and their index."""
    seed, *others = key
    salt = _mix_one(seed & _MASK)
    for other in others:
        salt = _mix_one(salt ^ (other & _MASK))
    return studies[np.argsort(_mix(studies.astype(np.uint64) ^ np.uint64(salt)), kind="stable")]


def _mix_one(value: int) -> int:
    return int(_mix(np.array([value], dtype=np.uint64))[0])


def _mix(values: UInt64[np.ndarray, "value"]) -> UInt64[np.ndarray, "value"]:
    """SplitMix64's finaliser (Steele, Lea and Flood, OOPSLA 2014): a bijection of 64-bit numbers."""
    values = values + np.uint64(_GOLDEN)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = values ^ (values >> np.uint64(31))
    return mixed
