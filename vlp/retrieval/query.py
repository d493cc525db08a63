"""Searching an index by what a person has: an image, a sentence, or a study.  The query's model must be the index's."""

from dataclasses import replace
from typing import TYPE_CHECKING

from vlp.data.reader import ShardReader
from vlp.errors import CheckpointError, DataError
from vlp.retrieval.index import Index
from vlp.retrieval.search import Hits

if TYPE_CHECKING:
    from vlp.inference.engine import Engine
    from vlp.inference.picture import Picture

SAME_IMAGE = 0.99999
"""Cosine of two images from which they are one and the same to the model: float32 noise is all that parts them."""


def by_image(
    index: Index, engine: "Engine", image: "Picture", *, k: int = 5, exclude_person: str | None = None
) -> Hits:
    """The studies whose images look most like `image`.

    Args:
        index: where to search.
        engine: of the model that made the index.
        image: a file or pixels.
        k: how many studies.
        exclude_person: pass the image's own person whenever it is known.

    Raises:
        DataError: for an image that cannot be used.
        CheckpointError: if another model made the index.
    """
    require_same_model(index, engine)
    return _of_image(index.search(engine.embed([image])[0], k=k, exclude_person=exclude_person))


def by_text(index: Index, engine: "Engine", text: str, *, k: int = 5, exclude_person: str | None = None) -> Hits:
    """The studies whose images fit `text` best; arguments and errors as in `by_image`.

    An index holds one vector per image, so the score is the cosine of the text with that vector.  For a model that
    scores by attending to patches this is what it would say if it attended everywhere alike: a finding that fills a
    small part of an image ranks lower here than by `Engine.similarity`.
    """
    require_same_model(index, engine)
    return replace(index.search(engine.encode_text([text])[0], k=k, exclude_person=exclude_person), query="text")


def by_key(
    index: Index, key: str, *, k: int = 5, engine: "Engine | None" = None, reader: ShardReader | None = None
) -> Hits:
    """The studies that look most like the first frontal image of the study `key`; its person is always left out.

    A study of the index needs nothing else; any other is read from `reader` and embedded by `engine`.

    Raises:
        DataError: if neither the index nor the reader holds the study.
        CheckpointError: if another model made the index.
    """
    if engine is not None:
        require_same_model(index, engine)
    person = index.person(key)
    if person is not None:
        return _of_image(index.search(index.vector(key), k=k, exclude_person=person, exclude_keys=(key,)))
    if engine is None or reader is None:
        raise DataError("the index holds no study with this key; give the shards it lies in (--shards)")
    study = reader.study(key)
    return _of_image(index.search(engine.embed([engine.see(reader, key)])[0], k=k, exclude_person=study.person.id))


def require_same_model(index: Index, engine: "Engine") -> None:
    """Refuses a query of one model in the index of another, which would give plausible nonsense.

    Raises:
        CheckpointError: if the fingerprints differ.
    """
    if index.facts.checkpoint != engine.fingerprint:
        raise CheckpointError(
            f"{index.folder}: built by another checkpoint ({index.facts.checkpoint[:12]}) than the one given "
            f"({engine.fingerprint[:12]}); build the index again with this checkpoint"
        )


def _of_image(found: Hits) -> Hits:
    """The hits of a query that was an image, with the image itself told from those that only look like it."""
    marked = tuple(replace(hit, same_image=hit.score >= SAME_IMAGE) for hit in found)
    return replace(found, query="image", hits=marked)
