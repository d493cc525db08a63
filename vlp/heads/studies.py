"""Which studies a head learns from: a share of the patients, and nobody who is tested."""

import hashlib
from collections.abc import Sequence
from itertools import combinations

from vlp.data.reader import ShardReader
from vlp.errors import DataError
from vlp.records import Split


def chosen_patients(patients: Sequence[str], *, share: float, seed: int) -> frozenset[str]:
    """So large a share of the patients, at least one, by a keyed hash: a smaller share lies within a larger one."""

    def place(patient: str) -> bytes:
        return hashlib.blake2b(patient.encode(), digest_size=8, key=str(seed).encode()).digest()

    ordered = sorted(set(patients), key=lambda patient: (place(patient), patient))
    return frozenset(ordered[: max(1, round(share * len(ordered)))])


def keys_of(reader: ShardReader, split: Split, *, share: float = 1.0, seed: int = 0) -> tuple[str, ...]:
    """Keys of the studies of a share of a split's patients."""
    keys = reader.keys(split)
    chosen = chosen_patients([reader.sample(key).patient for key in keys], share=share, seed=seed)
    return tuple(key for key in keys if reader.sample(key).patient in chosen)


def refuse_shared_patients(reader: ShardReader, splits: Sequence[Split]) -> None:
    """Makes sure that every split has studies and no two share a patient.

    Raises:
        DataError: naming the splits.
    """
    for split in splits:
        if not reader.manifest.patients(split):
            raise DataError(f"{reader.folder}: no study in the split {split!r}")
    for first, second in combinations(splits, 2):
        shared = len(reader.manifest.patients(first) & reader.manifest.patients(second))
        if shared:
            raise DataError(f"{reader.folder}: {shared} patients are in both {first} and {second}; split by patient")
