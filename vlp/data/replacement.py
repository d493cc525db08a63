"""Which study stands in for one that cannot be read: arithmetic on (seed, epoch, study), the same in any process.

A restarted run, or one with other workers, reads the same stand-in; nothing of it has to be remembered.
"""

import hashlib
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int

_ATTEMPTS = 8
"""Stand-ins that are tried; where so many cannot be read either, it is not single studies that are damaged."""


def stand_ins(order: Int[np.ndarray, " study"], *, failed: int, seed: int, epoch: int) -> Iterator[int]:
    """Studies of the epoch to read instead of `failed`, the first choice first; each comes once.

    Args:
        order: The studies of the epoch (`order.Epoch.permutation`), `failed` among them.
        failed: The study that cannot be read.
        seed: Of the order.
        epoch: Number of the epoch.
    """
    tried = {failed}
    for attempt in range(_ATTEMPTS):
        digest = hashlib.blake2b(f"{seed} {epoch} {failed} {attempt}".encode(), digest_size=8).digest()
        chosen = int(order[int.from_bytes(digest, "little") % len(order)])
        if chosen not in tried:
            tried.add(chosen)
            yield chosen
