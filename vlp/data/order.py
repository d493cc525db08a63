"""What comes next in an epoch: pure arithmetic on (seed, epoch, step, rank, world, batch).

An epoch of `n` studies takes `ceil(n / (world * batch))` steps of nearly equal size, so that there is no tiny last
batch, every rank has the same number of steps and no study is dropped or repeated.  No state, no random generator:
the same numbers give the same studies on every machine and with every version of every library.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """The plan of one epoch, or of what is left of it after `consumed` studies."""

    num_studies: int
    batch: int
    """Studies per rank and step, at most."""
    world: int = 1
    seed: int = 0
    epoch: int = 0
    shuffle: bool = True
    consumed: int = 0
    """Studies of this epoch that were trained on before, perhaps with another world size."""

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
        """The whole epoch in order, the consumed studies included."""
        if not self.shuffle:
            return np.arange(self.num_studies)
        return epoch_permutation(self.num_studies, seed=self.seed, epoch=self.epoch)

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


def epoch_permutation(num_studies: int, *, seed: int, epoch: int) -> Int[np.ndarray, "study"]:
    """All studies in the order of one epoch: sorted by a hash of (seed, epoch, study)."""
    salt = _mix_one(_mix_one(seed & _MASK) ^ (epoch & _MASK))
    hashes = _mix(np.arange(num_studies, dtype=np.uint64) ^ np.uint64(salt))
    return np.argsort(hashes, kind="stable")


def _mix_one(value: int) -> int:
    return int(_mix(np.array([value], dtype=np.uint64))[0])


def _mix(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele, Lea and Flood, OOPSLA 2014): a bijection of 64-bit numbers."""
    values = values + np.uint64(_GOLDEN)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = values ^ (values >> np.uint64(31))
    return mixed
