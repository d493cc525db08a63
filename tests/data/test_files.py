import errno
import os
import pickle
import random
import subprocess
import sys
import time

import numpy as np
import pytest

from vlp.config import validate
from vlp.data import files as module
from vlp.data.files import BlockCache, LocalFiles, RemoteConfig, retried
from vlp.errors import ConfigError, DataError

CONTENT = np.random.default_rng(0).integers(0, 256, 10_000, dtype=np.uint8).tobytes()


@pytest.fixture
def waits(monkeypatch):
    """Seconds that would have been waited."""
    waited = []
    monkeypatch.setattr(module.time, "sleep", waited.append)
    return waited


def _blocks(folder):
    return {path.name: path.stat().st_size for path in folder.iterdir() if not path.name.startswith(".lock")}


# --- a folder of this machine


@pytest.fixture
def local(tmp_path):
    (tmp_path / "a.tar").write_bytes(CONTENT)
    files = LocalFiles(tmp_path)
    yield files
    files.close()


def test_bytes_come_by_place(local):
    assert local.read("a.tar", 17, 100) == CONTENT[17:117]
    assert local.pieces("a.tar", 17, 5, 0, 95) == [CONTENT[17:22], b"", CONTENT[22:117]]
    assert local.whole("a.tar") == CONTENT
    assert local.size("a.tar") == 10_000
    assert local.size("b.tar") is None
    assert local.size(".") is None
    copy = pickle.loads(pickle.dumps(local))
    assert copy.read("a.tar", 9_990, 10) == CONTENT[-10:]


def test_a_file_cut_short_while_it_is_open_is_noticed_and_kills_nothing(local):
    assert local.read("a.tar", 9_000, 1000) == CONTENT[9_000:]
    os.truncate(local.folder / "a.tar", 9_500)
    assert local.read("a.tar", 9_000, 500) == CONTENT[9_000:9_500]
    with pytest.raises(DataError, match=r"a\.tar: truncated; run vlp shards check"):
        local.read("a.tar", 9_000, 501)


def test_a_missing_file_is_said_at_once(local, waits):
    with pytest.raises(DataError, match=r"b\.tar: cannot be read: No such file"):
        local.read("b.tar", 0, 1)
    with pytest.raises(DataError, match=r"b\.tar: missing"):
        local.whole("b.tar")
    assert waits == []


def test_many_files_do_not_use_up_handles(local, monkeypatch):
    for number in range(20):
        (local.folder / f"{number}.tar").write_bytes(bytes([number]))
    monkeypatch.setattr(local, "_most_open", 3)
    before = len(os.listdir("/proc/self/fd"))
    for number in [*range(20), *range(20)]:
        assert local.read(f"{number}.tar", 0, 1) == bytes([number])
    assert len(os.listdir("/proc/self/fd")) - before == 3
    local.close()
    assert len(os.listdir("/proc/self/fd")) == before
    for number in (0, 1, 2, 0, 3):
        local.read(f"{number}.tar", 0, 1)
    (local.folder / "0.tar").unlink()
    assert local.read("0.tar", 0, 1) == b"\0"  # used after 1 and 2, so it was not the one to be closed


def test_a_file_server_that_is_away_for_a_moment_is_waited_for(local, waits, monkeypatch):
    real, failures = os.pread, [OSError(errno.ESTALE, "Stale file handle"), OSError(errno.EIO, "Input/output error")]

    def pread(*arguments):
        if failures:
            raise failures.pop(0)
        return real(*arguments)

    monkeypatch.setattr(module.os, "pread", pread)
    assert local.read("a.tar", 0, 10) == CONTENT[:10]
    assert len(waits) == 2
    failures.extend(OSError(errno.ESTALE, "Stale file handle") for _ in range(5))
    with pytest.raises(DataError, match=r"a\.tar: cannot be read after 5 attempts \(.*Stale file handle\)"):
        local.read("a.tar", 0, 10)


def test_time_ends_attempts_too(waits, monkeypatch):
    clock = iter([0.0, 50.0, 119.9])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))

    def fail():
        raise OSError("no")

    with pytest.raises(DataError, match="after 2 attempts"):
        retried(fail, what="it", config=RemoteConfig(attempts=9))
    assert len(waits) == 1


def test_processes_do_not_come_back_all_at_once(waits):
    def fail():
        raise OSError("no")

    for _ in range(5):
        with pytest.raises(DataError):
            retried(fail, what="it", config=RemoteConfig(attempts=2))
    assert len(set(waits)) == 5


# --- the cache


@pytest.mark.parametrize("limit", [1000, 2500, 5000, 9999])
def test_the_cache_keeps_to_its_limit_and_what_it_gives_is_right(tmp_path, limit):
    cache = BlockCache(tmp_path, limit_bytes=limit)
    rng = random.Random(1)
    for _ in range(60):
        number = rng.randrange(10)
        block = CONTENT[1000 * number : 1000 * (number + 1)]
        begin, end = sorted(rng.sample(range(1001), 2))
        found = cache.read(f"{number}", begin=begin, end=end, size=1000, fetch=lambda block=block: block)
        assert found == block[begin:end]
        kept = _blocks(tmp_path)
        assert f"{number}" in kept
        assert sum(kept.values()) <= limit


def test_what_is_too_large_is_not_kept(tmp_path):
    cache = BlockCache(tmp_path, limit_bytes=999)
    for _ in range(2):
        assert cache.read("a", begin=1, end=3, size=1000, fetch=lambda: CONTENT[:1000]) == CONTENT[1:3]
    assert _blocks(tmp_path) == {}


def test_what_was_used_last_stays(tmp_path):
    cache = BlockCache(tmp_path, limit_bytes=3500)
    for age, name in enumerate("abc"):
        cache.read(name, begin=0, end=1, size=1000, fetch=lambda: bytes(1000))
        os.utime(tmp_path / name, (time.time() - 100 + age,) * 2)
    cache.read("a", begin=0, end=1, size=1000, fetch=lambda: pytest.fail("it was there"))
    cache.read("d", begin=0, end=1, size=1000, fetch=lambda: bytes(1000))
    assert "b" not in _blocks(tmp_path)
    assert {"a", "d"} <= set(_blocks(tmp_path))


def test_a_large_cache_is_not_looked_through_for_every_block(tmp_path, monkeypatch):
    looks = []
    real = BlockCache._kept
    monkeypatch.setattr(BlockCache, "_kept", lambda self: looks.append(1) or real(self))
    cache = BlockCache(tmp_path, limit_bytes=640)
    for number in range(200):
        cache.read(f"{number}", begin=0, end=1, size=10, fetch=lambda: bytes(10))
        assert sum(_blocks(tmp_path).values()) <= 640
    assert len(looks) <= 1 + (200 - 64 + 3) // 4


def test_a_cache_without_its_count_is_counted(tmp_path):
    for _ in range(3):
        cache = BlockCache(tmp_path, limit_bytes=50)
        for number in range(9):
            cache.read(f"{number}", begin=0, end=1, size=10, fetch=lambda: bytes(10))
        assert sum(_blocks(tmp_path).values()) <= 50
        (tmp_path / ".lock-room").unlink()


def test_what_a_killed_process_left_goes(tmp_path):
    old, new = tmp_path / ".x.1-1.partial", tmp_path / ".y.1-1.partial"
    old.write_bytes(b"half")
    new.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    BlockCache(tmp_path, limit_bytes=1000).read("a", begin=0, end=1, size=10, fetch=lambda: bytes(10))
    assert not old.exists()
    assert new.exists()  # somebody may be writing it


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, caplog, monkeypatch):
    def full(self, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    cache = BlockCache(tmp_path / "cache", limit_bytes=10_000)
    for name in "ab":
        assert cache.read(name, begin=1, end=3, size=4, fetch=lambda: b"wxyz") == b"xy"
    assert caplog.text.count("No space left on device") == 1
    assert _blocks(tmp_path / "cache") == {}
    (tmp_path / "file").write_text("not a folder")
    cache = BlockCache(tmp_path / "file" / "cache", limit_bytes=10_000)
    assert cache.read("a", begin=1, end=3, size=4, fetch=lambda: b"wxyz") == b"xy"


_READER = """
import sys
import time
from pathlib import Path
from vlp.data.files import BlockCache

cache, log = BlockCache(Path(sys.argv[1]), limit_bytes=int(sys.argv[2])), Path(sys.argv[3])
log.touch()
while len(list(log.parent.glob("log*"))) < 2:  # both begin at once
    time.sleep(0.001)

def fetch(number):
    time.sleep(0.005)
    with log.open("a") as file:
        file.write(f"{number}\\n")
    return bytes([number]) * 1000

for turn in range(8):
    for number in range(50):
        block = cache.read(str(number), begin=10, end=20, size=1000, fetch=lambda: fetch(number))
        assert block == bytes([number]) * 10, (number, block)
"""


@pytest.mark.parametrize("limit", [60_000, 20_000])
def test_two_processes_share_one_cache(tmp_path, limit):
    command = [sys.executable, "-c", _READER, tmp_path / "cache", str(limit)]
    readers = [subprocess.Popen([*command, tmp_path / f"log{number}"]) for number in range(2)]
    assert [reader.wait(60) for reader in readers] == [0, 0]
    fetches = [int(line) for number in range(2) for line in (tmp_path / f"log{number}").read_text().split()]
    if limit == 60_000:
        assert sorted(fetches) == list(range(50))  # every block once, whoever came first
    else:
        assert set(fetches) == set(range(50))
    blocks = _blocks(tmp_path / "cache")
    assert sum(blocks.values()) <= limit
    assert all((tmp_path / "cache" / name).read_bytes() == bytes([int(name)]) * 1000 for name in blocks)


def test_the_configuration_is_checked():
    with pytest.raises(ConfigError, match="attempts"):
        validate(RemoteConfig, {"attempts": 0}, where="here")
