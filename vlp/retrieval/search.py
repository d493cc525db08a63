"""Which studies come back: one hit per study, the query's own person left out, ties in a stated order."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import pandas as pd

from vlp.errors import CheckpointError, DataError

if TYPE_CHECKING:
    from vlp.data.reader import ShardReader
    from vlp.inference.engine import Engine, Picture
    from vlp.retrieval.index import Index

Nearest = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
"""(unit vector, count) -> (scores, rows), highest score first; rows may end in -1 where there are fewer."""
Query = Literal["vector", "image", "text"]

_DECIMALS = 6
"""Scores equal to this many decimals are ties; beyond it is float32 noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A study that was found, by its best view."""

    key: str
    image: int
    """Number of the image within the study that matched."""
    score: float
    """Cosine with the query."""
    study: str
    person: str
    view: str
    split: str
    present: tuple[str, ...]
    """Findings its labels say are there."""
    report: str | None
    age: float | None
    sex: str | None
    source: str
    synthetic: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Hits(Sequence[Hit]):
    """What a search gave, best first."""

    hits: tuple[Hit, ...]
    query: Query
    """What was compared with the images.  Cosines of an image and of a text with images lie on different scales."""
    studies: int
    """Studies that could have been found."""
    excluded: int
    """Studies left out: the query's own person's, and the query itself."""

    @overload
    def __getitem__(self, index: int) -> Hit: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Hit, ...]: ...
    def __getitem__(self, index: int | slice) -> Hit | tuple[Hit, ...]:
        return self.hits[index]

    def __len__(self) -> int:
        return len(self.hits)

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def to_json(self) -> dict[str, Any]:
        """The hits as plain values."""
        return {
            "score": f"cosine of {self.query} and image",
            "studies": self.studies,
            "excluded": self.excluded,
            "hits": [asdict(hit) for hit in self.hits],
            "note": "research use, not a medical device",
        }


def find(nearest: Nearest, vector: np.ndarray, cases: pd.DataFrame, *, k: int, excluded: np.ndarray) -> Hits:
    """The `k` best studies outside `excluded` (True per row of `cases` to leave out).

    More and more neighbours are fetched until k studies are found and no tie with the last of them can be missing.
    """
    keys = cases["key"].to_numpy()
    allowed = keys[~excluded]
    count = min(len(cases), max(4 * k, 16))
    while True:
        scores, rows = nearest(vector, count)
        scores, rows = scores[rows >= 0].astype(np.float64), rows[rows >= 0]
        best = _best_views(scores, rows, keys, cases["image"].to_numpy(), excluded)
        complete = len(best) >= k and round(float(scores[-1]), _DECIMALS) < best[k - 1][0]
        if complete or count >= len(cases):
            break
        count = min(len(cases), 4 * count)
    return Hits(
        hits=tuple(_hit(cases, row, score) for score, row in best[:k]),
        query="vector",
        studies=len(set(allowed)),
        excluded=len(set(keys) - set(allowed)),
    )


def by_image(
    index: "Index", engine: "Engine", image: "Picture", *, k: int = 5, exclude_person: str | None = None
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
    return replace(index.search(engine.embed([image])[0], k=k, exclude_person=exclude_person), query="image")


def by_text(index: "Index", engine: "Engine", text: str, *, k: int = 5, exclude_person: str | None = None) -> Hits:
    """The studies whose images fit `text` best; arguments and errors as in `by_image`.

    An index holds one vector per image, so the score is the cosine of the text with that vector.  For a model that
    scores by attending to patches this is what it would say if it attended everywhere alike: a finding that fills a
    small part of an image ranks lower here than by `Engine.similarity`.
    """
    require_same_model(index, engine)
    return replace(index.search(engine.encode_text([text])[0], k=k, exclude_person=exclude_person), query="text")


def by_key(
    index: "Index", key: str, *, k: int = 5, engine: "Engine | None" = None, reader: "ShardReader | None" = None
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
        return replace(index.search(index.vector(key), k=k, exclude_person=person, exclude_keys=(key,)), query="image")
    if engine is None or reader is None:
        raise DataError("the index holds no study with this key; give the shards it lies in (--shards)")
    study = reader.study(key)
    hits = index.search(engine.embed([reader.image(key, 0)])[0], k=k, exclude_person=study.person.id)
    return replace(hits, query="image")


def require_same_model(index: "Index", engine: "Engine") -> None:
    """Refuses a query of one model in the index of another, which would give plausible nonsense.

    Raises:
        CheckpointError: if the fingerprints differ.
    """
    if index.facts.checkpoint != engine.fingerprint:
        raise CheckpointError(
            f"{index.folder}: built by another checkpoint ({index.facts.checkpoint[:12]}) than the one given "
            f"({engine.fingerprint[:12]}); build the index again with this checkpoint"
        )


def _best_views(
    scores: np.ndarray, rows: np.ndarray, keys: np.ndarray, images: np.ndarray, excluded: np.ndarray
) -> list[tuple[float, int]]:
    """(rounded score, row) of each study's best view, in the stated order."""
    ordered = sorted(
        ((round(float(score), _DECIMALS), int(row)) for score, row in zip(scores, rows, strict=True)),
        key=lambda found: (-found[0], keys[found[1]], images[found[1]]),
    )
    best: dict[str, tuple[float, int]] = {}
    for score, row in ordered:
        if not excluded[row]:
            best.setdefault(keys[row], (score, row))
    return list(best.values())


def _hit(cases: pd.DataFrame, row: int, score: float) -> Hit:
    case = cases.iloc[row]
    return Hit(
        key=str(case["key"]),
        image=int(case["image"]),
        score=score,
        study=str(case["study"]),
        person=str(case["person"]),
        view=str(case["view"]),
        split=str(case["split"]),
        present=tuple(str(name) for name in case["present"]),
        report=case["report"] if isinstance(case["report"], str) else None,
        age=None if pd.isna(case["age"]) else float(case["age"]),
        sex=case["sex"] if isinstance(case["sex"], str) else None,
        source=str(case["source"]),
        synthetic=bool(case["synthetic"]),
    )
