from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.retrieval.conftest import unit
from vlp.data import ShardReader
from vlp.errors import DataError
from vlp.retrieval import build
from vlp.retrieval import snapshot as snapshot_module
from vlp.retrieval.facts import FILE_NAME, read_facts
from vlp.retrieval.kinds import FlatConfig, create
from vlp.retrieval.snapshot import Part, Snapshot, nearest_of, open_current, open_snapshot


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), parts=st.integers(1, 4), share=st.floats(0.0, 1.0), count=st.integers(1, 40))
def test_the_best_of_all_parts_are_the_best_of_all(seed: int, parts: int, share: float, count: int) -> None:
    """Parts of different sizes, rows with several vectors, any share of them left out: as by comparing everything."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, 120, size=parts)
    vectors = unit(rng.normal(size=(sizes.sum() + 1, 6)))[:-1].astype(np.float16).astype(np.float32)
    rows = rng.integers(0, 60, size=len(vectors))
    rows[rng.random(len(rows)) < 0.1] = -1
    out = rng.random(60) < share
    query = unit(rng.normal(size=(1, 6)))[0]
    made, start = [], 0
    for size in sizes:
        searcher = create(FlatConfig(), 6)
        own = slice(start, start + size)
        searcher.add(np.arange(size), vectors[own])
        searcher.remove(np.flatnonzero(rows[own] < 0))
        made.append(Part(searcher=searcher, rows=rows[own]))
        start += size
    scores, found = nearest_of(made, out=out)(query, count)
    allowed = (rows >= 0) & ~out[rows]
    cosines = vectors[allowed] @ query / np.linalg.norm(vectors[allowed], axis=1)
    expected = np.sort(cosines)[::-1][:count]
    np.testing.assert_allclose(scores, expected, atol=1e-3)  # of float16 vectors
    assert not out[found].any()
    assert (found >= 0).all()


@pytest.fixture
def folder(engine, reader: ShardReader, tmp_path: Path) -> Path:
    index = build(engine, reader, tmp_path / "index", splits=["train"])
    index.remove(person="person-1")
    index.add(engine, reader, splits=["test"])
    return index.folder


def test_rows_reports_and_vectors_belong_together(folder: Path, engine, reader: ShardReader) -> None:
    snapshot = open_current(folder)
    assert len(snapshot.cases) == len(snapshot.rows)
    for (key, image), row in snapshot.rows.items():
        study = reader.study(key)
        assert snapshot.report(row) == (study.report.text if study.report else None)
        vector = snapshot.vector(row, "view")
        assert vector is not None
        np.testing.assert_allclose(vector, engine.embed([reader.image(key, image)])[0], atol=5e-4)
    stored = {
        int(row): vector for rows, vectors in snapshot.stored("view") for row, vector in zip(rows, vectors, strict=True)
    }
    assert sorted(stored) == list(range(len(snapshot.cases)))
    assert snapshot.vector(0, "global") is None


def test_local_rows_are_those_of_the_segments(folder: Path) -> None:
    snapshot = open_current(folder)
    picked = np.arange(0, len(snapshot.cases), 3)
    keys = [key for segment, local in snapshot.local_rows(picked) for key in segment.cases["key"].iloc[local].tolist()]
    assert keys == snapshot.cases["key"].iloc[picked].tolist()


def test_differing_bits() -> None:
    rng = np.random.default_rng(0)
    prints = [rng.bytes(32) for _ in range(5)]
    snapshot = object.__new__(Snapshot)
    snapshot.cases = pd.DataFrame({"fingerprint": prints})
    expected = [(int.from_bytes(one) ^ int.from_bytes(prints[0])).bit_count() for one in prints]
    assert snapshot.differing_bits(prints[0]).tolist() == expected
    assert expected[0] == 0


def test_a_generation_that_is_replaced_while_it_is_opened_is_opened_anew(
    folder: Path, engine, reader: ShardReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The facts that were read first name a segment that a writer has removed since."""
    old = read_facts(folder).model_copy(update={"generation": 1})
    stale = old.segments[0].model_copy(update={"name": "000099"})
    answers = [old.model_copy(update={"segments": (stale,)})]
    monkeypatch.setattr(snapshot_module, "read_facts", lambda path: answers.pop() if answers else read_facts(path))
    assert open_current(folder).facts == read_facts(folder)
    (folder / FILE_NAME).write_text(old.model_copy(update={"segments": (stale,)}).model_dump_json())
    with pytest.raises(DataError, match="missing or changed"):
        open_current(folder)


def test_segments_that_stay_are_not_opened_again(folder: Path) -> None:
    before = open_current(folder)
    after = open_snapshot(folder, before.facts.model_copy(update={"generation": 99}), before=before)
    assert after.segments == before.segments
