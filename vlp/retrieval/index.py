"""An index of cases: unit vectors of images, and beside them what is known of the studies they belong to.

Built of an archive by a model, or of a store of vectors (`vlp.retrieval.store`); cases come and go without building it
again (`vlp.retrieval.opened`).  How it lies on the disk: `vlp.retrieval.segments`.
"""

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import vlp
from vlp.config import validate
from vlp.data.reader import ShardReader
from vlp.errors import CheckpointError, DataError
from vlp.log import get_logger
from vlp.retrieval.facts import FILE_NAME, IndexFacts, KindName, SearchPlan, SegmentFacts, counted, read_facts
from vlp.retrieval.gather import embedded, known_splits, stored
from vlp.retrieval.kinds.kind import load_faiss
from vlp.retrieval.opened import Index
from vlp.retrieval.segments import SEGMENTS, Content, Segment, copy_segment, synced, write_removed, write_segment
from vlp.retrieval.snapshot import open_current, open_snapshot
from vlp.retrieval.store.folder import VectorStore
from vlp.retrieval.writing import Operation, Write, Writer, append, write_facts

if TYPE_CHECKING:
    from vlp.inference.engine import Engine

__all__ = ["FILE_NAME", "Index", "IndexFacts", "build", "from_store", "merge", "open_index", "planned"]

logger = get_logger(__name__)


def build(
    engine: "Engine",
    reader: ShardReader,
    folder: Path | str,
    *,
    splits: Sequence[str] | None = None,
    kind: KindName = "auto",
    recall: float = 0.99,
    memory_bytes: int | None = None,
) -> Index:
    """Embeds every image of the given splits (None: of all) and writes the index, whole or not at all.

    An index that stands at `folder` is replaced; anything else there is refused.  An archive of which embedding takes
    hours is better embedded into a store first, which can be interrupted: `store.embed`, `from_store`.

    Args:
        engine: of the model that makes the vectors.
        reader: of the archive.
        folder: of the index.
        splits: which of the archive's splits.
        kind: of searcher; "auto" chooses by the count of vectors.
        recall: share of the true 10 nearest to be found.
        memory_bytes: what the vectors' searcher may take; None for no limit.

    Raises:
        DataError: for an unknown split, if there is no study in the splits, a study's images cannot be read, or the
            folder holds something else.
        ConfigError: for a kind, recall or memory that cannot be had.
        BackendError: if faiss is not installed.
    """
    load_faiss()
    target = Path(folder)
    _refuse_foreign(target)
    plan = planned(kind, recall=recall, memory_bytes=memory_bytes)
    wanted = known_splits(splits)
    keys = [key for split in wanted for key in reader.keys(split)]
    if not keys:
        raise DataError(f"{reader.folder}: no study to index in the splits {', '.join(wanted)}")
    return _created(target, engine.fingerprint, embedded(engine, reader, keys), plan=plan)


def from_store(
    store: VectorStore,
    folder: Path | str,
    *,
    splits: Sequence[str] | None = None,
    kind: KindName = "auto",
    recall: float = 0.99,
    memory_bytes: int | None = None,
) -> Index:
    """Writes the index of a complete store, with all kinds of vectors that it holds, whole or not at all.

    Arguments as in `build`.

    Raises:
        DataError: for an unknown split, a store that is damaged or holds nothing in the splits, or a folder that holds
            something else.
        ConfigError: for a kind, recall or memory that cannot be had.
        BackendError: if faiss is not installed.
    """
    load_faiss()
    target = Path(folder)
    _refuse_foreign(target)
    plan = planned(kind, recall=recall, memory_bytes=memory_bytes)
    content = stored(store, splits=known_splits(splits))
    return _created(target, store.facts.plan.checkpoint, content, plan=plan)


def open_index(path: Path | str) -> Index:
    """The index in a folder, after checking that its files are the ones that were written.

    Vectors of the default kind are checked now, others when they are first searched.

    Raises:
        DataError: for a folder that holds no index, or one that is damaged.
        BackendError: if faiss is not installed.
    """
    load_faiss()
    folder = Path(path)
    return Index(folder, open_current(folder))


def merge(folders: Sequence[Path | str], target: Path | str) -> Index:
    """One index of the cases of several, made without embedding or building anything; whole or not at all.

    A study that several hold is taken from the first.  `Index.compact` makes one searcher of those that come together.

    Args:
        folders: of indexes that one model made.
        target: of the new index; nothing may be there, or an empty folder.

    Raises:
        CheckpointError: if two models made them.
        DataError: for fewer than two folders, one that is damaged, a key that two different studies have, or a target
            that is there.
    """
    place = Path(target)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise DataError(f"{place}: exists; name a folder that does not")
    indexes = [open_index(folder) for folder in folders]
    if len({index.folder.resolve() for index in indexes}) < max(2, len(indexes)):
        raise DataError("merging needs at least two different indexes")
    first = indexes[0].facts
    for index in indexes[1:]:
        if index.facts.checkpoint != first.checkpoint:
            raise CheckpointError(f"{index.folder}: built by another checkpoint than {indexes[0].folder}; cannot merge")

    def fill(folder: Path) -> IndexFacts:
        return first.model_copy(update={"generation": 1, "segments": tuple(_copied(indexes, folder))})

    return _placed(place, fill, what="merge")


def planned(kind: KindName = "auto", *, recall: float = 0.99, memory_bytes: int | None = None) -> SearchPlan:
    """How vectors are to be searched.

    Raises:
        ConfigError: for a kind that there is not, or a recall or memory that cannot be.
    """
    values = {"kind": kind, "recall": recall, "memory_bytes": memory_bytes}
    return validate(SearchPlan, values, where="index")


def _created(target: Path, checkpoint: str, content: Content, *, plan: SearchPlan) -> Index:
    facts = IndexFacts(
        vlp_version=vlp.__version__,
        checkpoint=checkpoint,
        dim=content.spaces[0].vectors.shape[1],
        plan=plan,
    )

    def fill(folder: Path) -> IndexFacts:
        segment = write_segment(folder / SEGMENTS / "000001", "000001", content, plan=plan)
        return facts.model_copy(update={"segments": (segment,)})

    return _placed(target, fill, what="build")


def _placed(target: Path, fill: Callable[[Path], IndexFacts], *, what: Operation) -> Index:
    """Makes an index beside the target and puts it there, instead of what stands there."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.partial-") as name:
            partial = Path(name) / "index"
            (partial / SEGMENTS).mkdir(parents=True)
            facts = fill(partial)
            snapshot = open_snapshot(partial, facts)
            append(partial, Write(generation=1, what=what, state="complete", counts={"added": len(snapshot.cases)}))
            facts = counted(facts, snapshot.cases)
            write_facts(partial, facts)
            synced(partial)
            _take_place(partial, target, facts, what=what)
    except OSError as error:
        raise DataError(f"{target}: cannot write the index: {error.strerror}") from None
    index = open_index(target)
    logger.info("index of %d images of %d studies: %s", index.facts.images, index.facts.studies, target)
    return index


def _take_place(partial: Path, target: Path, facts: IndexFacts, *, what: Operation) -> None:
    if not target.exists():
        os.rename(partial, target)
        return
    if not _readable(target):
        _exchanged(partial, target)
        return
    # A generation like any other: whoever reads the old one keeps it, and at no moment there is none.
    with Writer(target) as writer:
        writer.begin(what)
        segments = []
        for segment in facts.segments:
            place, name = writer.place()
            os.rename(partial / SEGMENTS / segment.name, place)
            writer.keep(name)
            segments.append(segment.model_copy(update={"name": name}))
        counts = {"added": facts.images, "removed": writer.facts.images}
        now = {"generation": writer.facts.generation + 1, "segments": tuple(segments)}
        writer.commit(facts.model_copy(update=now), what=what, counts=counts)


def _exchanged(partial: Path, target: Path) -> None:
    old = partial.with_name("old")
    os.rename(target, old)
    try:
        os.rename(partial, target)
    except OSError:
        os.rename(old, target)
        raise


def _readable(folder: Path) -> bool:
    try:
        read_facts(folder)
    except DataError:
        return False
    return True


def _copied(indexes: Sequence[Index], folder: Path) -> list[SegmentFacts]:
    """Copies all segments, each study only once."""
    facts: list[SegmentFacts] = []
    owners: dict[str, tuple[str, str]] = {}
    for index in indexes:
        snapshot = index.snapshot
        cases = snapshot.cases
        again = cases["key"].isin(list(owners)).to_numpy()
        studies = zip(cases["key"], cases["study"], cases["person"], strict=True)
        for key, study, person in studies:
            if owners.setdefault(key, (study, person)) != (study, person):
                raise DataError(f"{index.folder}: a study has the key of another study of the other indexes")
        for segment, local in snapshot.local_rows(np.flatnonzero(again)):
            name = f"{len(facts) + 1:06d}"
            copied = copy_segment(segment, folder / SEGMENTS / name, name)
            if len(local):
                copied = write_removed(Segment(folder / SEGMENTS / name, copied), local, generation=1)
            facts.append(copied)
    return facts


def _refuse_foreign(folder: Path) -> None:
    if folder.is_dir() and ((folder / FILE_NAME).is_file() or not any(folder.iterdir())):
        return
    if folder.exists():
        raise DataError(f"{folder}: exists and is no index; name another folder or remove it yourself")
