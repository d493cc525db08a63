"""Which studies come back: one hit per study, the query's own person left out, ties in a stated order."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, overload

import numpy as np
import pandas as pd

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
    absent: tuple[str, ...] = ()
    """Findings its labels say are not there; they say nothing that counts of all others."""
    report: str | None
    age: float | None
    sex: str | None
    source: str
    synthetic: bool
    same_image: bool = False
    """Whether an image was searched by and this is it, or one the model cannot tell from it."""


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
        absent=tuple(str(name) for name in case.get("absent", ())),
        report=case["report"] if isinstance(case["report"], str) else None,
        age=None if pd.isna(case["age"]) else float(case["age"]),
        sex=case["sex"] if isinstance(case["sex"], str) else None,
        source=str(case["source"]),
        synthetic=bool(case["synthetic"]),
    )
