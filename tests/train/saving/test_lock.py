import errno
import fcntl
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from vlp.errors import DataError
from vlp.train.saving.lock import LOCK_NAME, RunLock


@pytest.fixture(autouse=True)
def outside_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)


def refused(folder: Path, **options: float) -> str:
    with pytest.raises(DataError) as caught, RunLock(folder, **options):
        pass
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_second_is_told_who_the_first_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlp.train.saving.lock.socket.gethostname", lambda: "node-7")
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    with RunLock(tmp_path / "new" / "run"):
        monkeypatch.setenv("SLURM_JOB_ID", "4712")
        started = time.monotonic()
        message = refused(tmp_path / "new" / "run")
        assert time.monotonic() - started < 5.0  # no patience with another job
    assert f"host node-7, process {os.getpid()}, Slurm job 4711" in message


def test_the_lock_can_be_taken_again_and_by_the_next(tmp_path: Path) -> None:
    lock = RunLock(tmp_path)
    for _ in range(2):
        with lock:
            note = json.loads((tmp_path / LOCK_NAME).read_text())
            assert note["pid"] == os.getpid()
            refused(tmp_path)
        assert (tmp_path / LOCK_NAME).read_text() == ""


def test_a_refused_one_leaves_the_first_its_lock(tmp_path: Path) -> None:
    with RunLock(tmp_path):
        first = (tmp_path / LOCK_NAME).read_text()
        refused(tmp_path)
        refused(tmp_path)
        assert (tmp_path / LOCK_NAME).read_text() == first


def test_an_error_inside_lets_go(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), RunLock(tmp_path):
        _ = 1 / 0
    with RunLock(tmp_path):
        pass


def test_a_killed_process_lets_go_though_its_workers_live_on(tmp_path: Path) -> None:
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        RunLock(tmp_path).__enter__()
        worker = os.fork()  # as a loader forks its workers
        if worker == 0:
            time.sleep(60)
            os._exit(0)
        os.write(tell, str(worker).encode())
        time.sleep(60)
        os._exit(0)
    worker = int(os.read(ready, 16))
    try:
        assert f"process {child}" in refused(tmp_path)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.kill(worker, 0)  # it lives
        with RunLock(tmp_path):
            refused(tmp_path)
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_worker_that_ends_takes_no_lock_with_it(tmp_path: Path) -> None:
    with RunLock(tmp_path) as lock:
        child = os.fork()
        if child == 0:
            lock.__exit__(None, None, None)  # what an orderly end of a forked process does
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert f"process {os.getpid()}" in refused(tmp_path)


def test_a_requeued_job_waits_for_its_earlier_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    earlier = RunLock(tmp_path)
    earlier.__enter__()
    ending = threading.Timer(0.4, earlier.__exit__, args=(None, None, None))
    ending.start()
    started = time.monotonic()
    with RunLock(tmp_path, patience_s=30.0):
        assert time.monotonic() - started >= 0.3
    ending.join()


def test_and_not_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    with RunLock(tmp_path):
        assert "Slurm job 4711" in refused(tmp_path, patience_s=0.3)


@pytest.mark.parametrize("note", ["", "{", "[1]", '{"host": null}'])
def test_a_holder_without_a_name_is_refused_all_the_same(tmp_path: Path, note: str) -> None:
    with (tmp_path / LOCK_NAME).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(note)
        file.flush()
        assert "it left no name" in refused(tmp_path)


def test_a_file_system_without_locks_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    def unknown(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("vlp.data.locks.fcntl.flock", unknown)
    with RunLock(tmp_path):
        pass
    assert len(said) == 1
    assert "knows no locks" in said[0]


def test_a_lock_that_fails_is_one_plain_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(handle: int, operation: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("vlp.data.locks.fcntl.flock", broken)
    assert "cannot be locked: Input/output error" in refused(tmp_path)


def test_a_full_disk_costs_the_note_and_not_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("vlp.train.saving.lock.os.pwrite", full)
    with RunLock(tmp_path):
        refused(tmp_path)


def test_a_place_that_cannot_be_written_is_one_plain_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be written there: " in refused(tmp_path / "file" / "run")
    (tmp_path / "run" / LOCK_NAME).mkdir(parents=True)
    assert "cannot be written there: Is a directory" in refused(tmp_path / "run")
