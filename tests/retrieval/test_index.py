import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.inference.conftest import save_tiny
from vlp.data import ShardReader
from vlp.errors import BackendError, CheckpointError, DataError
from vlp.inference.engine import load
from vlp.retrieval import build, from_store, merge, open_index
from vlp.retrieval.store import embed


def test_opens_as_it_was_built(engine, reader: ShardReader, tmp_path: Path) -> None:
    built = build(engine, reader, tmp_path / "index")
    index = open_index(tmp_path / "index")
    assert index.facts == built.facts
    assert (index.facts.images, index.facts.studies, index.facts.persons) == (22, 15, 5)
    assert index.facts.splits == {"train": 9, "test": 6}
    assert index.facts.synthetic
    assert index.facts.checkpoint == engine.fingerprint
    assert len(index) == 22
    for key in reader.keys(None):
        for image in range(reader.num_images(key)):
            expected = engine.embed([reader.image(key, image)])[0]
            np.testing.assert_allclose(index.vector(key, image), expected, atol=5e-4)  # they are kept as float16


def test_search_equals_numpy(engine, reader: ShardReader, tmp_path: Path) -> None:
    build(engine, reader, tmp_path / "index")
    index = open_index(tmp_path / "index")
    query = np.random.default_rng(3).normal(size=index.facts.dim)
    query = (query / np.linalg.norm(query)).astype(np.float32)
    best: dict[str, float] = {}
    for key in reader.keys(None):
        if reader.study(key).person.id != "person-1":
            scores = [float(index.vector(key, image) @ query) for image in range(reader.num_images(key))]
            best[key] = max(scores)
    expected = sorted(best, key=lambda key: (-round(best[key], 6), key))
    hits = index.search(query, k=4, exclude_person="person-1")
    assert [hit.key for hit in hits] == expected[:4]
    assert [hit.score for hit in hits] == pytest.approx([best[key] for key in expected[:4]], abs=2e-6)
    assert len(index.search(query, k=1000, exclude_person="person-1")) == 12, "more asked for than there are"
    assert index.search(query, k=4, exclude_keys=expected[:1])[0].key != expected[0]


def test_splits(engine, reader: ShardReader, tmp_path: Path) -> None:
    index = build(engine, reader, tmp_path / "index", splits=["test"])
    assert set(index.cases["key"]) == set(reader.keys("test"))
    with pytest.raises(DataError, match="no split 'tset'"):
        build(engine, reader, tmp_path / "other", splits=["tset"])
    with pytest.raises(DataError, match="no study to index"):
        build(engine, reader, tmp_path / "other", splits=["val"])
    assert not (tmp_path / "other").exists()


def test_replaces_an_index_and_nothing_else(engine, reader: ShardReader, tmp_path: Path) -> None:
    build(engine, reader, tmp_path / "index", splits=["train"])
    build(engine, reader, tmp_path / "index", splits=["test"])
    assert open_index(tmp_path / "index").facts.splits == {"test": 6}
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("words")
    with pytest.raises(DataError, match="is no index"):
        build(engine, reader, foreign)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "mine"], "nothing half-written is left"


def test_a_failure_leaves_the_old_index(engine, reader: ShardReader, tmp_path: Path) -> None:
    build(engine, reader, tmp_path / "index", splits=["train"])

    class Broken(type(engine)):
        def embed(self, images):
            raise DataError("broken")

    with pytest.raises(DataError, match="broken"):
        build(Broken(), reader, tmp_path / "index", splits=["test"])
    assert open_index(tmp_path / "index").facts.splits == {"train": 9}
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


@pytest.mark.parametrize("name", ["cases.parquet", "reports.parquet", "space-00/owners.npy", "space-00/vectors.npy"])
@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_damaged_index_is_refused(engine, reader: ShardReader, tmp_path: Path, name: str, damage: str) -> None:
    build(engine, reader, tmp_path / "index", splits=["test"])
    file = tmp_path / "index" / "segments" / "000001" / name
    content = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(content[:-9] if damage == "cut" else content[:60] + bytes([content[60] ^ 1]) + content[61:])
    with pytest.raises(DataError, match="missing or changed"):
        open_index(tmp_path / "index").search(np.eye(12)[0])


def test_no_index(engine, reader: ShardReader, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not an index"):
        open_index(tmp_path / "nowhere")
    build(engine, reader, tmp_path / "index", splits=["test"])
    facts = json.loads((tmp_path / "index" / "index.json").read_text())
    for change in ({"schema_version": 1}, {"schema_version": 3}, {"format": "other"}):
        (tmp_path / "index" / "index.json").write_text(json.dumps(facts | change))
        with pytest.raises(DataError, match=r"not an index of this version.*vlp index build again"):
            open_index(tmp_path / "index")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (np.ones(5) / np.sqrt(5), r"shape \[5\]"),
        (np.full(12, np.nan), "not finite"),
        (np.zeros(12), "unit length"),
        (np.ones((1, 12)) / np.sqrt(12), "shape"),
    ],
)
def test_a_query_that_cannot_be_compared_is_refused(engine, reader, tmp_path: Path, query, message: str) -> None:
    index = build(engine, reader, tmp_path / "index", splits=["test"])
    with pytest.raises(DataError, match=message):
        index.search(query)


def test_k_must_be_positive(engine, reader: ShardReader, tmp_path: Path) -> None:
    index = build(engine, reader, tmp_path / "index", splits=["test"])
    with pytest.raises(DataError, match="k must be"):
        index.search(index.vector(reader.keys("test")[0]), k=0)


def test_without_faiss_the_extra_is_named(engine, reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(BackendError, match=r"vlp\[retrieval\]"):
        open_index(tmp_path)
    with pytest.raises(BackendError, match=r"vlp\[retrieval\]"):
        build(engine, reader, tmp_path / "index")


def test_a_schema_that_is_older_is_replaced_by_building_again(engine, reader: ShardReader, tmp_path: Path) -> None:
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "index.json").write_text('{"format": "vlp-index", "schema_version": 1}')
    (tmp_path / "index" / "index.faiss").write_bytes(b"old")
    build(engine, reader, tmp_path / "index", splits=["test"])
    assert open_index(tmp_path / "index").facts.splits == {"test": 6}
    assert not (tmp_path / "index" / "index.faiss").exists()


def test_of_a_store_with_all_of_its_kinds(reader: ShardReader, tmp_path: Path) -> None:
    engine = load(save_tiny(tmp_path / "model", "similarity_attention"), device="cpu")
    store = embed(engine, reader, tmp_path / "store", kinds=("global", "view", "finding"), findings=["mass"])
    index = from_store(store, tmp_path / "index")
    assert index.facts.checkpoint == engine.fingerprint
    assert index.snapshot.spaces == (("global", ""), ("view", ""), ("finding", "mass"))
    assert index.default_kind == "view"
    direct = build(engine, reader, tmp_path / "direct")
    key = reader.keys("train")[1]
    query = direct.vector(key)
    ours, theirs = index.search(query, k=99), direct.search(query, k=99)
    assert {hit.key: hit.report for hit in ours} == {hit.key: hit.report for hit in theirs}
    assert ours[0].key == theirs[0].key == key
    np.testing.assert_allclose([hit.score for hit in ours], [hit.score for hit in theirs], atol=2e-3)
    whole = index.search(query, k=99, kind="global")
    assert {hit.image for hit in whole} == {0}
    assert len(whole) == 15


def test_merged_indexes_hold_every_study_once(engine, reader: ShardReader, tmp_path: Path) -> None:
    build(engine, reader, tmp_path / "train", splits=["train"])
    test = build(engine, reader, tmp_path / "test", splits=["test"])
    test.remove(person="person-4")
    build(engine, reader, tmp_path / "all")
    merged = merge([tmp_path / "train", tmp_path / "test"], tmp_path / "one")
    assert merged.facts.splits == {"train": 9, "test": 3}
    again = merge([tmp_path / "one", tmp_path / "all"], tmp_path / "two")
    whole = open_index(tmp_path / "all")
    query = whole.vector(reader.keys("train")[0])
    ours, theirs = again.search(query, k=99), whole.search(query, k=99)
    assert [(hit.key, hit.image) for hit in ours] == [(hit.key, hit.image) for hit in theirs]
    assert again.facts.images == 22
    merged.remove(person="person-0")
    assert "person-0" in set(open_index(tmp_path / "two").cases["person"]), "they share files, not what is removed"


def test_what_cannot_be_merged(engine, reader: ShardReader, tmp_path: Path) -> None:
    build(engine, reader, tmp_path / "one", splits=["train"])
    engine.fingerprint = "b" * 64
    build(engine, reader, tmp_path / "other", splits=["test"])
    with pytest.raises(CheckpointError, match="another checkpoint"):
        merge([tmp_path / "one", tmp_path / "other"], tmp_path / "both")
    with pytest.raises(DataError, match="at least two"):
        merge([tmp_path / "one", tmp_path / "one"], tmp_path / "both")
    with pytest.raises(DataError, match="exists"):
        merge([tmp_path / "one", tmp_path / "other"], tmp_path / "one")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "other"]
