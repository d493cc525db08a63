"""Whatever happens to a build, nothing is lost, nothing is doubled, and in the end the bytes are the same."""

import errno
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlp.config import validate
from vlp.data import open_shards
from vlp.data.journal import Journal
from vlp.errors import DataError
from vlp.ingest.folder import FolderSource
from vlp.ingest.pipeline import IngestConfig, ingest

STUDIES = 150
BROKEN = (7, 50, 111)
"""Studies whose image cannot be read: within the budget, so they belong to what must come out the same."""
KILLS = 10
MOST_BYTES = 4_000_000
"""Written between two kills; 30 MB are to be written in all, in shards of about 2.4."""
COMMAND = [sys.executable, "-c", "from vlp.cli.main import main; main()", "ingest"]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 studies of 50 persons; the images take some 15 ms each, so that a kill can hit the middle of anything."""
    folder = tmp_path_factory.mktemp("archive")
    for number in range(5):
        pixels = np.random.default_rng(number).integers(0, 256, (384, 512), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png", compress_level=1)
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:5000])
    rows = [
        {
            "file": "broken.png" if number in BROKEN else f"{number % 5}.png",
            "id": f"i{number}",
            "study_id": f"s{number}",
            "patient_id": f"p{number % 50}",
            "view": "PA",
            "text": f"FINDINGS: There is a small left pleural effusion. No pneumothorax. Reading {number}.",
        }
        for number in range(STUDIES)
    ]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def _values(archive: Path, output: Path, **settings: object) -> dict:
    source = {"kind": "folder", "path": str(archive)}
    common = {"source": source, "output": str(output), "samples_per_shard": 12, "image_format": "png", "workers": 0}
    return common | {"error_budget": 0.05} | settings


def _config(archive: Path, output: Path, **settings: object) -> IngestConfig:
    return validate(IngestConfig, _values(archive, output, **settings), where="here")


@pytest.fixture(scope="module")
def expected(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What an undisturbed build writes."""
    folder = tmp_path_factory.mktemp("undisturbed") / "shards"
    manifest = ingest(_config(archive, folder))
    assert manifest.num_studies == STUDIES - len(BROKEN)
    assert len(manifest.shards) >= 12
    assert (folder / "quarantine.jsonl").exists()
    return _contents(folder)


def _contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def _closed(folder: Path) -> dict[str, str]:
    """Checksums of the shards that a broken-off build has closed, recomputed from the files it kept."""
    journal = folder.parent / f".{folder.name}.journal.jsonl"
    if not journal.exists():
        return {}
    with Journal(journal) as kept:  # this takes the lock: the process is really gone
        names = [entry.shard.name for entry in kept.entries]
    found = _contents(folder.parent / f".{folder.name}.partial") if names else {}
    return {name: found[name] for name in names}


def _only_whole(folder: Path) -> None:
    assert not folder.exists() or open_shards(folder)
    assert [path.name for path in folder.parent.iterdir() if path.name != "recipe.yaml"] == [folder.name]


def _start(recipe: Path, *overrides: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*COMMAND, str(recipe), *overrides], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def _kill(process: subprocess.Popen[bytes], partial: Path, *, more: int | None, seconds: float) -> bool:
    """Kills the process when it has written `more` bytes (None: whatever it has), and some time has passed then.

    Returns False if it was done before that.
    """
    wanted = None if more is None else _bytes(partial, "*.tar") + more
    while wanted is not None and process.poll() is None and _bytes(partial, "*.tar*") < wanted:
        time.sleep(0.001)
    time.sleep(seconds)
    process.kill()
    process.communicate()
    return process.returncode == -9


def _bytes(partial: Path, pattern: str) -> int:
    total = 0
    for path in partial.glob(pattern):
        with suppress(FileNotFoundError):  # closed, and thereby renamed, in this moment
            total += path.stat().st_size
    return total


def test_kill_9_at_ten_moments(archive, expected, tmp_path):
    folder = tmp_path / "shards"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps(_values(archive, folder)))
    partial = tmp_path / ".shards.partial"
    moments = random.Random(4)
    kills, most, done = 0, 0, {}
    while kills < KILLS:
        process = _start(recipe, "workers=2" if kills % 5 == 1 else "workers=0")
        if kills % 5 == 4:  # while it starts, or takes up what there is
            killed = _kill(process, partial, more=None, seconds=moments.uniform(0.2, 1.2))
        else:
            killed = _kill(process, partial, more=moments.randrange(MOST_BYTES), seconds=moments.uniform(0.0, 0.01))
        if not killed or folder.exists():  # it was faster: that build is complete, and the next starts from nothing
            assert _contents(folder) == expected
            shutil.rmtree(folder)
            done = {}
            continue
        kills += 1
        closed = _closed(folder)
        assert set(done) <= set(closed), "a closed shard was lost"
        assert closed.items() <= expected.items(), "a closed shard differs from the undisturbed one"
        done = closed
        most = max(most, len(done))
    assert most >= 3, "no build came far; the moments are too early to test anything"
    process = _start(recipe)
    _, stderr = process.communicate()
    assert process.returncode == 0, stderr.decode()
    assert _contents(folder) == expected
    _only_whole(folder)


def test_what_is_closed_is_not_read_again(archive, expected, tmp_path, monkeypatch):
    config = _config(archive, tmp_path / "shards")
    with _stopped_after(40, monkeypatch), pytest.raises(KeyboardInterrupt):
        ingest(config)
    closed = _closed(config.output)
    assert closed
    loads: list[str] = []
    real = FolderSource.load
    monkeypatch.setattr(FolderSource, "load", lambda self, unit: loads.append(unit) or real(self, unit))
    ingest(config)
    assert _contents(config.output) == expected
    # 40 of 50 persons were done; those in open shards (fewer than 12 per split) and refused ones are read again.
    assert len(loads) <= 10 + 3 * 11 + len(BROKEN)
    _only_whole(config.output)


@contextmanager
def _stopped_after(units: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    real, loads = FolderSource.load, []

    def load(self: FolderSource, unit: str):
        loads.append(unit)
        if len(loads) > units:
            raise KeyboardInterrupt
        return real(self, unit)

    with monkeypatch.context() as patch:
        patch.setattr(FolderSource, "load", load)
        yield


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB, where this process may make one; the build needs about 30."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("this process may not mount a file system; the next test covers the same with a failing write")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk(archive, expected, small_disk):
    config = _config(archive, small_disk / "shards")
    with pytest.raises(DataError, match=r"cannot write shards: No space left on device") as caught:
        ingest(config)
    assert "\n" not in str(caught.value)
    assert not config.output.exists()
    closed = _closed(config.output)
    assert closed
    assert closed.items() <= expected.items()
    subprocess.run(["mount", "-o", "remount,size=80m", str(small_disk)], check=True)
    ingest(config)
    assert _contents(config.output) == expected
    _only_whole(config.output)


@pytest.mark.parametrize("failing", ["write", "fsync", "rename"])
def test_a_disk_that_fails_at_any_call(archive, expected, tmp_path, monkeypatch, failing):
    """Like a full disk, wherever it strikes, and it strikes again and again until it has struck everywhere."""
    config = _config(archive, tmp_path / "shards")
    strikes = 0
    for allowed in (0, 3, 11, 30, 10_000):
        with _failing(failing, allowed, monkeypatch) as calls, _one_line(calls, allowed):
            ingest(config)
        if calls[0] > allowed:
            strikes += 1
            assert not config.output.exists()
            assert _closed(config.output).items() <= expected.items()
    assert strikes >= 2
    assert _contents(config.output) == expected
    _only_whole(config.output)


@contextmanager
def _one_line(calls: list[int], allowed: int) -> Iterator[None]:
    """What is done inside fails in one plain line if, in the end, there were more calls than allowed."""
    try:
        yield
    except DataError as error:
        found = str(error)
    else:
        found = ""
    assert bool(found) == (calls[0] > allowed)
    assert not found or ("No space left on device" in found and "\n" not in found)


@contextmanager
def _failing(call: str, allowed: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The call fails after it was allowed some times; gives the number of calls."""
    calls = [0]

    def counted(real):
        def fail(*arguments, **settings):
            calls[0] += 1
            if calls[0] > allowed:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*arguments, **settings)

        return fail

    with monkeypatch.context() as patch:
        if call == "write":
            patch.setattr("vlp.data.writer._Tar._append", counted(_append))
        else:
            patch.setattr(os, call, counted(getattr(os, call)))
        yield calls


def _append(tar, content):
    tar._digest.update(content)
    tar._file.write(content)
    tar._size += len(content)


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder that cannot be written to, even by root."""
    folder = tmp_path / "archive of somebody else"
    folder.mkdir()
    if os.geteuid():
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)
        return
    mount = ["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("root without the right to mount: there is no folder this process cannot write to")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_read_only_target(archive, read_only):
    for output in (read_only / "shards", read_only / "a" / "b" / "shards"):
        with pytest.raises(DataError, match=r"cannot write shards: (Read-only|Permission denied)") as caught:
            ingest(_config(archive, output))
        assert "\n" not in str(caught.value)
    assert list(read_only.iterdir()) == []


def test_a_source_cut_off_and_repaired(archive, expected, tmp_path):
    """An image is cut off: the build stops. It is repaired: the same command ends as if nothing had been."""
    source = tmp_path / "archive"
    shutil.copytree(archive, source)
    whole = (source / "3.png").read_bytes()
    (source / "3.png").write_bytes(whole[: len(whole) // 2])
    config = _config(source, tmp_path / "out" / "shards")
    with pytest.raises(DataError, match=r"unreadable_image\), more than error_budget 0\.05.* first: .*line") as caught:
        ingest(config)
    assert "\n" not in str(caught.value)
    assert not config.output.exists()
    assert _closed(config.output)
    (source / "3.png").write_bytes(whole)
    ingest(config)
    assert _same_shards(config.output, expected)
    _only_whole(config.output)


def test_a_table_of_contents_cut_off(archive, tmp_path):
    source = tmp_path / "archive"
    shutil.copytree(archive, source)
    table = source / "manifest.jsonl"
    table.write_bytes(table.read_bytes()[:-40])
    config = _config(source, tmp_path / "out" / "shards", error_budget=0.0, fault_budgets={"unreadable_image": 0.1})
    with pytest.raises(DataError, match=r"1 bad_line.*line 150") as caught:
        ingest(config)
    assert "\n" not in str(caught.value)
    assert not config.output.exists()


def test_a_source_that_changes_underneath(archive, expected, tmp_path, monkeypatch):
    source = tmp_path / "archive"
    shutil.copytree(archive, source)
    table = source / "manifest.jsonl"
    before = table.read_text()
    real, loads = FolderSource.load, []

    def load(self: FolderSource, unit: str):
        loads.append(unit)
        if len(loads) == 30:
            table.write_text(before + before.splitlines()[0].replace('"s0"', '"s999"') + "\n")
        return real(self, unit)

    config = _config(source, tmp_path / "out" / "shards")
    with monkeypatch.context() as patch:
        patch.setattr(FolderSource, "load", load)
        with pytest.raises(DataError, match="the archive changed while it was being read"):
            ingest(config)
    assert not (tmp_path / "out").exists()  # a mixture of two archives is of no use to anybody
    table.write_text(before)
    ingest(config)
    assert _same_shards(config.output, expected)


def test_a_source_that_changes_between_two_starts(archive, tmp_path, monkeypatch):
    source = tmp_path / "archive"
    shutil.copytree(archive, source)
    config = _config(source, tmp_path / "out" / "shards")
    with _stopped_after(40, monkeypatch), pytest.raises(KeyboardInterrupt):
        ingest(config)
    table = source / "manifest.jsonl"
    table.write_text(table.read_text().replace("Reading 149", "Reading 150"))
    with pytest.raises(DataError, match=r"a build of something else was broken off there \(archive: .* --again"):
        ingest(config)
    with pytest.raises(DataError, match=r"recipe\.max_side_px: null there, 64 now"):
        ingest(config.model_copy(update={"max_side_px": 64}))
    assert ingest(config, again=True).num_studies == STUDIES - len(BROKEN)


def test_two_builds_of_one_folder(archive, tmp_path):
    config = _config(archive, tmp_path / "shards")
    with Journal(tmp_path / ".shards.journal.jsonl"):
        with pytest.raises(DataError, match="another process is writing these shards"):
            ingest(config)
        assert sorted(path.name for path in tmp_path.iterdir()) == [".shards.journal.jsonl"]


def _same_shards(folder: Path, expected: dict[str, str]) -> bool:
    """The same tars; the manifest names the archive's path, which is another here."""
    return {name: found for name, found in _contents(folder).items() if name.endswith(".tar")} == {
        name: found for name, found in expected.items() if name.endswith(".tar")
    }
