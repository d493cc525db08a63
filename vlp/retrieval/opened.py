"""An open index of cases: searching it, and letting cases come and go.

One process writes at a time, any number read; whoever has an index open sees it as it was then until `refresh`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from vlp.data.duplicates import FINE
from vlp.data.reader import ShardReader
from vlp.errors import CheckpointError, DataError
from vlp.records import Split
from vlp.retrieval.facts import IndexFacts, SearchPlan, SegmentFacts, counted
from vlp.retrieval.filters import Filter
from vlp.retrieval.gather import embedded, known_splits
from vlp.retrieval.kinds.choose import FLAT_BELOW
from vlp.retrieval.kinds.kind import Searcher
from vlp.retrieval.search import Hits, LeftOut, find
from vlp.retrieval.segments import SEGMENTS, Content, Segment, write_removed, write_segment
from vlp.retrieval.snapshot import Part, Snapshot, open_current, open_snapshot
from vlp.retrieval.store.vectors import VectorKind
from vlp.retrieval.writing import Operation, Writer

if TYPE_CHECKING:
    from vlp.inference.engine import Engine

SAME_IMAGE = 0.99999
"""Cosine of two images from which they are one and the same to the model: float32 noise is all that parts them."""
COPIED_BITS = 20
"""Of 255 signs of a fingerprint so many may differ in a copy.  Of 80,000 pairs of different persons' images the closest
differed in 24 where phantoms were compared, and in 59 where real radiographs were."""
_CHUNK_STUDIES = 4096
"""Studies that are added at a time: what was added before a process was killed stays."""
_UNIT_TOLERANCE = 1e-3


class Index:
    """An open index.  Searching never changes it."""

    def __init__(self, folder: Path, snapshot: Snapshot) -> None:
        """Takes an opened generation; see `open_index`."""
        self.folder = folder
        self._snapshot = snapshot

    @property
    def facts(self) -> IndexFacts:
        """What the index says of itself."""
        return self._snapshot.facts

    @property
    def cases(self) -> pd.DataFrame:
        """One row per image: the columns of `store.rows.SCHEMA` but kind, what and report."""
        return self._snapshot.cases

    @property
    def snapshot(self) -> Snapshot:
        """The generation that is open; it never changes."""
        return self._snapshot

    @property
    def default_kind(self) -> VectorKind:
        """The vectors that are searched unless others are named: of single images, else the first kind there is."""
        return self._snapshot.default_kind

    def __len__(self) -> int:
        """How many images the index holds."""
        return len(self.cases)

    def vector(
        self, key: str, image: int = 0, *, kind: VectorKind | None = None, what: str = ""
    ) -> Float[np.ndarray, " dim"]:
        """A stored unit vector of an image of a study; of the default kind unless one is named.

        Raises:
            DataError: if the index does not hold it.
        """
        row = self._snapshot.rows.get((key, image))
        found = None if row is None else self._snapshot.vector(row, kind or self.default_kind, what)
        if found is None:
            raise DataError(f"{self.folder}: holds no such vector of image {image} of a study with this key")
        return found

    def person(self, key: str) -> str | None:
        """Whose study it is; None if the index does not hold it."""
        row = self._snapshot.rows.get((key, 0))
        return None if row is None else str(self.cases["person"].iloc[row])

    def search(
        self,
        query: Float[np.ndarray, " dim"],
        *,
        k: int = 5,
        exclude_person: str | Sequence[str] | None = None,
        exclude_keys: Sequence[str] = (),
        exclude_duplicates: Sequence[str] = (),
        only: Filter | None = None,
        kind: VectorKind | None = None,
        what: str | None = None,
    ) -> Hits:
        """The `k` studies closest to a unit vector, each by its best view; fewer where there are fewer.

        Ties are decided by (-score rounded to 1e-6, key), never by the order of the index.

        Args:
            query: from `Engine.embed` or `Engine.encode_text` of the model that made this index.
            k: how many studies.
            exclude_person: whose studies are left out; pass the query's own person whenever it is known.
            exclude_keys: studies that are left out as the query's own.
            exclude_duplicates: studies that are left out as near duplicates of it; see `duplicates`.
            only: which cases may be found.
            kind: which vectors are compared; None: `default_kind`.
            what: of which finding, where the vectors are of findings or regions; None: of all.

        Raises:
            DataError: for a query that is no finite unit vector of this index's width, k below 1, vectors that the
                index does not hold, or a filter that names what no case has.
        """
        snapshot, vector = self._snapshot, self._checked(query)
        if k < 1:
            raise DataError(f"k must be at least 1, not {k}")
        kind = kind or self.default_kind
        persons = [exclude_person] if isinstance(exclude_person, str) else list(exclude_person or ())
        cases = snapshot.cases
        left_out = LeftOut(
            reasons={
                "same study": _isin(cases["key"], exclude_keys),
                "near duplicate": _isin(cases["key"], exclude_duplicates),
                "same person": _isin(cases["person"], persons),
            },
            filtered=None if only is None else np.logical_not(only.rows(snapshot.case_facts)),
            missing=snapshot.missing(kind, what),
        )
        nearest = snapshot.nearest(kind, what, out=left_out.rows(len(cases)))
        found = find(nearest, vector, cases, k=k, left_out=left_out, studies=snapshot.studies)
        hits = (replace(hit, report=snapshot.report(snapshot.rows[hit.key, hit.image])) for hit in found)
        return replace(found, hits=tuple(hits))

    def duplicates(self, query: Float[np.ndarray, " dim"], fingerprint: bytes | None = None) -> dict[str, str]:
        """Studies with an image that is a copy of the query's, and whose they are.

        A copy is what the model cannot tell from it (a cosine of at least `SAME_IMAGE`) or what has nearly the same
        fingerprint, compressed, resized or padded as it may be.  Where the fingerprint is known, what the model cannot
        tell from it must have a fingerprint that could be of the same image: a bad model can tell nothing apart.

        Args:
            query: the image's unit vector, of the kind "view" or "global".
            fingerprint: of the image (`store.vectors.image_fingerprint`), if known.
        """
        snapshot, vector = self._snapshot, self._checked(query)
        nearest = snapshot.nearest(self.default_kind, None, out=np.zeros(len(snapshot.cases), bool))
        count = 64
        while True:
            scores, rows = nearest(vector, count)
            if len(rows) < count or scores[-1] < SAME_IMAGE:
                break
            count *= 4
        same = np.zeros(len(snapshot.cases), bool)
        same[rows[scores >= SAME_IMAGE]] = True
        if fingerprint is not None:
            distance = snapshot.differing_bits(fingerprint)
            same = (same & (distance <= FINE)) | (distance <= COPIED_BITS)
        found = snapshot.cases[same]
        return dict(zip(found["key"].astype(str), found["person"].astype(str), strict=True))

    def add(self, engine: "Engine", reader: ShardReader, *, splits: Sequence[str] | None = None) -> int:
        """Embeds the studies that the index does not hold yet and adds them; returns how many.

        They take effect some thousands at a time.  If it is interrupted, what was added stays; called again it goes on
        with the rest.

        Raises:
            CheckpointError: if another model made the index.
            DataError: if another process writes the index, a study's key is another study's here, a study's images
                cannot be read, or there is no such split.
        """
        return self._embed_all(engine, reader, known_splits(splits), what="add")

    def update(self, engine: "Engine", reader: ShardReader, *, splits: Sequence[str] | None = None) -> int:
        """Embeds all studies of the reader: those that the index holds are replaced, the others added.

        Returns how many; errors and interruptions as in `add`.
        """
        return self._embed_all(engine, reader, known_splits(splits), what="update")

    def remove(self, *, person: str | None = None, key: str | None = None) -> int:
        """Never finds the images of a person or of a study again; returns how many there were.

        They are gone from every search when this returns, which is verified; `compact` removes them from the disk too.

        Raises:
            DataError: unless exactly one of both is given, for one that the index does not hold, or if another process
                writes the index.
        """
        if (person is None) == (key is None):
            raise DataError("say whose cases to remove: a person or a study's key")
        column, value = ("person", person) if person is not None else ("key", key)
        with Writer(self.folder) as writer:
            before = self._catch_up(writer)
            rows = np.flatnonzero((before.cases[column] == value).to_numpy())
            if not len(rows):
                raise DataError(f"{self.folder}: holds no case of this {column}; nothing was removed")
            writer.begin("remove")
            segments = _without(before, rows, generation=writer.facts.generation + 1)
            self._commit(writer, segments, what="remove", counts={"removed": len(rows)})
            assert not (self.cases[column] == value).any(), "removed cases are still there"
        return len(rows)

    def compact(self, *, plan: SearchPlan | None = None) -> None:
        """Makes one segment of all: what was removed leaves the disk, and searching is as quick as after building.

        Args:
            plan: which searchers the vectors get from now on; None: as before.

        Raises:
            DataError: if another process writes the index, or a file is damaged.
        """
        with Writer(self.folder) as writer:
            before = self._catch_up(writer)
            writer.begin("compact")
            facts = writer.facts.model_copy(update={"plan": plan or writer.facts.plan})
            contents = [segment.content() for segment in before.segments if segment.alive.any()]
            segments = [_new_segment(writer, Content.joined(contents), facts.plan)] if contents else []
            self._commit(writer, segments, what="compact", counts={}, facts=facts)

    def refresh(self) -> bool:
        """Opens the generation that counts now; returns whether it is another one."""
        before = self._snapshot
        self._snapshot = open_current(self.folder, before=before)
        return self._snapshot.facts != before.facts

    def served_by(self, searcher: Searcher) -> "Index":
        """The same index, its default vectors searched by something else, which is filled with them.

        Ids are rows of `cases`.  What is written to the index afterwards does not reach the searcher.
        """
        kind = self.default_kind
        for rows, vectors in self._snapshot.stored(kind):
            searcher.add(rows, vectors)
        part = Part(searcher=searcher, rows=np.arange(len(self.cases)))
        return Index(self.folder, self._snapshot.served(kind, part))

    def _checked(self, query: np.ndarray) -> np.ndarray:
        vector = np.ascontiguousarray(query, dtype=np.float32)
        if vector.shape != (self.facts.dim,):
            raise DataError(f"the query has shape {list(vector.shape)}, this index vectors of {self.facts.dim} numbers")
        if not np.isfinite(vector).all():
            raise DataError("the query vector is not finite")
        if abs(float(np.linalg.norm(vector)) - 1.0) > _UNIT_TOLERANCE:
            raise DataError("the query vector is not of unit length")
        return vector

    def _embed_all(
        self, engine: "Engine", reader: ShardReader, splits: Sequence[Split], *, what: Literal["add", "update"]
    ) -> int:
        require_checkpoint(self, engine.fingerprint)
        done = 0
        with Writer(self.folder) as writer:
            here = set(self._catch_up(writer).cases["key"])
            keys = [key for split in splits for key in reader.keys(split)]
            _refuse_collisions(self._snapshot, reader, [key for key in keys if key in here])
            wanted = keys if what == "update" else [key for key in keys if key not in here]
            for start in range(0, len(wanted), _CHUNK_STUDIES):
                chunk = wanted[start : start + _CHUNK_STUDIES]
                self._take_in(writer, embedded(engine, reader, chunk), what=what)
                done += len(chunk)
        return done

    def _take_in(self, writer: Writer, content: Content, *, what: Operation) -> None:
        """Adds cases, instead of those of the same studies that are there, and small segments with them."""
        writer.begin(what)
        before = self._snapshot
        old = np.flatnonzero(before.cases["key"].isin(content.cases["key"].to_pylist()).to_numpy())
        kept = list(_without(before, old, generation=writer.facts.generation + 1))
        taken = [content]
        # Like a binary counter: every case is copied a few times at most, however many come one by one.
        while kept and kept[-1].images - kept[-1].removed <= 2 * sum(one.cases.num_rows for one in taken) < FLAT_BELOW:
            facts = kept.pop()
            taken.insert(0, Segment(self.folder / SEGMENTS / facts.name, facts).content())
        segment = _new_segment(writer, Content.joined(taken), writer.facts.plan)
        counts = {"added": content.cases.num_rows, "removed": len(old)}
        self._commit(writer, [*kept, segment], what=what, counts=counts)

    def _catch_up(self, writer: Writer) -> Snapshot:
        if writer.facts != self._snapshot.facts:
            self._snapshot = open_snapshot(self.folder, writer.facts, before=self._snapshot)
        return self._snapshot

    def _commit(
        self,
        writer: Writer,
        segments: Sequence[SegmentFacts],
        *,
        what: Operation,
        counts: Mapping[str, int],
        facts: IndexFacts | None = None,
    ) -> None:
        now = (facts or writer.facts).model_copy(update={"generation": writer.facts.generation + 1})
        now = now.model_copy(update={"segments": tuple(segments)})
        snapshot = open_snapshot(self.folder, now, before=self._snapshot)
        writer.commit(counted(now, snapshot.cases), what=what, counts=counts)
        self._snapshot = open_snapshot(self.folder, writer.facts, before=snapshot)


def require_checkpoint(index: Index, fingerprint: str) -> None:
    """Refuses vectors of one model in the index of another, which would give plausible nonsense.

    Raises:
        CheckpointError: if the fingerprints differ.
    """
    if index.facts.checkpoint != fingerprint:
        raise CheckpointError(
            f"{index.folder}: built by another checkpoint ({index.facts.checkpoint[:12]}) than the one given "
            f"({fingerprint[:12]}); build the index again with this checkpoint"
        )


def _isin(column: pd.Series, values: Sequence[str]) -> Bool[np.ndarray, " row"]:
    if not len(values):
        return np.zeros(len(column), bool)
    found: np.ndarray = column.isin(list(values)).to_numpy()
    return found


def _new_segment(writer: Writer, content: Content, plan: SearchPlan) -> SegmentFacts:
    place, name = writer.place()
    facts = write_segment(place, name, content, plan=plan)
    writer.keep(name)
    return facts


def _without(snapshot: Snapshot, rows: np.ndarray, *, generation: int) -> list[SegmentFacts]:
    """The segments without some rows of the cases; those of which nothing is left are left out."""
    kept = []
    for segment, local in snapshot.local_rows(rows):
        if len(local):
            if len(local) == int(segment.alive.sum()):
                continue
            kept.append(write_removed(segment, local, generation=generation))
        else:
            kept.append(segment.facts)
    return kept


def _refuse_collisions(snapshot: Snapshot, reader: ShardReader, keys: Sequence[str]) -> None:
    """A key of the index must be of the same study in the reader."""
    cases = snapshot.cases
    for key in keys:
        study, row = reader.study(key), snapshot.rows[key, 0]
        if (study.id, study.person.id) != (cases["study"].iloc[row], cases["person"].iloc[row]):
            raise DataError(
                f"{snapshot.folder}: a study of {reader.name} has the key of another study of this index; keep them in "
                "two indexes"
            )
