import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from vlp.retrieval.search import LeftOut, StudyCodes, find


def cases_of(keys: list[str], images: list[int], persons: list[str]) -> pd.DataFrame:
    return pd.DataFrame(
        {"key": keys, "image": images, "person": persons, "study": keys, "view": "PA", "split": "train",
         "present": [[] for _ in keys], "uncertain": [[] for _ in keys], "absent": [[] for _ in keys], "age": None,
         "sex": None, "date": None, "groups": [{} for _ in keys], "source": "made", "synthetic": True}
    )  # fmt: skip


def person(excluded: np.ndarray) -> LeftOut:
    return LeftOut(reasons={"same person": excluded})


def exact(vectors: np.ndarray):
    """A gallery that answers as faiss does, but with its ties in reverse order."""

    def nearest(vector: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        scores = (vectors @ vector).astype(np.float32)
        order = np.lexsort((-np.arange(len(scores)), -scores))[:count]
        padded = np.full(count, -1)
        padded[: len(order)] = order
        return np.concatenate((scores[order], np.full(count - len(order), -3.4e38, np.float32))), padded

    return nearest


def brute_force(
    vectors: np.ndarray, vector: np.ndarray, cases: pd.DataFrame, k: int, excluded: np.ndarray
) -> list[tuple]:
    best: dict[str, float] = {}
    for row in range(len(vectors)):
        if not excluded[row]:
            score = round(float(np.float32(vectors[row] @ vector)), 6)
            best[cases["key"][row]] = max(best.get(cases["key"][row], -np.inf), score)
    return sorted(((-score, key) for key, score in best.items()))[:k]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), studies=st.integers(1, 40), k=st.integers(1, 12), grid=st.integers(1, 4))
def test_equals_a_search_of_everything(seed: int, studies: int, k: int, grid: int) -> None:
    """Coarse coordinates make many exact ties, studies have one to three views, a third of the persons is left out."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(studies), rng.integers(1, 4, size=studies))
    names = [f"k{number:02d}" for number in rng.permutation(studies)]
    persons = rng.integers(0, 6, size=studies)
    cases = cases_of(
        [names[study] for study in owner], list(range(len(owner))), [f"p{persons[study]}" for study in owner]
    )
    vectors = rng.integers(-grid, grid + 1, size=(len(owner), 3)).astype(np.float32)
    query = rng.integers(-grid, grid + 1, size=3).astype(np.float32)
    excluded = persons[owner] < 2
    hits = find(exact(vectors), query, cases, k=k, left_out=person(excluded))
    assert [(-hit.score, hit.key) for hit in hits] == brute_force(vectors, query, cases, k, excluded)
    assert hits.excluded == len(set(owner[excluded]))
    assert hits.studies == len(set(owner[~excluded]))


def test_ties_at_the_last_place_are_decided_by_key() -> None:
    keys = [f"k{number:03d}" for number in range(200)]
    cases = cases_of(keys, [0] * 200, ["p"] * 200)
    hits = find(exact(np.ones((200, 2), np.float32)), np.ones(2, np.float32), cases, k=3, left_out=LeftOut())
    assert [hit.key for hit in hits] == keys[:3]


def test_the_own_patient_never_returns_even_where_most_neighbours_are_theirs() -> None:
    rng = np.random.default_rng(0)
    vectors = np.concatenate((np.ones((300, 4)), rng.normal(size=(5, 4)) * 0.1)).astype(np.float32)
    keys = [f"k{number:03d}" for number in range(305)]
    cases = cases_of(keys, [0] * 305, ["me"] * 300 + ["other"] * 5)
    excluded = (cases["person"] == "me").to_numpy()
    hits = find(exact(vectors), np.ones(4, np.float32), cases, k=4, left_out=person(excluded))
    assert len(hits) == 4
    assert {hit.person for hit in hits} == {"other"}
    assert (hits.excluded, hits.studies) == (300, 5)


def test_every_study_is_counted_once_by_the_first_reason_that_leaves_out_all_of_it() -> None:
    cases = cases_of(["a", "a", "b", "c", "d", "e"], [0, 1, 0, 0, 0, 0], ["p", "p", "p", "q", "q", "q"])

    def at(*rows: int) -> np.ndarray:
        return np.isin(np.arange(6), rows)

    left_out = LeftOut(
        reasons={"same study": at(2), "near duplicate": at(0, 2), "same person": at(0, 1, 2)},
        filtered=at(1, 3),
        missing=at(4),
    )
    assert left_out.counted(StudyCodes.of(cases)) == (1, {"same study": 1, "same person": 1}, 1)
    hits = find(exact(np.eye(6, dtype=np.float32)), np.ones(6, np.float32), cases, k=9, left_out=left_out)
    assert [hit.key for hit in hits] == ["e"]
    assert (hits.studies, hits.excluded, hits.filtered) == (1, 2, 1)
    assert hits.to_json()["excluded_why"] == {"same study": 1, "same person": 1}


def test_a_study_half_left_out_is_found_by_its_other_view() -> None:
    cases = cases_of(["a", "a", "b"], [0, 1, 0], ["p", "p", "q"])
    vectors = np.array([[1.0, 0.0], [0.5, 0.0], [0.7, 0.0]], np.float32)
    left_out = LeftOut(filtered=np.array([True, False, False]))
    hits = find(exact(vectors), np.array([1, 0], np.float32), cases, k=9, left_out=left_out)
    assert [(hit.key, hit.image) for hit in hits] == [("b", 0), ("a", 1)]
    assert (hits.studies, hits.filtered) == (2, 0)
