import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlp.data import ShardReader
from vlp.errors import DataError
from vlp.retrieval import build
from vlp.retrieval.vote import ballots, vote


@dataclass(frozen=True)
class Neighbour:
    key: str
    score: float
    present: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()


FOUR = [
    Neighbour("a", 0.9, present=("mass",), absent=("edema",)),
    Neighbour("b", 0.6, present=("edema",), absent=("mass",)),
    Neighbour("c", 0.5),
    Neighbour("d", 0.3, present=("mass", "edema")),
]


def test_shares_weigh_by_similarity_over_the_neighbours_that_say_anything() -> None:
    shares = vote(FOUR, ["mass", "edema", "nodule"])
    assert shares["mass"] == pytest.approx((0.9 + 0.3) / (0.9 + 0.6 + 0.3))
    assert shares["edema"] == pytest.approx((0.6 + 0.3) / (0.9 + 0.6 + 0.3))
    assert shares["nodule"] is None


def test_uniform_votes_count_heads() -> None:
    assert vote(FOUR, ["mass"], weight="uniform") == {"mass": pytest.approx(2 / 3)}


def test_only_the_first_k_have_a_voice_and_more_than_there_are_is_all() -> None:
    assert vote(FOUR, ["mass"], k=1) == {"mass": 1.0}
    assert vote(FOUR, ["mass"], k=2)["mass"] == pytest.approx(0.6)
    assert vote(FOUR, ["mass"], k=4) == vote(FOUR, ["mass"], k=400)


def test_ballots_say_who_said_what() -> None:
    (mass,) = ballots(FOUR, ["mass"])
    assert (mass.present, mass.absent, mass.known) == (("a", "d"), ("b",), 3)
    assert mass.to_json()["known"] == 3


def test_a_neighbour_unlike_the_query_has_no_voice() -> None:
    hits = [Neighbour("a", 0.2, absent=("mass",)), Neighbour("b", -0.5, present=("mass",))]
    assert vote(hits, ["mass"]) == {"mass": 0.0}
    assert vote(hits[1:], ["mass"]) == {"mass": None}


def test_findings_are_known_by_every_spelling_and_by_default_those_that_are_there() -> None:
    assert list(vote(FOUR)) == ["edema", "mass"]
    assert list(vote(FOUR, ["Edema", "edema", "PTX"])) == ["edema", "pneumothorax"]
    own = [Neighbour("a", 1.0, present=("a name of the archive's own",))]
    assert vote(own, ["a name of the archive's own"]) == {"a name of the archive's own": 1.0}


def test_no_neighbour_no_share() -> None:
    assert vote([], ["mass"]) == {"mass": None}
    assert vote([]) == {}


@pytest.mark.parametrize(("findings", "k", "words"), [(["wombat"], 5, "wombat"), (["mass"], 0, "at least 1")])
def test_what_makes_no_sense_is_refused(findings: list[str], k: int, words: str) -> None:
    with pytest.raises(DataError, match=words):
        vote(FOUR, findings, k=k)


@given(
    st.lists(st.tuples(st.floats(-1, 1), st.sampled_from(["present", "absent", "unknown"])), max_size=12),
    st.integers(1, 12),
)
def test_shares_equal_a_loop(said: list[tuple[float, str]], k: int) -> None:
    hits = [
        Neighbour(str(number), score, **({} if what == "unknown" else {what: ("mass",)}))
        for number, (score, what) in enumerate(said)
    ]
    above = below = 0.0
    for score, what in said[:k]:
        if what != "unknown" and score > 0:
            below += score
            above += score if what == "present" else 0.0
    share = vote(hits, ["mass"], k=k)["mass"]
    assert (share is None) if below == 0 else math.isclose(share, above / below, abs_tol=1e-9)  # type: ignore[arg-type]


def test_hits_of_an_index_vote(engine: Any, reader: ShardReader, tmp_path: Any) -> None:
    index = build(engine, reader, tmp_path / "index")
    key = str(index.cases["key"].iloc[0])
    hits = index.search(np.asarray(index.vector(key)), k=15, exclude_keys=(key,))
    own = int(index.cases.loc[index.cases["key"] == key, "present"].map(len).iloc[0])
    shares = vote(hits, ["nodule", "mass"], weight="uniform", k=15)
    nodules = sum("nodule" in hit.present for hit in hits)
    assert (nodules, own) in {(6, 1), (7, 0)}
    assert shares == {"nodule": 1.0, "mass": 0.0}
