from typing import Any

import cv2
import numpy as np
import pytest

from vlp.evaluate.retrieval_rankers import (
    MODEL,
    VECTORS,
    WORDS,
    ByMetadata,
    ByVector,
    Cases,
    baselines,
    shortened,
    thumbnail,
)


def case(key: str, patient: str = "", **values: Any) -> dict[str, Any]:
    return {"study_id": key, "patient_id": patient or key, "view": "PA", "sex": "F", "age": 44.0, **values}


def test_vectors_rank_by_their_cosine_whatever_their_length() -> None:
    cases = [case("a", embedding=[10.0, 0.0]), case("b", embedding=[0.3, 0.3]), case("c", embedding=[0.0, 0.0])]
    assert ByVector(cases, MODEL).scores(case("q", embedding=[2.0, 0.0])) == pytest.approx([1.0, 0.5**0.5, 0.0])
    assert len(ByVector([], MODEL).scores(case("q", embedding=[2.0, 0.0]))) == 0


def test_metadata_ranks_by_what_agrees() -> None:
    cases = [
        case("all"),
        case("decade", age=49.9),
        case("older", age=50.0),
        case("man", sex="M", age=60.0),
        case("none", view="AP", sex=None, age=None),
    ]
    scores = ByMetadata(cases).scores(case("q"))
    assert np.floor(scores * 3 + 0.2).tolist() == [3, 3, 2, 1, 0]
    unknown = ByMetadata(cases).scores(case("q", view="AP", sex=None, age=float("nan")))
    assert int(np.argmax(unknown)) == 4
    assert np.floor(ByMetadata(cases).scores(case("q", view="lateral", age=5.0)) * 3 + 0.2).tolist() == [1, 1, 1, 0, 0]


def test_ties_of_metadata_are_drawn_anew_for_every_query_and_never_change() -> None:
    cases = [case(f"{number:03d}") for number in range(200)]
    ranker = ByMetadata(cases)
    draws = [ranker.scores(case(f"q{number}")) for number in range(60)]
    assert np.array_equal(draws[0], ByMetadata(cases).scores(case("q0")))
    assert all(draw.min() >= 1.0 and draw.max() < 1.01 for draw in draws)
    firsts = {int(np.argmax(draw)) for draw in draws}
    assert len(firsts) > 40
    mean = np.mean(draws, axis=0)
    assert mean == pytest.approx(np.full(200, 1.005), abs=0.002)


def test_the_querys_own_patient_never_answers_and_ties_go_by_key() -> None:
    rows = [case("z", "1"), case("b", "2"), case("a", "3"), case("own", "q")]
    for row, vector in zip(rows, ([1.0, 0.0], [1.0, 0.0], [1.0, 1e-9], [1.0, 0.0]), strict=True):
        row["embedding"] = vector
    indices, scores = Cases(rows).ordered(case("x", "q", embedding=[1.0, 0.0]), by=ByVector(rows, MODEL))
    assert [rows[index]["study_id"] for index in indices] == ["a", "b", "z"]
    assert scores == pytest.approx([1.0, 1.0, 1.0])


def test_only_baselines_whose_columns_are_there_stand_beside() -> None:
    whole = [case("a", tower=[1.0], thumbnail=[1.0]), case("b", tower=[1.0], thumbnail=[1.0])]
    assert set(baselines(whole[:1], whole)) == {"metadata", "pixels", "tower"} == set(WORDS)
    assert set(baselines(whole[:1], [case("c", tower=[1.0])])) == {"metadata", "tower"}
    assert set(baselines(whole[:1], [case("c", tower=[1.0], thumbnail=[])])) == {"metadata", "tower"}
    old = [{name: value for name, value in row.items() if name not in ("age", "sex")} for row in whole]
    assert set(baselines(old, old)) == set(VECTORS)
    assert baselines([], whole) == {}


def test_thumbnails_see_neither_brightness_nor_contrast() -> None:
    rng = np.random.default_rng(0)
    picture = cv2.resize(rng.integers(60, 120, size=(8, 8)).astype(np.uint8), (64, 64))
    brighter = (picture * 1.5 + 20).astype(np.uint8)
    one, other = thumbnail(picture), thumbnail(brighter)
    assert one.shape == (256,)
    assert one.dtype == np.float16
    assert float(one.astype(float) @ other.astype(float)) == pytest.approx(1.0, abs=0.01)
    assert float(one.astype(float) @ thumbnail(255 - picture).astype(float)) == pytest.approx(-1.0, abs=0.01)
    assert not thumbnail(np.full((64, 64), 9, dtype=np.uint8)).any()


def test_shortened_vectors_have_length_one_however_large_they_were() -> None:
    vector = shortened(np.array([3e5, 4e5]))
    assert vector.dtype == np.float16
    assert vector == pytest.approx([0.6, 0.8], abs=1e-3)
    assert not shortened(np.zeros(3)).any()
