import os
import pickle
import random

import fsspec
import numpy as np
import pytest

from vlp.data import files as module
from vlp.data import remote
from vlp.data.files import RemoteConfig
from vlp.data.reader import open_shards
from vlp.data.remote import Remote, RemoteFiles
from vlp.data.writer import ShardWriter
from vlp.errors import BackendError, DataError

CONTENT = np.random.default_rng(0).integers(0, 256, 10_000, dtype=np.uint8).tobytes()
READ = "memory://bucket/shards"


@pytest.fixture(params=["memory", "file"])
def url(request, tmp_path):
    if request.param == "file":
        yield f"file://{tmp_path}/bucket/shards"
        return
    yield "memory://bucket/shards"
    fsspec.filesystem("memory").store.clear()


def _write(url, studies, staging, **settings):
    target = Remote(url, staging)
    with ShardWriter(target, **settings) as writer:
        for study in studies:
            writer.write(study)
    return writer.manifest


def _download(url, folder):
    files, path = fsspec.url_to_fs(url)
    folder.mkdir()
    for name in Remote(url, folder).names():
        (folder / name).write_bytes(files.cat_file(f"{path}/{name}"))
    return folder


def test_what_arrives_is_what_a_local_build_would_be(url, make_study, tmp_path):
    studies = [make_study(number, split="test" if number == 4 else "train") for number in range(5)]
    manifest = _write(url, studies, tmp_path / "staging", samples_per_shard=2)
    with ShardWriter(tmp_path / "local", samples_per_shard=2) as writer:
        for study in studies:
            writer.write(study)
    there = _download(url, tmp_path / "there")
    assert {path.name: path.read_bytes() for path in there.iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "local").iterdir()
    }
    assert len(open_shards(there)) == 5
    assert Remote(url, tmp_path).finished() == manifest
    assert not (tmp_path / "staging").exists()


def test_closed_shards_do_not_fill_the_local_disk(url, make_study, tmp_path):
    seen = []
    with ShardWriter(Remote(url, tmp_path / "staging"), samples_per_shard=2) as writer:
        for number in range(9):
            writer.write(make_study(number))
            seen.append(len(list(writer.target.partial.iterdir())))
    assert max(seen) == 1


def test_the_manifest_is_last_and_gone_while_tars_are_replaced(url, make_study, tmp_path):
    _write(url, [make_study(number) for number in range(6)], tmp_path / "staging", samples_per_shard=1)
    target = Remote(url, tmp_path / "staging")
    with ShardWriter(target, samples_per_shard=1) as writer:
        assert "manifest.json" in target.names()  # nothing is touched before there is something new
        writer.write(make_study(7))
        assert "manifest.json" not in target.names()
        assert target.finished() is None
    assert target.names() == ["manifest.json", "train-000000.tar"]  # tars of the larger build before are gone
    assert target.finished() is not None


def test_a_cut_off_upload_is_noticed(url, make_study, tmp_path, monkeypatch):
    target = Remote(url, tmp_path / "staging")
    real = type(target._files).put_file

    def half(self, here, there, **settings):
        real(self, here, there, **settings)
        with self.open(there, "wb") as file:
            file.write(b"half")

    monkeypatch.setattr(type(target._files), "put_file", half)
    with (
        pytest.raises(DataError, match=r"train-000000\.tar arrived with 4 bytes instead of"),
        ShardWriter(target) as writer,
    ):
        writer.write(make_study(1))
    assert "manifest.json" not in target.names()


def test_other_peoples_files_are_left_alone(url, make_study, tmp_path):
    files, path = fsspec.url_to_fs(url)
    files.makedirs(path, exist_ok=True)
    files.pipe_file(f"{path}/train-000000.tar", b"somebody's")
    with pytest.raises(DataError, match=r"holds files without a manifest\.json"):
        _write(url, [make_study(1)], tmp_path / "staging")
    files.pipe_file(f"{path}/thesis.txt", b"precious")
    with pytest.raises(DataError, match=r"thesis\.txt"):
        _write(url, [make_study(1)], tmp_path / "staging")
    assert files.cat_file(f"{path}/train-000000.tar") == b"somebody's"


def test_shards_move_between_parts_and_whole(url, make_study, tmp_path):
    whole = Remote(url, tmp_path / "staging")
    part = whole.part("0001-of-0001")
    manifest = _write(part.name, [make_study(1)], tmp_path / "staging")
    whole.prepare()
    whole.adopt(manifest.shards[0], part, "train-000003.tar")
    assert whole.size("train-000003.tar") == manifest.shards[0].bytes
    assert part.finished() == manifest
    part.delete()
    assert part.names() == []
    assert whole.size("none") is None


def test_a_protocol_nobody_knows_and_one_that_is_not_installed(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="Protocol not known"):
        Remote("gopher://hole/shards", tmp_path)

    def missing(url):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    with pytest.raises(BackendError, match=r"Install s3fs.*vlp\[remote\]"):
        Remote("s3://bucket/shards", tmp_path)


def test_a_server_that_says_no_is_one_plain_line(url, make_study, tmp_path, monkeypatch):
    target = Remote(url, tmp_path / "staging")

    class OwnError(Exception):
        """Of some protocol's library."""

    def refuse(self, *arguments, **settings):
        raise OwnError("Forbidden\nrequest id 7")

    monkeypatch.setattr(type(target._files), "put_file", refuse)
    with pytest.raises(DataError, match=r"shards: Forbidden$"), ShardWriter(target) as writer:
        writer.write(make_study(1))


@pytest.fixture
def stored():
    """A folder behind a URL with one file of 10,000 bytes."""
    system = fsspec.filesystem("memory")
    system.pipe_file("/bucket/shards/a.tar", CONTENT)
    yield system
    system.store.clear()


@pytest.fixture
def waits(monkeypatch):
    """Seconds that would have been waited."""
    waited = []
    monkeypatch.setattr(module.time, "sleep", waited.append)
    return waited


@pytest.fixture
def fetched(monkeypatch):
    """Byte ranges that were asked of the file system."""
    ranges = []
    real = fsspec.implementations.memory.MemoryFileSystem.cat_file

    def record(self, path, start=None, end=None, **settings):
        ranges.append((start, end))
        return real(self, path, start=start, end=end, **settings)

    monkeypatch.setattr(fsspec.implementations.memory.MemoryFileSystem, "cat_file", record)
    return ranges


def _failing(monkeypatch, failures):
    """Makes reads fail, each with the next of these errors, until there are none left."""
    real = fsspec.implementations.memory.MemoryFileSystem.cat_file

    def fail(self, path, **settings):
        if failures:
            raise failures.pop(0)
        return real(self, path, **settings)

    monkeypatch.setattr(fsspec.implementations.memory.MemoryFileSystem, "cat_file", fail)


def _cached(tmp_path, *, cache_bytes=100_000, **settings):
    config = RemoteConfig(cache_folder=tmp_path / "cache", cache_bytes=cache_bytes)
    return RemoteFiles(READ, version="1", config=config, block_bytes=1000, **settings)


def _blocks(folder):
    return {path.name: path.stat().st_size for path in folder.iterdir() if not path.name.startswith(".lock")}


@pytest.mark.parametrize("version", ["", "1"])
def test_what_comes_from_a_url_is_what_lies_there(stored, tmp_path, version):
    config = RemoteConfig(cache_folder=tmp_path / "cache")
    files = RemoteFiles(READ + "/", version=version, config=config, block_bytes=1000)
    rng = random.Random(0)
    for _ in range(60):
        begin = rng.randrange(10_001)
        end = rng.randrange(begin, 10_001)
        assert files.read("a.tar", begin, end - begin) == CONTENT[begin:end]
    assert files.pieces("a.tar", 990, 20, 3000) == [CONTENT[990:1010], CONTENT[1010:4010]]
    assert files.size("a.tar") == 10_000
    assert files.size("b.tar") is None
    assert files.where("a.tar") == "memory://bucket/shards/a.tar"
    assert pickle.loads(pickle.dumps(files)).read("a.tar", 5, 5) == CONTENT[5:10]
    files.close()
    assert files.read("a.tar", 5, 5) == CONTENT[5:10]
    assert (tmp_path / "cache").exists() == bool(version)


def test_every_block_is_fetched_once_and_in_ranges(stored, tmp_path, fetched):
    files = _cached(tmp_path)
    for begin in range(0, 9_900, 90):
        files.read("a.tar", begin, 100)
    assert fetched == [(begin, begin + 1000) for begin in range(0, 10_000, 1000)]
    again = _cached(tmp_path)
    again.read("a.tar", 0, 10_000)
    assert len(fetched) == 10
    assert (tmp_path / "cache").stat().st_mode & 0o077 == 0
    RemoteFiles(READ, version="2", config=again._config, block_bytes=1000).read("a.tar", 0, 10)
    assert len(fetched) == 11  # other content under the same READ
    RemoteFiles(READ, config=again._config).read("a.tar", 3, 4)
    assert fetched[-1] == (3, 7)


def test_a_half_written_block_is_not_taken_for_one(stored, tmp_path, fetched):
    files = _cached(tmp_path)
    files.read("a.tar", 0, 10)
    (block,) = _blocks(tmp_path / "cache")
    os.truncate(tmp_path / "cache" / block, 500)
    assert files.read("a.tar", 400, 200) == CONTENT[400:600]
    assert len(fetched) == 2


def test_a_remote_that_comes_back_is_waited_for(stored, tmp_path, waits, monkeypatch, caplog):
    _failing(monkeypatch, [ConnectionError("reset by peer"), TimeoutError(), FileNotFoundError("/bucket/shards/a.tar")])
    assert _cached(tmp_path).read("a.tar", 0, 10) == CONTENT[:10]
    assert [0.25 <= waits[0] <= 0.75, 0.5 <= waits[1] <= 1.5, 1.0 <= waits[2] <= 3.0] == [True] * 3
    assert "attempt 1 failed (reset by peer)" in caplog.text


def test_a_remote_that_stays_away_is_one_plain_line(stored, tmp_path, waits, fetched):
    files = _cached(tmp_path)
    assert files.read("a.tar", 0, 10) == CONTENT[:10]
    stored.store.clear()
    assert files.read("a.tar", 500, 10) == CONTENT[500:510]  # what is cached is there
    with pytest.raises(DataError) as caught:
        files.read("a.tar", 5000, 10)
    assert str(caught.value).startswith("memory://bucket/shards/a.tar: cannot be read after 5 attempts (")
    assert "\n" not in str(caught.value)
    assert len(waits) == 4
    assert files.read("a.tar", 700, 10) == CONTENT[700:710]


def test_a_file_that_became_shorter_is_not_filled_up(stored, tmp_path, waits):
    files = _cached(tmp_path)
    assert files.size("a.tar") == 10_000
    stored.pipe_file("/bucket/shards/a.tar", CONTENT[:5500])
    with pytest.raises(DataError, match=r"cannot be read after 5 attempts \(500 bytes came instead of 1000\)"):
        files.read("a.tar", 5400, 10)
    with pytest.raises(DataError, match="truncated"):
        files.read("a.tar", 9_999, 2)
    with pytest.raises(DataError, match=r"b\.tar: missing"):
        files.read("b.tar", 0, 2)


def test_a_forked_process_connects_for_itself(stored, monkeypatch):
    # The threads of a protocol's library do not survive a fork: what is open is of no use to a worker.
    made = []
    real = remote.file_system
    monkeypatch.setattr(remote, "file_system", lambda url: made.append(url) or real(url))
    files = RemoteFiles(READ)
    files.read("a.tar", 0, 10)
    files.read("a.tar", 10, 10)
    assert len(made) == 1
    monkeypatch.setattr(remote.os, "getpid", lambda: -1)
    files.read("a.tar", 0, 10)
    assert len(made) == 2


def test_a_listing_kept_by_the_protocol_is_not_believed(stored, monkeypatch):
    system = type(stored)
    real, kept = system.ls, {}

    def listed(self, path, detail=True, **settings):
        if (path, detail) not in kept:
            kept[path, detail] = real(self, path, detail=detail, **settings)
        return kept[path, detail]

    monkeypatch.setattr(system, "ls", listed)
    monkeypatch.setattr(system, "invalidate_cache", lambda self, path=None: kept.clear())
    assert RemoteFiles(READ).size("b.tar") is None
    stored.store["/bucket/shards/b.tar"] = stored.store["/bucket/shards/a.tar"]
    assert RemoteFiles(READ).size("b.tar") == 10_000


def test_a_protocol_that_is_not_installed_is_not_tried_again(tmp_path, monkeypatch, waits):
    def missing(url):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    with pytest.raises(BackendError, match=r"Install s3fs.*vlp\[remote\]"):
        RemoteFiles("s3://bucket/shards")
    assert waits == []


def test_the_users_cache_is_where_such_things_belong(stored, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    RemoteFiles(READ, version="1").read("a.tar", 0, 10)
    assert sum(_blocks(tmp_path / "xdg" / "vlp" / "shards").values()) == 10_000
