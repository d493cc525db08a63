"""Against the embedded Milvus Lite, whose server is a thread of this process and ends with its searchers."""

import json
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlp.errors import BackendError, ConfigError, DataError
from vlp.retrieval import milvus
from vlp.retrieval.kinds import FlatConfig, HnswConfig, IvfFastScanConfig, IvfSq8Config, create, recall_of
from vlp.retrieval.milvus import TOKEN_VARIABLE, URI_VARIABLE, MilvusSearcher, checked_uri

pytest.importorskip("milvus_lite", reason="pymilvus[milvus_lite] is not installed: pip install 'vlp[milvus]'")

DIM, COUNT = 16, 600
IDS = np.random.default_rng(3).permutation(4 * COUNT)[:COUNT]


def drawn(count: int, *, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)


VECTORS = drawn(COUNT, seed=0)
VECTORS[40:60] = VECTORS[39]  # ties, which the ids decide


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One file for all tests: opening it takes longest."""
    path = tmp_path_factory.mktemp("milvus") / milvus.LITE_FILE
    with MilvusSearcher(path, "holds_the_server", dim=2):
        yield path
    assert not milvus._lite_users[str(path)]
    assert not any("_serve" in thread.name for thread in threading.enumerate())


@pytest.fixture(scope="module")
def opened(place: Path) -> Iterator[Callable[..., MilvusSearcher]]:
    made: list[MilvusSearcher] = []

    def make(config: Any = None, **more: Any) -> MilvusSearcher:
        made.append(MilvusSearcher(place, f"c{len(made)}", dim=DIM, config=config, **more))
        return made[-1]

    yield make
    for searcher in made:
        searcher.close()


@pytest.fixture(scope="module")
def flat(opened) -> MilvusSearcher:
    searcher: MilvusSearcher = opened()
    searcher.add(IDS[:500], VECTORS[:500])
    searcher.add(IDS[500:], VECTORS[500:])
    return searcher


@pytest.fixture(scope="module")
def ours() -> Any:
    searcher = create(FlatConfig(), DIM)
    searcher.add(IDS, VECTORS)
    return searcher


def same(found: Any, wanted: Any) -> bool:
    np.testing.assert_allclose(found[0], wanted[0], atol=3e-6)
    # Only where two scores lie a rounding apart may places change.
    return bool((found[1] == wanted[1]).mean() > 0.98)


ALLOWED = np.sort(IDS)[::3]
MASK = np.isin(np.arange(2 * COUNT), ALLOWED)


@pytest.mark.parametrize("allowed", [None, ALLOWED, MASK, IDS[:3], np.empty(0, np.int64), np.array([5 * COUNT])])
@pytest.mark.parametrize("k", [1, 10, 4 * COUNT])
def test_flat_finds_what_our_flat_finds(flat, ours, k, allowed) -> None:
    queries = drawn(20, seed=1)
    found, wanted = flat.search(queries, k, allowed=allowed), ours.search(queries, k, allowed=allowed)
    assert found[1].shape == wanted[1].shape
    assert wanted[1].size == 0 or same(found, wanted)


def test_equal_vectors_come_in_the_order_of_their_ids(flat) -> None:
    for k in (3, 7):
        np.testing.assert_array_equal(flat.search(VECTORS[39:40], k)[1][0], np.sort(IDS[39:60])[:k])


def test_many_ids_take_several_requests(flat, ours, monkeypatch) -> None:
    monkeypatch.setattr(milvus, "_MOST_IDS", 7)
    monkeypatch.setattr(milvus, "_MOST_QUERIES", 3)
    queries = drawn(8, seed=2)
    assert same(flat.search(queries, 9, allowed=ALLOWED), ours.search(queries, 9, allowed=ALLOWED))


def test_what_was_removed_is_never_found_and_may_come_back(opened, ours) -> None:
    searcher = opened()
    searcher.add(IDS, VECTORS)
    gone = np.append(IDS[:50], 5 * COUNT)
    assert searcher.remove(gone) == 50
    assert len(searcher) == searcher.facts.count == COUNT - 50
    assert searcher.remove(gone) == 0
    searcher.rebuild()
    assert not np.isin(searcher.search(VECTORS[:50], COUNT)[1], gone).any()
    searcher.add(IDS[:50], VECTORS[:50])
    assert same(searcher.search(VECTORS[:50], 1), ours.search(VECTORS[:50], 1))


@pytest.mark.parametrize(
    "config", [IvfSq8Config(lists=8, probes=6, rerank=3), HnswConfig(links=16, effort=64)], ids=lambda each: each.kind
)
def test_other_kinds_find_most_with_their_true_cosines(opened, ours, config) -> None:
    searcher = opened(config)
    searcher.add(IDS, VECTORS)
    searcher.rebuild()
    queries = drawn(50, seed=4)
    (scores, ids), wanted = searcher.search(queries, 10), ours.search(queries, 10)
    assert recall_of(ids, wanted[1]) >= 0.9
    agreed = ids == wanted[1]
    np.testing.assert_allclose(scores[agreed], wanted[0][agreed], atol=3e-6)
    few = searcher.search(queries, 30, allowed=IDS[:20])[1]
    np.testing.assert_array_equal(np.sort(few), np.tile(np.sort(IDS[:20]), (50, 1)))


def test_columns_filter_where_they_are(opened) -> None:
    searcher = opened(columns={"view": "VARCHAR", "age": "DOUBLE"})
    views, ages = (
        np.where(IDS % 3 == 0, "PA", "lateral").tolist(),
        [float(some % 90) if some % 7 else None for some in IDS],
    )
    searcher.add(IDS, VECTORS, columns={"view": views, "age": ages})
    wanted = IDS[[view == "PA" and age is not None and age > 40 for view, age in zip(views, ages, strict=True)]]
    found = searcher.search(VECTORS[:4], COUNT, where='view == "PA" and age > 40')[1]
    np.testing.assert_array_equal(np.sort(found), np.tile(np.sort(wanted), (4, 1)))
    both = searcher.search(VECTORS[:1], COUNT, where='view == "lateral" or age > 40', allowed=wanted[:5])[1]
    np.testing.assert_array_equal(np.sort(both[0]), np.sort(wanted[:5]))
    with pytest.raises(BackendError, match="filter") as told:
        searcher.search(VECTORS[:1], 1, where='person = "secret')
    assert "secret" not in str(told.value)
    for columns in (None, {"view": views}, {"view": views, "age": ages[:-1]}):
        with pytest.raises(DataError, match="columns"):
            searcher.add(IDS + 5 * COUNT, VECTORS, columns=columns)


def test_bad_vectors_and_ids_change_nothing(flat) -> None:
    nan, zero = np.full((1, DIM), np.nan), np.zeros((1, DIM))
    for ids, vectors in [([9999], nan), ([9999], zero), ([9999], VECTORS[:1, :3]), (IDS[:1], VECTORS[:1])]:
        with pytest.raises(DataError):
            flat.add(np.array(ids), vectors)
    for ids in ([9999, 9999], [9999, -1], [0.5, 1.5]):
        with pytest.raises(DataError, match="ids"):
            flat.add(np.array(ids), VECTORS[:2])
    for queries in (nan, zero, VECTORS[:1, :3]):
        with pytest.raises(DataError, match="queries"):
            flat.search(queries, 1)
    for k, allowed in ((0, None), (1, np.array([0.5]))):
        with pytest.raises(DataError):
            flat.search(VECTORS[:1], k, allowed=allowed)
    assert len(flat) == COUNT


def test_a_call_that_fails_half_way_leaves_nothing(opened, monkeypatch) -> None:
    searcher = opened()
    searcher.add(IDS[:5], VECTORS[:5])
    insert, calls = searcher._client.insert, []

    def fails(*args: Any, **more: Any) -> Any:
        calls.append(len(args[1]))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return insert(*args, **more)

    monkeypatch.setattr(searcher._client, "insert", fails)
    monkeypatch.setattr(milvus, "_MESSAGE_BYTES", 10 * (4 * DIM + 64))
    with pytest.raises(KeyboardInterrupt):
        searcher.add(IDS[5:105], VECTORS[5:105])
    assert calls == [10, 10, 10]
    np.testing.assert_array_equal(np.sort(searcher.search(VECTORS[:1], 99)[1][0]), np.sort(IDS[:5]))


def test_a_connection_that_breaks_is_one_line(flat, monkeypatch) -> None:
    from grpc import RpcError

    def breaks(*args: Any, **more: Any) -> Any:
        raise RpcError("person-17")

    monkeypatch.setattr(flat._client, "search", breaks)
    with pytest.raises(BackendError, match="connection broke") as told:
        flat.search(VECTORS[:1], 1)
    assert "person" not in str(told.value)


def test_what_it_was_told_to_leave_out_is_refused(flat, monkeypatch) -> None:
    given = (np.ones((1, 8), np.float32), IDS[None, :8])
    monkeypatch.setattr(flat, "_nearest", lambda *args, **more: given)
    with pytest.raises(BackendError, match="leave out"):
        flat.search(VECTORS[:1], 4, allowed=IDS[1:300])


def test_saved_and_opened(place) -> None:
    config = HnswConfig(links=8)
    with MilvusSearcher(place, "kept", dim=DIM, config=config) as searcher:
        searcher.add(IDS[:9], VECTORS[:9])
        with pytest.raises(ConfigError, match=r"milvus\.db"):
            searcher.save(place.parent / "elsewhere")
        searcher.save(place.parent)
        with MilvusSearcher.open(place.parent) as again:
            assert again.facts.parameters == config
            assert same(again.search(VECTORS[:9], 4), searcher.search(VECTORS[:9], 4))
        searcher.remove(IDS[:1])
        with pytest.raises(DataError, match="changed"):
            MilvusSearcher.open(place.parent)
    with pytest.raises(DataError, match="there is a collection"):
        MilvusSearcher(place, "kept", dim=DIM)
    with pytest.raises(DataError, match="no collection"):
        MilvusSearcher(place, "never_made")


def test_a_side_car_names_no_host_and_is_not_trusted(tmp_path, monkeypatch, flat) -> None:
    stated = {"where": "cluster", "collection": "x", "facts": flat.facts.model_dump(mode="json")}
    side_car = tmp_path / milvus.SIDE_CAR
    side_car.write_text(json.dumps(stated))
    monkeypatch.delenv(URI_VARIABLE, raising=False)
    with pytest.raises(ConfigError, match=URI_VARIABLE):
        MilvusSearcher.open(tmp_path)
    for changed in ({"uri": "https://elsewhere"}, {"collection": "x; y"}, {"where": "beside "}):
        side_car.write_text(json.dumps(stated | changed))
        with pytest.raises(DataError, match="no searcher"):
            MilvusSearcher.open(tmp_path)
    side_car.write_text(json.dumps(stated | {"where": "beside"}))
    with pytest.raises(DataError, match="missing"):
        MilvusSearcher.open(tmp_path)
    with pytest.raises(DataError, match="holds no searcher"):
        MilvusSearcher.open(tmp_path / "nowhere")


def test_addresses(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    (tmp_path / "file.db").write_text("of an older Milvus Lite")
    for good in ("http://localhost:19530", "https://host.example/base", "http://10.0.0.1", str(tmp_path / "new.db")):
        assert checked_uri(good) == good
    bad = (
        "",
        "somewhere",
        "ftp://host",
        "http://",
        "http://host:0",
        "http://host:99999",
        "https://host/a/b",
        "http://h/?x=1",
    )
    for uri in (*bad, "file://x.db", str(tmp_path / "no" / "x.db"), str(tmp_path / "file.db")):
        with pytest.raises(ConfigError):
            checked_uri(uri)
    with pytest.raises(ConfigError, match=TOKEN_VARIABLE) as told:
        checked_uri("https://user:hush@host")
    assert "hush" not in str(told.value)
    monkeypatch.setenv(TOKEN_VARIABLE, "hush")
    assert checked_uri("http://127.0.0.1:19530")
    with pytest.raises(ConfigError, match="in the clear") as told:
        checked_uri("http://host.example")
    assert "hush" not in str(told.value)


def test_names_and_kinds(tmp_path) -> None:
    for more in ({"config": IvfFastScanConfig(), "dim": 4}, {"dim": 0}, {"dim": 4, "columns": {"a b": "BOOL"}}):
        with pytest.raises(ConfigError):
            MilvusSearcher(tmp_path / "x.db", "fine", **more)
    with pytest.raises(ConfigError, match="name"):
        MilvusSearcher(tmp_path / "x.db", "1 or 1", dim=4)


def test_nobody_answers_in_one_line(monkeypatch, caplog) -> None:
    monkeypatch.setattr(milvus, "_TIMEOUT_S", 0.5)
    monkeypatch.setenv(TOKEN_VARIABLE, "hush")
    with caplog.at_level(logging.DEBUG), pytest.raises(BackendError, match="reached") as told:
        MilvusSearcher("http://127.0.0.1:9", "x")
    assert told.value.__cause__ is None
    assert "hush" not in caplog.text + str(told.value)
    assert "\n" not in str(told.value)
