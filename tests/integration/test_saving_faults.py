"""Checkpoints where the surroundings fail: kills at every moment, a full disk, a disk that became read-only."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from vlp.errors import CheckpointError
from vlp.train.saving.checksums import fault
from vlp.train.saving.state import Progress, read_state, snapshot, write_averaged, write_state
from vlp.train.saving.store import CheckpointStore, RetainConfig

MOMENTS = {"open", "os.chmod", "os.listdir", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.scandir"}
"""Calls before which a process is killed; writes are among them as the file is opened for every part."""


def content(step: int) -> bytes:
    return b"%d " % step * 1000


def writer(step: int, *, parts: int = 2) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "inner").mkdir()
        for name in ("weights", "inner/state"):
            for part in range(parts):
                with (folder / name).open("ab") as file:
                    file.write(content(step)[part::parts])

    return write


def expected(step: int, *, parts: int = 2) -> bytes:
    return b"".join(content(step)[part::parts] for part in range(parts))


def forked(work: Callable[[int], None]) -> tuple[int, int]:
    """Starts `work(pipe)` in a process of its own; returns its id and the end of the pipe to read."""
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ready)
        try:
            work(tell)
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    os.close(tell)
    return child, ready


def reaped(child: int, ready: int) -> tuple[int, bytes]:
    """Its status once it has ended, and everything it said."""
    with os.fdopen(ready, "rb") as pipe:
        said = pipe.read()
    return os.waitpid(child, 0)[1], said


def saving(folder: Path, steps: tuple[int, ...], done: Callable[[int], object]) -> None:
    store = CheckpointStore(folder, RetainConfig(last=1))
    for step in steps:
        store.save(step, writer(step))
        store.wait()
        done(step)
    os._exit(0)


def check_whole(folder: Path, *, acknowledged: int) -> None:
    """What is there is whole, as new as was promised, and the next save puts everything in order."""
    store = CheckpointStore(folder, RetainConfig(last=1))
    newest = store.newest()
    assert newest is not None
    assert fault(newest) is None
    step = int(newest.name.strip(".").removeprefix("step-").removesuffix(".older"))
    assert step >= acknowledged
    assert (newest / "weights").read_bytes() == (newest / "inner" / "state").read_bytes() == expected(step)
    store.save(9, writer(9), wait=True)
    assert os.listdir(folder) == ["step-00000009"]


def copying(folder: Path, copies: Path) -> None:
    """Saves, and before every call copies the folder as it is: what a kill at that moment would leave."""
    acknowledged, within = 1, False

    def copy(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal within
        if event in MOMENTS and not within:
            within = True  # copying makes such calls itself
            shutil.copytree(folder, copies / f"{len(os.listdir(copies)):03d}-{acknowledged}")
            within = False

    def acknowledge(step: int) -> None:
        nonlocal acknowledged
        acknowledged = step

    sys.addaudithook(copy)  # for good, so in a process of its own
    saving(folder, (2, 2, 3), acknowledge)  # a new one, one in the place of another, and another new one


def test_a_kill_before_any_call_costs_only_what_was_being_written(tmp_path: Path) -> None:
    folder, copies = tmp_path / "checkpoints", tmp_path / "copies"
    CheckpointStore(folder, RetainConfig()).save(1, writer(1), wait=True)
    copies.mkdir()
    assert reaped(*forked(lambda tell: copying(folder, copies)))[0] == 0
    left = sorted(copies.iterdir())
    assert len(left) > 100
    assert {path.name.partition("-")[2] for path in left} == {"1", "2"}  # none comes after the last
    for path in left:
        check_whole(path, acknowledged=int(path.name.partition("-")[2]))


def test_a_kill_at_any_time_costs_only_what_was_being_written(tmp_path: Path) -> None:
    rng = random.Random(0)
    killed = 0
    for attempt in range(15):
        folder = tmp_path / f"checkpoints-{attempt}"
        CheckpointStore(folder, RetainConfig()).save(1, writer(1), wait=True)
        steps = tuple(range(2, 9))
        child, ready = forked(
            lambda tell, folder=folder, steps=steps: saving(folder, steps, lambda step: os.write(tell, bytes([step])))
        )
        first = os.read(ready, 1) if attempt % 2 else b""  # half of them not before something is saved
        time.sleep(rng.uniform(0.0, 0.03))
        os.kill(child, signal.SIGKILL)
        status, said = reaped(child, ready)
        killed += os.WIFSIGNALED(status)
        check_whole(folder, acknowledged=max(first + said, default=1))
    assert killed


def test_the_very_first_save_may_be_killed_too(tmp_path: Path) -> None:
    def work(tell: int) -> None:
        def write(folder: Path) -> None:
            (folder / "half").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)

        CheckpointStore(tmp_path / "run", RetainConfig()).save(1, write, wait=True)

    status, _ = reaped(*forked(work))
    assert os.WTERMSIG(status) == signal.SIGKILL
    store = CheckpointStore(tmp_path / "run", RetainConfig())
    assert store.newest() is None
    assert not store.has_any()  # the run begins anew
    store.save(1, writer(1), wait=True)
    assert os.listdir(tmp_path / "run") == ["step-00000001"]


def test_a_signal_while_saving_leaves_the_save_to_its_end(tmp_path: Path) -> None:
    """A scheduler that asks twice; the handler only sets a flag, as a run's does."""

    def work(tell: int) -> None:
        signal.signal(signal.SIGUSR1, lambda number, frame: None)

        def write(folder: Path) -> None:
            os.write(tell, b"w")
            time.sleep(0.3)
            writer(2)(folder)

        CheckpointStore(tmp_path, RetainConfig(last=1)).save(2, write, wait=True)
        os._exit(0)

    child, ready = forked(work)
    assert os.read(ready, 1) == b"w"
    for _ in range(3):
        os.kill(child, signal.SIGUSR1)
        time.sleep(0.02)
    status, _ = reaped(child, ready)
    assert status == 0
    check_whole(tmp_path, acknowledged=2)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB, where this process may make one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("may not mount a file system; tests/train/saving/test_store.py covers the same with failing writes")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def state_writer(step: int, numbers: int) -> Callable[[Path], None]:
    taken = snapshot({"state": {0: {"exp_avg": torch.full((numbers,), float(step))}}})

    def write(folder: Path) -> None:
        write_state(folder, progress=Progress(step=step), optimizer_state=taken, scaler={}, shards={}, versions={},
                    config={})  # fmt: skip

    return write


def average_writer(numbers: int) -> Callable[[Path], None]:
    return lambda folder: write_averaged(folder, {"a": torch.zeros(numbers)})


def plain_writer(numbers: int) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "plain").write_bytes(bytes(4 * numbers))

    return write


@pytest.mark.parametrize("kind", ["state", "averages", "plain"])
def test_a_full_disk_costs_only_what_was_being_written(small_disk: Path, kind: str) -> None:
    large = {"state": state_writer(2, 500_000), "averages": average_writer(500_000), "plain": plain_writer(500_000)}
    store = CheckpointStore(small_disk / "checkpoints", RetainConfig(last=1))
    store.save(1, state_writer(1, 50_000), wait=True)
    store.save(2, large[kind])  # 2.0 MB where 1.9 are left
    with pytest.raises(CheckpointError, match="No space left on device") as caught:
        store.wait()
    assert "\n" not in str(caught.value)
    newest = store.newest()
    assert newest == small_disk / "checkpoints" / "step-00000001"
    assert read_state(newest).progress.step == 1
    assert os.listdir(newest.parent) == [newest.name]  # the half is gone, and its room is free again
    store.save(3, state_writer(3, 50_000), wait=True)
    assert store.steps() == (3,)


def test_too_little_room_is_seen_beforehand(small_disk: Path) -> None:
    store = CheckpointStore(small_disk / "checkpoints", RetainConfig(last=1))
    store.save(1, plain_writer(300_000), wait=True)
    with pytest.raises(CheckpointError, match=r"takes about 1\.2 MB and 0\.\d MB are free"):
        store.save(2, plain_writer(300_000))
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    store.save(2, plain_writer(300_000), wait=True)
    assert store.steps() == (2,)


def test_a_disk_that_became_read_only_is_said_and_costs_nothing(small_disk: Path) -> None:
    store = CheckpointStore(small_disk / "checkpoints", RetainConfig(last=1))
    store.save(1, state_writer(1, 10), wait=True)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(CheckpointError, match=r"step-00000002: cannot be saved: Read-only file system; earlier"):
        store.save(2, state_writer(2, 10), wait=True)
    assert store.newest() == small_disk / "checkpoints" / "step-00000001"
