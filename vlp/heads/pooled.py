"""One vector per study from a frozen encoder, with what zero-shot says of it; kept on the disk."""

import hashlib
import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float

from vlp.data.reader import ShardReader
from vlp.errors import DataError
from vlp.inference.classify import weigh
from vlp.inference.engine import Engine
from vlp.log import get_logger, progress
from vlp.prompts.descriptors import DescriptorSet, Prompts
from vlp.records import Split

Representation = Literal["tower", "joint"]
_logger = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooled:
    """The studies of a split that have a frontal image, by what a model makes of its first."""

    keys: tuple[str, ...]
    vectors: Float[np.ndarray, "study width"]
    scores: Float[np.ndarray, "study finding"]
    """Zero-shot, similarity-based, uncalibrated."""


def ensure_pooled(
    folder: Path,
    engine: Engine,
    reader: ShardReader,
    split: Split,
    *,
    representation: Representation,
    findings: Sequence[str],
    descriptors: DescriptorSet,
    prompts: Prompts,
    batch: int,
) -> Pooled:
    """The vectors and scores of a split, from `folder` where they were computed before.

    Raises:
        DataError: for a split without a frontal image, an image that cannot be read, or a file that cannot be written.
    """
    frontal = {key: reader.sample(key).frontal for key in reader.keys(split)}
    keys = tuple(key for key, indices in frontal.items() if indices)
    if not keys:
        raise DataError(f"{reader.folder}: no frontal image in the split {split!r}")
    if len(keys) < len(frontal):
        _logger.info("%s: %d studies without a frontal image are left out", split, len(frontal) - len(keys))
    pairs = [(pair.positive, pair.negative) for name in findings for pair in descriptors.of(name, prompts=prompts)]
    made_from = json.dumps([engine.fingerprint, reader.digest(), split, representation, list(findings), pairs])
    file = folder / f"vectors-{split}-{hashlib.sha256(made_from.encode()).hexdigest()[:16]}.npz"
    found = _read(file, studies=len(keys))
    if found is None:
        vectors, scores = [], []
        starts = progress(range(0, len(keys), batch), description=f"vectors of {split}", unit="batches")
        for start in starts:
            images = [engine.see(reader, key, frontal[key][0]) for key in keys[start : start + batch]]
            looked = engine.looked(images)
            own = looked.tower.float().cpu().numpy() if representation == "tower" else engine.vectors(looked.features)
            vectors.append(own)
            scores.append(weigh(engine, looked.features, findings, descriptors=descriptors, prompts=prompts).scores)
        found = np.concatenate(vectors).astype(np.float32), np.concatenate(scores).astype(np.float32)
        _write(file, *found)
    return Pooled(keys=keys, vectors=found[0], scores=found[1])


def _write(file: Path, vectors: np.ndarray, scores: np.ndarray) -> None:
    temporary = file.with_name(f".{file.name}.partial")
    try:
        with temporary.open("wb") as stream:
            np.savez(stream, vectors=vectors, scores=scores)
        os.replace(temporary, file)
    except OSError as error:
        raise DataError(f"{file}: cannot be written: {error.strerror}") from None


def _read(file: Path, *, studies: int) -> tuple[np.ndarray, np.ndarray] | None:
    """What `_write` wrote; None where there is nothing, or nothing whole."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            vectors, scores = arrays["vectors"], arrays["scores"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return (vectors, scores) if len(vectors) == len(scores) == studies else None
