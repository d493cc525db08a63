"""Folders are untrusted: whatever is wrong with one is said in a line, and nothing is read from it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pytest

from vlp.errors import DataError
from vlp.retrieval.kinds import HnswConfig, IvfFastScanConfig, build, open_searcher, restore
from vlp.retrieval.kinds.files import CORE, SIDE_CAR, _sha256

COUNT = 2500


@pytest.fixture(scope="module")
def saved(drawn, tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("saved")
    vectors = drawn(COUNT)
    for config in (IvfFastScanConfig(lists=16), HnswConfig(links=8)):
        build(config, 32, [(np.arange(COUNT), vectors)]).save(folder / config.kind)
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved / "ivf_fastscan", tmp_path / "index"))


def _restate(folder: Path) -> None:
    """As one would who can write the side-car too."""
    said = json.loads((folder / SIDE_CAR).read_text())
    said["sha256"] = {name: _sha256(folder / name) for name in said["sha256"]}
    (folder / SIDE_CAR).write_text(json.dumps(said))


@pytest.mark.parametrize("name", ["vectors.npy", "ids.npy", "norms.npy", "alive.npy", CORE])
@pytest.mark.parametrize("harm", ["cut", "flip", "gone"])
def test_a_damaged_file_is_named(folder, name, harm) -> None:
    path = folder / name
    whole = path.read_bytes()
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(whole[:-7] if harm == "cut" else whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(DataError, match=f"{name}: missing or changed"):
        open_searcher(folder)


def test_a_damaged_core_is_built_anew_from_the_vectors(folder, drawn) -> None:
    asked = drawn(20, seed=5)
    before = open_searcher(folder)
    (folder / CORE).write_bytes(b"nonsense")
    restored = restore(folder)
    np.testing.assert_array_equal(restored.search(asked, 5)[1], before.search(asked, 5)[1])
    assert restored.facts.parameters == before.facts.parameters


def _cut(folder: Path) -> None:
    (folder / CORE).write_bytes((folder / CORE).read_bytes()[:-100])


def _empty(folder: Path) -> None:
    (folder / CORE).write_bytes(b"")


def _enormous(folder: Path) -> None:
    # The header of a flat index, then a vector that claims to have 2^38 bytes.
    flat = faiss.serialize_index(faiss.IndexFlatIP(32)).tobytes()
    (folder / CORE).write_bytes(flat[:-8] + (1 << 38).to_bytes(8, "little"))


def _another_kind(folder: Path) -> None:
    faiss.write_index(faiss.IndexFlatIP(32), str(folder / CORE))


def _rows_that_are_not_there(folder: Path) -> None:
    lists = faiss.read_index(str(folder / CORE))
    ids = faiss.rev_swig_ptr(lists.invlists.get_ids(0), lists.invlists.list_size(0))
    ids[0] = 1 << 40
    faiss.write_index(lists, str(folder / CORE))


def _another_width(folder: Path) -> None:
    lists = faiss.index_factory(8, "IVF4,PQ2x4fs", faiss.METRIC_INNER_PRODUCT)
    rows = np.random.default_rng(0).normal(size=(COUNT, 8)).astype(np.float32)
    lists.train(rows)
    lists.add(rows)
    faiss.write_index(lists, str(folder / CORE))


@pytest.mark.parametrize("harm", [_cut, _empty, _enormous, _another_kind, _rows_that_are_not_there, _another_width])
def test_a_hostile_core_with_the_right_checksum_is_refused(folder, harm: Callable[[Path], None]) -> None:
    harm(folder)
    _restate(folder)
    limit = faiss.get_deserialization_vector_byte_limit()
    with pytest.raises(DataError, match=f"{CORE}: .*build"):
        open_searcher(folder)
    assert faiss.get_deserialization_vector_byte_limit() == limit


@pytest.mark.parametrize("harm", ["link", "entry", "level"])
def test_links_that_lead_nowhere_are_refused(saved, tmp_path, harm) -> None:
    folder = Path(shutil.copytree(saved / "hnsw", tmp_path / "index"))
    graph = faiss.read_index(str(folder / CORE))
    if harm == "link":
        faiss.rev_swig_ptr(graph.hnsw.neighbors.data(), 1)[0] = COUNT + 1000
    elif harm == "entry":
        graph.hnsw.entry_point = COUNT
    else:
        faiss.rev_swig_ptr(graph.hnsw.levels.data(), 1)[0] += 1
    faiss.write_index(graph, str(folder / CORE))
    _restate(folder)
    with pytest.raises(DataError, match=f"{CORE}: .*build"):
        open_searcher(folder)


@pytest.mark.parametrize("name", ["vectors.npy", "ids.npy", "norms.npy", "alive.npy"])
@pytest.mark.parametrize("fault", ["pickle", "type", "shape", "text"])
def test_hostile_arrays_with_the_right_checksum_are_refused(folder, name, fault) -> None:
    if fault == "pickle":
        np.save(folder / name, np.array([{"a": 1}] * COUNT, object), allow_pickle=True)
    elif fault == "type":
        np.save(folder / name, np.load(folder / name).astype(np.complex64))
    elif fault == "shape":
        np.save(folder / name, np.load(folder / name)[:-1])
    else:
        (folder / name).write_text("import os")
    _restate(folder)
    for mmap in (True, False):
        with pytest.raises(DataError, match=name):
            open_searcher(folder, mmap=mmap)


def test_ids_that_are_there_twice_are_refused(folder) -> None:
    ids = np.load(folder / "ids.npy")
    ids[3] = ids[4]
    np.save(folder / "ids.npy", ids)
    _restate(folder)
    with pytest.raises(DataError, match="do not belong together"):
        open_searcher(folder)


def test_a_side_car_of_another_version_or_none_is_named(folder, tmp_path) -> None:
    said = json.loads((folder / SIDE_CAR).read_text())
    (folder / SIDE_CAR).write_text(json.dumps(said | {"schema_version": 2}))
    with pytest.raises(DataError, match="schema_version"):
        open_searcher(folder)
    with pytest.raises(DataError, match="holds no searcher"):
        open_searcher(tmp_path)


def test_an_interrupted_save_leaves_the_old_one_readable_or_refused(folder, drawn, monkeypatch) -> None:
    searcher = open_searcher(folder)
    searcher.add(np.array([COUNT]), drawn(1, seed=6))

    def breaks(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vlp.retrieval.kinds.files._write_array", breaks)
    with pytest.raises(DataError, match="No space left"):
        searcher.save(folder)
    assert len(open_searcher(folder)) == COUNT
    assert not [path for path in folder.iterdir() if "partial" in path.name]


def test_another_kind_than_was_saved_is_named(folder) -> None:
    from vlp.retrieval.kinds.hnsw import HnswSearcher

    with pytest.raises(DataError, match="ivf_fastscan, not hnsw"):
        HnswSearcher.open(folder)
