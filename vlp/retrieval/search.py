"""Which studies come back: one hit per study, what must not be found left out and counted, ties in a stated order."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, overload

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

Nearest = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
"""(unit vector, count) -> (scores, rows), highest score first: `count` or more where there are as many, a row once
for each of its vectors; rows may end in -1 where there are fewer."""
Query = Literal["vector", "image", "region", "text", "image and text", "finding"]
Reason = Literal["same study", "near duplicate", "same person"]
"""Why a study is left out."""
Rows = np.ndarray
"""A truth value for each row of the cases."""

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
    uncertain: tuple[str, ...] = ()
    """Findings its labels say may be there."""
    absent: tuple[str, ...] = ()
    """Findings its labels say are not there; of all others they say nothing."""
    report: str | None
    age: float | None
    sex: str | None
    date: str | None = None
    """As the archive gives it, if it does."""
    groups: Mapping[str, str] = field(default_factory=dict)
    """Other groups of its person, e.g. site."""
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
    with_what: str = "image"
    """What of the cases was compared: their "image", "region", or what they show of a finding."""
    weights: tuple[float, ...] = ()
    """Of the image and of the text, where both were searched by."""
    studies: int
    """Studies that could have been found."""
    excluded: int
    """Studies left out: the query's own person's, the query itself, and near duplicates of it."""
    excluded_why: Mapping[Reason, int] = field(default_factory=dict)
    """`excluded` by reason."""
    filtered: int = 0
    """Studies beyond those that the filter does not let through."""

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
            "score": f"cosine of {self.query} and {self.with_what}",
            "weights": list(self.weights),
            "studies": self.studies,
            "excluded": self.excluded,
            "excluded_why": dict(self.excluded_why),
            "filtered": self.filtered,
            "hits": [asdict(hit) for hit in self.hits],
            "note": "research use, not a medical device",
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyCodes:
    """Which study each row is of, as numbers from 0."""

    codes: Int[np.ndarray, " row"]
    sizes: Int[np.ndarray, " study"]
    """Rows of each study."""

    @classmethod
    def of(cls, cases: pd.DataFrame) -> "StudyCodes":
        """The codes of a table of cases."""
        codes, names = pd.factorize(cases["key"])
        return cls(codes=codes, sizes=np.bincount(codes, minlength=len(names)))

    def whole(self, rows: Rows) -> Bool[np.ndarray, " study"]:
        """Which studies have all of their rows among these."""
        whole: np.ndarray = np.bincount(self.codes[rows], minlength=len(self.sizes)) == self.sizes
        return whole


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """Rows of the cases that must not be found."""

    reasons: Mapping[Reason, Rows] = field(default_factory=dict)
    """True where a reason holds; of several the first counts."""
    filtered: Rows | None = None
    """True where the filter does not let a row through; None: it lets all through."""
    missing: Rows | None = None
    """True where there is no vector of the kind that is searched; None: there is one everywhere."""

    def rows(self, count: int) -> Rows:
        """True for each of the `count` rows that must not be found."""
        return np.logical_or.reduce([np.zeros(count, bool), *self._masks()])

    def counted(self, studies: StudyCodes) -> tuple[int, dict[Reason, int], int]:
        """Studies that could be found; those that each reason leaves out; those beyond that the filter does."""
        rows = np.zeros(len(studies.codes), bool)
        gone = 0

        def more(mask: Rows | None) -> int:
            """Studies that these rows leave out beyond those that are out already."""
            nonlocal rows, gone
            if mask is None or not mask.any():
                return 0
            before, rows = gone, rows | mask
            gone = int(studies.whole(rows).sum())
            return gone - before

        more(self.missing)
        counts = {reason: more(mask) for reason, mask in self.reasons.items()}
        filtered = more(self.filtered)
        return len(studies.sizes) - gone, {reason: count for reason, count in counts.items() if count}, filtered

    def _masks(self) -> Iterator[Rows]:
        yield from self.reasons.values()
        yield from (mask for mask in (self.filtered, self.missing) if mask is not None)


def find(
    nearest: Nearest,
    vector: np.ndarray,
    cases: pd.DataFrame,
    *,
    k: int,
    left_out: LeftOut,
    studies: StudyCodes | None = None,
) -> Hits:
    """The `k` best studies that are not left out.

    More and more neighbours are fetched until k studies are found and no tie with the last of them can be missing.
    Whatever `nearest` was told to leave out is looked at again here.

    Args:
        nearest: how vectors are found.
        vector: the query.
        cases: one row per image.
        k: how many studies.
        left_out: what must not be found.
        studies: of the cases, if known.
    """
    studies = studies or StudyCodes.of(cases)
    out = left_out.rows(len(cases))
    count = max(4 * k, 16)
    while True:
        scores, rows = nearest(vector, count)
        scores, rows = scores[rows >= 0].astype(np.float64), rows[rows >= 0]
        best = _best_views(scores, rows, cases, out)
        complete = len(best) >= k and round(float(scores[-1]), _DECIMALS) < best[k - 1][0]
        if complete or len(rows) < count:
            break
        count = 4 * count
    left, why, filtered = left_out.counted(studies)
    return Hits(
        hits=tuple(_hit(cases, row, score) for score, row in best[:k]),
        query="vector",
        studies=left,
        excluded=sum(why.values()),
        excluded_why=why,
        filtered=filtered,
    )


def _best_views(scores: np.ndarray, rows: np.ndarray, cases: pd.DataFrame, excluded: Rows) -> list[tuple[float, int]]:
    """(rounded score, row) of each study's best view, in the stated order."""
    places = zip(cases["key"].iloc[rows], cases["image"].iloc[rows], strict=True)
    found = ((round(float(score), _DECIMALS), key, image, int(row))
             for score, row, (key, image) in zip(scores, rows, places, strict=True))  # fmt: skip
    best: dict[str, tuple[float, int]] = {}
    for score, key, _, row in sorted(found, key=lambda one: (-one[0], one[1], one[2])):
        if not excluded[row]:
            best.setdefault(key, (score, row))
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
        present=_names(case["present"]),
        uncertain=_names(case["uncertain"]),
        absent=_names(case["absent"]),
        report=None,
        age=None if pd.isna(case["age"]) else float(case["age"]),
        sex=_text(case["sex"]),
        date=_text(case["date"]),
        groups=dict(case["groups"]),
        source=str(case["source"]),
        synthetic=bool(case["synthetic"]),
    )


def _names(values: Any) -> tuple[str, ...]:
    return tuple(str(name) for name in values)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
