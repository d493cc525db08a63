"""What cases can be ranked by: the model's vectors, and what stands against it without a model or with less of one.

A model that does not beat cases of the same view, sex and age has learnt demography; one that does not beat the
nearest thumbnail has learnt how the image was taken; one that does not beat its own tower has learnt nothing from
the reports.
"""

import zlib
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Protocol

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

from vlp.metrics.retrieval import rank_by_score

MODEL = "embedding"
"""Column of the vectors that are evaluated."""
VECTORS = {"pixels": "thumbnail", "tower": "tower"}
"""Baseline -> column of its vectors."""
WORDS = {
    "metadata": "cases of the same view, sex and decade of age, ties at random",
    "pixels": "cases with the nearest thumbnail, 16 x 16 pixels, brightness and contrast taken out",
    "tower": "cases with the nearest pooled vector of the image tower, before the joint space",
}
"""What each baseline is, as the results say it."""
THUMBNAIL_SIDE = 16
_TIE = 0.01
"""Far below the step of one matching field, far above the digits in which scores are ties."""


class Cases:
    """Studies that can be returned, in an order of their own for every query."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Takes the rows of the studies."""
        keys = np.array([row["study_id"] for row in rows], dtype=str)
        self._ties = np.argsort(np.argsort(keys, kind="stable"), kind="stable")
        self._patients = np.array([row["patient_id"] for row in rows], dtype=object)

    def ordered(
        self, query: Mapping[str, Any], *, by: "Ranker"
    ) -> tuple[Int[np.ndarray, " case"], Float[np.ndarray, " case"]]:
        """(indices, scores) of the studies of other patients than the query's, best first, ties by key."""
        others = np.flatnonzero(self._patients != query["patient_id"])
        scores = by.scores(query)[others]
        ranked = rank_by_score(scores, self._ties[others])
        return others[ranked], scores[ranked]


class Ranker(Protocol):
    """An order of cases for every query."""

    def scores(self, query: Mapping[str, Any]) -> Float[np.ndarray, " case"]:
        """How near every case is, highest first."""


class ByVector:
    """By the cosine of a column's vectors."""

    def __init__(self, cases: Sequence[Mapping[str, Any]], column: str) -> None:
        """Takes the cases' vectors, of any length but zero (which is near nothing)."""
        self._column = column
        self._vectors = _unit([case[column] for case in cases])

    def scores(self, query: Mapping[str, Any]) -> Float[np.ndarray, " case"]:
        """The cosine with every case."""
        if not len(self._vectors):
            return np.zeros(0)
        cosines: np.ndarray = self._vectors @ _unit([query[self._column]])[0]
        return cosines


class ByMetadata:
    """By how many of view, sex and decade of age are the same; what is not known is a value of its own.

    Ties are most of it, so they are broken at random, by a number that follows from the keys of query and case: an
    order by key would give every query the same few cases.
    """

    def __init__(self, cases: Sequence[Mapping[str, Any]]) -> None:
        """Takes what is known of the cases."""
        self._codes: list[dict[Hashable, int]] = [{}, {}, {}]
        columns = [_metadata(case) for case in cases]
        self._fields = np.array(
            [[codes.setdefault(value, len(codes)) for codes, value in zip(self._codes, row, strict=True)]
             for row in columns], dtype=np.int64,
        ).reshape(len(cases), len(self._codes))  # fmt: skip
        self._numbers = np.array([_number(case["study_id"]) for case in cases], dtype=np.uint64)

    def scores(self, query: Mapping[str, Any]) -> Float[np.ndarray, " case"]:
        """Share of fields that agree, and less than a hundredth for chance."""
        own = np.array([codes.get(value, -1) for codes, value in zip(self._codes, _metadata(query), strict=True)])
        agreement = (self._fields == own).mean(axis=1)
        drawn = _scrambled(self._numbers ^ _scrambled(np.array([_number(query["study_id"])], dtype=np.uint64)))
        shares: np.ndarray = agreement + _TIE * (drawn / 2.0**64)
        return shares


def baselines(cases: Sequence[Mapping[str, Any]], queries: Sequence[Mapping[str, Any]]) -> dict[str, Ranker]:
    """The rankers that stand beside the model's, by name; those whose columns the rows have."""
    rows = [*cases, *queries]
    found: dict[str, Ranker] = {}
    if cases and all("age" in row for row in rows):
        found["metadata"] = ByMetadata(cases)
    for name, column in VECTORS.items():
        if cases and all(row.get(column) for row in rows):
            found[name] = ByVector(cases, column)
    return found


def thumbnail(pixels: UInt8[np.ndarray, "rows columns"]) -> Float[np.ndarray, " pixel"]:
    """An image as 256 numbers of mean 0 and length 1, float16: the cosine of two is their correlation.

    All 0 for an image without contrast.
    """
    small = cv2.resize(pixels, (THUMBNAIL_SIDE, THUMBNAIL_SIDE), interpolation=cv2.INTER_AREA).astype(np.float64)
    return shortened(small.ravel() - small.mean())


def shortened(vector: Float[np.ndarray, " dim"]) -> Float[np.ndarray, " dim"]:
    """The vector at length 1, as float16; 0 stays 0."""
    return _unit([vector])[0].astype(np.float16)


def _metadata(row: Mapping[str, Any]) -> tuple[Hashable, ...]:
    age = row["age"]
    return row["view"], row["sex"], None if age is None or age != age else int(age // 10)


def _unit(vectors: Sequence[Any]) -> np.ndarray:
    if not vectors:
        return np.zeros((0, 1))
    stacked = np.array(vectors, dtype=np.float64)
    norms = np.linalg.norm(stacked, axis=1, keepdims=True)
    result: np.ndarray = stacked / np.where(norms > 0, norms, 1.0)
    return result


def _number(key: str) -> int:
    return zlib.crc32(key.encode())


def _scrambled(numbers: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser: numbers that differ in a bit become unlike each other (Steele et al. 2014)."""
    mixed = (numbers + np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    result: np.ndarray = mixed ^ (mixed >> np.uint64(31))
    return result
