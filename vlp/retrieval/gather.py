"""What an index is made of: the images of an archive through the model, or the vectors of a store."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pyarrow as pa

from vlp.data.reader import ShardReader
from vlp.data.transforms import SeenImage
from vlp.errors import DataError
from vlp.log import progress
from vlp.records import Split
from vlp.retrieval.segments import CASE_SCHEMA, Content, Space
from vlp.retrieval.store.folder import VectorStore
from vlp.retrieval.store.rows import row_facts
from vlp.retrieval.store.vectors import VectorKind, image_fingerprint

if TYPE_CHECKING:
    from vlp.inference.engine import Engine

_BATCH_IMAGES = 32


def embedded(engine: "Engine", reader: ShardReader, keys: Sequence[str]) -> Content:
    """The images of some studies, each with its vector.

    Raises:
        DataError: if an image cannot be read.
    """
    rows: list[dict[str, Any]] = []
    vectors: list[np.ndarray] = []
    waiting: list[SeenImage] = []
    for key in progress(keys, description="embedding", unit="studies"):
        study = reader.study(key)
        for image in range(reader.num_images(key)):
            seen = engine.see(reader, key, image)
            rows.append(row_facts(study, key, image, fingerprint=image_fingerprint(seen)))
            waiting.append(seen)
        if len(waiting) >= _BATCH_IMAGES or key == keys[-1]:
            vectors.append(engine.embed(waiting))
            waiting = []
    space = Space(kind="view", owners=np.arange(len(rows)), vectors=np.concatenate(vectors))
    return Content(cases=_cases(rows), reports=[row["report"] for row in rows], spaces=(space,))


def stored(store: VectorStore, *, splits: Sequence[Split]) -> Content:
    """The images of some splits of a store, with all of their vectors.

    Raises:
        DataError: if a file of the store is damaged, or it holds no study of the splits.
    """
    rows: dict[tuple[str, int], int] = {}
    facts: list[dict[str, Any]] = []
    spaces: list[Space] = []
    for kind in store.facts.plan.kinds:
        frame = store.rows(kind)
        wanted = frame["split"].isin(splits).to_numpy()
        owners = np.full(len(frame), -1)
        for place in np.flatnonzero(wanted):
            case = frame.iloc[place]
            name = (str(case["key"]), int(case["image"]))
            if name not in rows:
                rows[name] = len(facts)
                facts.append({str(name): value for name, value in case.items()})
            owners[place] = rows[name]
        vectors = np.concatenate([np.zeros((0, store.dim), np.float16), *store.vectors(kind)])
        spaces += _by_what(kind, frame["what"].to_numpy(), owners, vectors)
    if not facts:
        raise DataError(f"{store.folder}: no study to index in the splits {', '.join(splits)}")
    return Content(cases=_cases(facts), reports=[row["report"] for row in facts], spaces=tuple(spaces))


def known_splits(splits: Sequence[str] | None) -> tuple[Split, ...]:
    """The splits in their usual order; None: all of them.

    Raises:
        DataError: for a name that is no split.
    """
    known: tuple[Split, ...] = get_args(Split)
    for split in splits or ():
        if split not in known:
            raise DataError(f"there is no split {split!r}; splits are {', '.join(known)}")
    return tuple(split for split in known if splits is None or split in splits)


def _by_what(kind: VectorKind, what: np.ndarray, owners: np.ndarray, vectors: np.ndarray) -> list[Space]:
    spaces = []
    for name in sorted(set(what[owners >= 0])):
        own = np.flatnonzero((what == name) & (owners >= 0))
        spaces.append(Space(kind=kind, what=str(name), owners=owners[own], vectors=vectors[own]))
    return spaces


def _cases(rows: Sequence[dict[str, Any]]) -> pa.Table:
    plain = [
        {**row, "groups": list(dict(row["groups"]).items()), "age": None if row["age"] != row["age"] else row["age"]}
        for row in rows
    ]
    return pa.Table.from_pylist([{name: row[name] for name in CASE_SCHEMA.names} for row in plain], schema=CASE_SCHEMA)
