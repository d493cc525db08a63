import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.retrieval.conftest import SIDE, Projection, make_study, seen
from vlp.data import ShardReader, open_shards
from vlp.data.writer import ShardWriter
from vlp.errors import CheckpointError, DataError
from vlp.retrieval import Filter, build, open_index
from vlp.retrieval import opened as opened_module
from vlp.retrieval.kinds import FlatConfig, create
from vlp.retrieval.opened import Index
from vlp.retrieval.segments import SEGMENTS
from vlp.retrieval.store.vectors import image_fingerprint

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # other programs keep the disk busy; nothing here needs it


@pytest.fixture
def index(engine, reader: ShardReader, tmp_path: Path) -> Index:
    return build(engine, reader, tmp_path / "index", splits=["train"])


def same(one: Index, two: Index) -> bool:
    """Whether two indexes hold the same cases and give the same answers, however they lie on the disk."""
    query = np.random.default_rng(5).normal(size=one.facts.dim)
    query /= np.linalg.norm(query)
    ours, theirs = (index.search(query, k=99) for index in (one, two))
    facts = ("images", "studies", "persons", "splits")
    return (
        all(getattr(one.facts, name) == getattr(two.facts, name) for name in facts)
        and [(hit.key, hit.image, hit.report) for hit in ours] == [(hit.key, hit.image, hit.report) for hit in theirs]
        and np.allclose([hit.score for hit in ours], [hit.score for hit in theirs], atol=1e-5)
    )


def test_added_cases_are_found_as_if_they_had_been_there(index: Index, engine, reader: ShardReader, tmp_path) -> None:
    assert index.add(engine, reader) == 6
    assert index.facts.generation == 2
    whole = build(engine, reader, tmp_path / "whole")
    assert same(index, whole)
    assert same(open_index(index.folder), whole)
    assert index.add(engine, reader) == 0, "they are there already"


def test_many_small_additions_do_not_make_many_segments(
    index: Index, engine, reader, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(opened_module, "_CHUNK_STUDIES", 1)
    index.add(engine, reader)
    assert index.facts.generation == 7
    assert len(index.facts.segments) <= 3
    assert same(index, build(engine, reader, tmp_path / "whole"))


def test_an_interrupted_addition_goes_on_where_it_was(
    index: Index, engine, reader, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(opened_module, "_CHUNK_STUDIES", 2)

    class Breaks(Projection):
        left = 4

        def see(self, reader, key, index=0):
            Breaks.left -= 1
            if Breaks.left < 0:
                raise DataError("broken")
            return super().see(reader, key, index)

    with pytest.raises(DataError, match="broken"):
        index.add(Breaks(), reader)
    assert open_index(index.folder).facts.studies == 11, "the first two are there"
    assert open_index(index.folder).add(engine, reader) == 4
    assert same(open_index(index.folder), build(engine, reader, tmp_path / "whole"))


def test_a_removed_person_is_nowhere_and_leaves_the_disk(index: Index, engine, reader: ShardReader) -> None:
    index.add(engine, reader)
    keys = [key for key in reader.keys(None) if reader.study(key).person.id == "person-1"]
    query = index.vector(keys[0])
    images = sum(reader.num_images(key) for key in keys)
    assert index.remove(person="person-1") == images
    for one in (index, open_index(index.folder)):
        assert "person-1" not in set(one.cases["person"])
        hits = one.search(query, k=99)
        assert len(hits) == 12
        assert not {hit.key for hit in hits} & set(keys)
        assert one.person(keys[0]) is None
        with pytest.raises(DataError, match="holds no such vector"):
            one.vector(keys[0])
    with pytest.raises(DataError, match="no case of this person"):
        index.remove(person="person-1")
    written = b"".join(path.read_bytes() for path in index.folder.rglob("*") if path.suffix in (".json", ".jsonl"))
    assert b"person-" not in written, "neither facts nor journal say who it was"
    before = index.search(query, k=99)
    index.compact()
    assert len(index.facts.segments) == 1
    after = index.search(query, k=99)
    assert [hit.key for hit in after] == [hit.key for hit in before]
    assert index.facts.segments[0].images == 22 - images
    assert [path.name for path in (index.folder / SEGMENTS).iterdir()] == [index.facts.segments[0].name]


def test_remove_by_key_and_everything(index: Index) -> None:
    key = index.cases["key"].iloc[0]
    index.remove(key=key)
    assert index.facts.studies == 8
    for person in sorted(set(index.cases["person"])):
        index.remove(person=person)
    assert (len(index), index.facts.images, index.facts.segments) == (0, 0, ())
    hits = open_index(index.folder).search(np.eye(index.facts.dim)[0])
    assert (len(hits), hits.studies) == (0, 0)
    index.compact()
    for wrong in ({}, {"person": "a", "key": "b"}):
        with pytest.raises(DataError, match="whose cases"):
            index.remove(**wrong)


def test_an_update_replaces_what_is_there(index: Index, engine, tmp_path: Path) -> None:
    changed = make_study(1)
    report = changed.study.report
    study = type(changed.study)(
        **{name: getattr(changed.study, name) for name in changed.study.__slots__}
        | {"report": type(report)(text="IMPRESSION: Corrected.")}
    )
    with ShardWriter(tmp_path / "new", image_format="png") as writer:
        key = writer.write(type(changed)(study=study, pixels=changed.pixels))
    assert index.update(engine, open_shards(tmp_path / "new")) == 1
    assert index.facts.studies == 9
    hits = index.search(index.vector(key), k=99)
    assert [hit.report for hit in hits if hit.key == key] == ["IMPRESSION: Corrected."]


def test_another_model_or_writer_is_refused(index: Index, engine, reader: ShardReader) -> None:
    with pytest.raises(CheckpointError, match="another checkpoint"):
        index.add(Projection("b" * 64), reader)
    from vlp.retrieval.writing import Writer

    with Writer(index.folder), pytest.raises(DataError, match="another process is writing"):
        index.add(engine, reader)
    assert index.add(engine, reader) == 6


def test_readers_keep_their_generation_until_they_refresh(index: Index, engine, reader: ShardReader) -> None:
    held = open_index(index.folder)
    before = held.search(held.vector(held.cases["key"].iloc[0]), k=99)
    index.add(engine, reader)
    index.remove(person="person-0")
    index.compact()
    again = held.search(held.vector(held.cases["key"].iloc[0]), k=99)
    assert [(hit.key, hit.report) for hit in again] == [(hit.key, hit.report) for hit in before]
    assert held.refresh()
    assert not held.refresh()
    assert same(held, index)


def test_searching_while_another_thread_writes(index: Index, engine, reader: ShardReader) -> None:
    """Every answer is one generation's: nine studies, twelve without a person, or fifteen."""
    query = np.eye(index.facts.dim)[0]
    sizes, faults, stop = set(), [], threading.Event()

    def look() -> None:
        mine = open_index(index.folder)
        while not stop.is_set():
            try:
                sizes.add(len(mine.search(query, k=99)))
                mine.refresh()
            except Exception as error:
                faults.append(error)
                return

    thread = threading.Thread(target=look)
    thread.start()
    for _ in range(4):
        index.add(engine, reader)
        index.remove(person="person-4")
        index.remove(person="person-3")
        index.compact()
    stop.set()
    thread.join()
    assert not faults
    assert sizes <= {9, 12, 15}


def test_copies_of_an_image_are_told_from_others(index: Index, engine, reader: ShardReader) -> None:
    key = reader.keys("train")[0]
    image = reader.image(key)
    fingerprint = image_fingerprint(seen(image))
    assert index.duplicates(engine.embed([image])[0], fingerprint) == {key: reader.study(key).person.id}
    assert list(index.duplicates(engine.embed([image])[0])) == [key]
    noise = np.random.default_rng(99).integers(0, 256, size=(SIDE, SIDE)).astype(np.uint8)
    assert index.duplicates(engine.embed([noise])[0], image_fingerprint(seen(noise))) == {}
    assert list(index.duplicates(engine.embed([noise])[0], fingerprint)) == [key], "a copy the model sees otherwise"
    assert index.duplicates(engine.embed([image])[0], image_fingerprint(seen(noise))) == {}, "a model that sees nothing"


def test_filters_and_kinds_that_are_not_there(index: Index) -> None:
    query = index.vector(index.cases["key"].iloc[0])
    hits = index.search(query, k=99, only=Filter.parse("finding=nodule"))
    assert {hit.present for hit in hits} == {("nodule",)}
    assert (hits.studies, hits.filtered, hits.excluded) == (4, 5, 0)
    with pytest.raises(DataError, match=r"no vectors of the kind 'finding: nodule' but view"):
        index.search(query, kind="finding", what="nodule")


def test_another_searcher_serves_the_same_cases(index: Index, engine, reader: ShardReader) -> None:
    index.remove(person="person-1")
    index.add(engine, reader)
    served = index.served_by(create(FlatConfig(), index.facts.dim))
    assert same(served, index)
    query = index.vector(index.cases["key"].iloc[0])
    ours, theirs = (one.search(query, k=3, exclude_person="person-0") for one in (index, served))
    assert [hit.key for hit in ours] == [hit.key for hit in theirs]
    assert "person-0" not in {hit.person for hit in theirs}


_KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from tests.retrieval.conftest import Projection
from vlp.data import open_shards
from vlp.retrieval import build, open_index

index, shards, out, operation, step = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4], int(sys.argv[5])
OPERATIONS = {
    "add": lambda one: one.add(Projection(), open_shards(shards)),
    "remove": lambda one: one.remove(person="person-1"),
    "compact": lambda one: one.compact(),
    "build": lambda one: build(Projection(), open_shards(shards), one.folder, splits=["test"]),
}

def counted(function, left):
    def call(*arguments, **options):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return call

os.fsync = lambda handle: None  # a signal takes nothing from the disk
for number in range(0, 500, step):
    folder = out / f"{number:03d}"
    shutil.copytree(index, folder)
    child = os.fork()
    if child == 0:
        left = [number]
        for name in ("replace", "rename", "unlink", "rmdir", "ftruncate", "pwrite", "mkdir"):
            setattr(os, name, counted(getattr(os, name), left))
        OPERATIONS[operation](open_index(folder))
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if status == 0:
        print(number)
        break
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
"""


_SOME = [("add", 9), ("remove", 3), ("compact", 7), ("build", 9)]
_ALL = [pytest.param(operation, 1, marks=pytest.mark.slow) for operation, _ in _SOME]


@pytest.mark.parametrize(("operation", "step"), _SOME + _ALL)
def test_killed_at_any_moment_nothing_is_lost(index: Index, engine, reader, tmp_path, operation, step) -> None:
    """Before every call that changes the disk: what is left is the state before or the state after, never another."""
    if operation == "compact":
        index.remove(person="person-0")
    operations = {
        "add": lambda one: one.add(engine, reader),
        "remove": lambda one: one.remove(person="person-1"),
        "compact": lambda one: one.compact(),
        "build": lambda one: build(engine, reader, one.folder, splits=["test"]),
    }
    out = tmp_path / "killed"
    out.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, str(index.folder), str(reader.folder), str(out), operation, str(step)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    points = int(done.stdout.split()[-1])
    assert points >= 5
    after = open_index(shutil.copytree(index.folder, tmp_path / "after"))
    operations[operation](after)
    after.refresh()
    effects = set()
    for folder in sorted(out.glob("[0-9]*")):
        left = open_index(folder)
        effect = left.facts.generation > index.facts.generation
        effects.add(effect)
        assert same(left, after if effect else index), folder.name
        if not effect:
            operations[operation](left)
        else:
            left.compact()  # the next writer clears up, whatever it does
        end = open_index(folder)
        assert same(end, after)
        named = {segment.name for segment in end.facts.segments}
        assert {path.name for path in (folder / SEGMENTS).iterdir()} == named
        assert not list(folder.rglob(".partial-*"))
    assert effects == {True, False}
