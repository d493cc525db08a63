"""Searching an index by what a person has: an image, a part of it, a sentence, both, or a study.

The query's model must be the index's.  Of an image that the archive holds itself, or a copy of it, the study and its
person are left out: what is asked for are other cases.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from vlp.data.reader import ShardReader
from vlp.errors import DataError
from vlp.records import Box, Certainty
from vlp.reports.findings import canonical, sentence_text
from vlp.retrieval.filters import Filter
from vlp.retrieval.opened import SAME_IMAGE, Index, require_checkpoint
from vlp.retrieval.search import Hits, Query
from vlp.retrieval.store.vectors import VectorKind, attended_vectors, image_fingerprint, region_vectors

if TYPE_CHECKING:
    from vlp.inference.engine import Engine, Looked
    from vlp.inference.picture import Picture

__all__ = ["SAME_IMAGE", "by_image", "by_key", "by_text", "finding_name", "require_same_model", "vector_of"]

Vector = Float[np.ndarray, " dim"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What an image is searched by."""

    vector: Vector
    """What the cases' vectors are compared with."""
    query: Query
    kind: VectorKind | None
    """Of the vectors it is compared with; None: the index's default."""
    what: str | None
    with_what: str
    weights: tuple[float, ...] = ()


def by_image(
    index: Index,
    engine: "Engine",
    image: "Picture",
    *,
    k: int = 5,
    box: Box | None = None,
    text: str | None = None,
    text_weight: float = 0.5,
    finding: str | None = None,
    exclude_person: str | None = None,
    only: Filter | None = None,
    keep_duplicates: bool = False,
) -> Hits:
    """The studies whose images look most like `image`, as a whole or in what is asked.

    Args:
        index: where to search.
        engine: of the model that made the index.
        image: a file or pixels.
        k: how many studies.
        box: (x0, y0, x1, y1) in pixels of the image: only what lies in it is compared, with the regions that the index
            holds, else with whole images.
        text: compared together with the image, by the weighted mean of both unit vectors.
        text_weight: of the text; the image has the rest of 1.
        finding: compared is what the model sees of it in both images, e.g. "a similar effusion"; the index must hold
            vectors of this finding.
        exclude_person: pass the image's own person whenever it is known.
        only: which cases may be found.
        keep_duplicates: whether cases that hold this very image may be found; they are marked.

    Raises:
        DataError: for an image, a text or a finding that cannot be used, or vectors that the index does not hold.
        CheckpointError: if another model made the index.
    """
    require_same_model(index, engine)
    looked = engine.looked([image])
    asked = _asked(index, engine, looked, box=box, text=text, text_weight=text_weight, finding=finding)
    whole = engine.vectors(looked.features)[0]
    copies = {} if keep_duplicates else index.duplicates(whole, image_fingerprint(looked.seen[0]))
    persons = {*copies.values(), *([exclude_person] if exclude_person is not None else [])}
    return _found(index, asked, k=k, persons=sorted(persons), duplicates=tuple(copies), only=only)


def by_text(
    index: Index,
    engine: "Engine",
    text: str,
    *,
    k: int = 5,
    exclude_person: str | None = None,
    only: Filter | None = None,
) -> Hits:
    """The studies whose images fit `text` best; arguments and errors as in `by_image`.

    An index holds one vector per image, so the score is the cosine of the text with that vector.  For a model that
    scores by attending to patches this is what it would say if it attended everywhere alike: a finding that fills a
    small part of an image ranks lower here than by `Engine.similarity`.
    """
    require_same_model(index, engine)
    found = index.search(engine.encode_text([text])[0], k=k, exclude_person=exclude_person, only=only)
    return replace(found, query="text")


def by_key(
    index: Index,
    key: str,
    *,
    k: int = 5,
    image: int = 0,
    engine: "Engine | None" = None,
    reader: ShardReader | None = None,
    box: Box | None = None,
    text: str | None = None,
    text_weight: float = 0.5,
    finding: str | None = None,
    only: Filter | None = None,
) -> Hits:
    """The studies that look most like an image of the study `key`, the first frontal one; its person is left out.

    A study of the index needs nothing else; any other is read from `reader` and embedded by `engine`.  A box needs
    both, a text the engine.  The rest as in `by_image`.

    Raises:
        DataError: if neither the index nor the reader holds the study, or something else cannot be used.
        CheckpointError: if another model made the index.
    """
    if engine is not None:
        require_same_model(index, engine)
    person = index.person(key)
    looked: Looked | None = None
    if person is None or box is not None:
        if engine is None or reader is None:
            reason = "the index holds no study with this key" if person is None else "a box needs the image itself"
            raise DataError(f"{reason}; give the shards it lies in (--shards) and the checkpoint (--checkpoint)")
        looked = engine.looked([engine.see(reader, key, image)])
        person = reader.study(key).person.id
    if looked is not None:
        assert engine is not None
        asked = _asked(index, engine, looked, box=box, text=text, text_weight=text_weight, finding=finding)
        copies = index.duplicates(engine.vectors(looked.features)[0], image_fingerprint(looked.seen[0]))
    else:
        asked = _stored(index, engine, key, image, text=text, text_weight=text_weight, finding=finding)
        row = index.snapshot.rows[key, image]
        copies = index.duplicates(index.vector(key, _image(index, image)), index.cases["fingerprint"].iloc[row])
    persons = sorted({person, *copies.values()})
    return _found(index, asked, k=k, persons=persons, keys=(key,), duplicates=tuple(copies), only=only)


def vector_of(
    index: Index,
    engine: "Engine",
    image: "Picture",
    *,
    box: Box | None = None,
    text: str | None = None,
    text_weight: float = 0.5,
    finding: str | None = None,
) -> Vector:
    """The unit vector that `by_image` searches with; arguments and errors as there."""
    require_same_model(index, engine)
    looked = engine.looked([image])
    return _asked(index, engine, looked, box=box, text=text, text_weight=text_weight, finding=finding).vector


def require_same_model(index: Index, engine: "Engine") -> None:
    """Refuses a query of one model in the index of another, which would give plausible nonsense.

    Raises:
        CheckpointError: if the fingerprints differ.
    """
    require_checkpoint(index, engine.fingerprint)


def _asked(
    index: Index,
    engine: "Engine",
    looked: "Looked",
    *,
    box: Box | None,
    text: str | None,
    text_weight: float,
    finding: str | None,
) -> _Asked:
    _refuse_several(box=box, text=text, finding=finding)
    if finding is not None:
        name = finding_name(finding)
        sentence = sentence_text(name, Certainty.PRESENT)
        return _of_finding(name, attended_vectors(engine, looked.features, [sentence])[0, 0])
    if box is not None:
        vector = region_vectors(engine, looked.features, looked.placements, [[box]])[0]
        if any(kind == "region" for kind, _ in index.snapshot.spaces):
            return _Asked(vector=vector, query="region", kind="region", what=None, with_what="region")
        return _Asked(vector=vector, query="region", kind=None, what=None, with_what="image")
    return _whole(engine, engine.vectors(looked.features)[0], text=text, text_weight=text_weight)


def _stored(
    index: Index,
    engine: "Engine | None",
    key: str,
    image: int,
    *,
    text: str | None,
    text_weight: float,
    finding: str | None,
) -> _Asked:
    """The same by vectors that the index holds."""
    _refuse_several(box=None, text=text, finding=finding)
    if finding is not None:
        name = finding_name(finding)
        index.snapshot.parts("finding", name)  # refuses a finding that the index has no vectors of
        return _of_finding(name, index.vector(key, image, kind="finding", what=name))
    if text is not None and engine is None:
        raise DataError("searching by a text needs the checkpoint that built the index (--checkpoint)")
    return _whole(engine, index.vector(key, _image(index, image)), text=text, text_weight=text_weight)


def _whole(engine: "Engine | None", vector: Vector, *, text: str | None, text_weight: float) -> _Asked:
    if text is None:
        return _Asked(vector=vector, query="image", kind=None, what=None, with_what="image")
    if not 0.0 < text_weight < 1.0:
        raise DataError(f"the weight of the text lies between 0 and 1, not at {text_weight:g}")
    assert engine is not None
    weights = (1.0 - text_weight, text_weight)
    mixed = weights[0] * vector + weights[1] * engine.encode_text([text])[0]
    length = float(np.linalg.norm(mixed))
    if length < 1e-6:
        raise DataError("image and text are opposites to the model: their mean points nowhere; search by one of them")
    return _Asked(
        vector=(mixed / length).astype(np.float32),
        query="image and text",
        kind=None,
        what=None,
        with_what="image",
        weights=weights,
    )


def _of_finding(name: str, vector: Vector) -> _Asked:
    return _Asked(vector=vector, query="finding", kind="finding", what=name, with_what=f"what is seen of {name}")


def _found(
    index: Index,
    asked: _Asked,
    *,
    k: int,
    persons: Sequence[str],
    duplicates: Sequence[str],
    keys: Sequence[str] = (),
    only: Filter | None,
) -> Hits:
    found = index.search(
        asked.vector,
        k=k,
        exclude_person=persons,
        exclude_keys=keys,
        exclude_duplicates=duplicates,
        only=only,
        kind=asked.kind,
        what=asked.what,
    )
    # Only whole images can be told to be the same.
    whole = asked.query == "image"
    marked = tuple(replace(hit, same_image=whole and hit.score >= SAME_IMAGE) for hit in found)
    return replace(found, query=asked.query, with_what=asked.with_what, weights=asked.weights, hits=marked)


def finding_name(name: str) -> str:
    """The one name of a finding, for any known spelling.

    Raises:
        DataError: if nobody knows it.
    """
    known = canonical(name)
    if known is None:
        raise DataError(f"no finding is called {name[:60]!r}; vlp prompts list shows those that are known")
    return known


def _image(index: Index, image: int) -> int:
    """The image that the default vector of an image's study is kept at."""
    return 0 if index.default_kind == "global" else image


def _refuse_several(*, box: Box | None, text: str | None, finding: str | None) -> None:
    if sum(value is not None for value in (box, text, finding)) > 1:
        raise DataError("an image goes with one more thing to search by: a box, a text, or a finding")
