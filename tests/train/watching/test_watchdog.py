import json
import logging
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from vlp.config import validate
from vlp.errors import ConfigError
from vlp.train.watching import watchdog
from vlp.train.watching.watchdog import STALLED_STATUS, Heartbeat, Watchdog, WatchdogConfig, read_heartbeat

PROGRAM = """
import sys, time
from pathlib import Path
from vlp import log
from vlp.train.watching import watchdog
from vlp.train.watching.watchdog import Watchdog, WatchdogConfig
log.configure()
watchdog._BEAT_S, watchdog._SILENT_S = 0.05, 0.5
rank, world, step = (int(word) for word in sys.argv[2:5])
phase, stop = sys.argv[5], sys.argv[6] == "stop"
def reading_a_shard_that_never_comes():
    time.sleep(60)
with Watchdog(Path(sys.argv[1]), rank=rank, world=world, config=WatchdogConfig(minutes=0.02, stop=stop)) as dog:
    dog.phase(phase, step)
    print("ready", flush=True)
    reading_a_shard_that_never_comes()
"""


def stalled(folder: Path, *, rank: int, world: int, step: int, phase: str, stop: bool = False) -> subprocess.Popen[str]:
    """A process that stands still in the phase named."""
    arguments = [str(folder), str(rank), str(world), str(step), phase, "stop" if stop else "go on"]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def end(process: subprocess.Popen[str]) -> str:
    """Kills the process and returns what it said on stderr."""
    process.kill()
    return process.communicate(timeout=20)[1]


def wait_until(found: Any, *, limit_s: float = 30.0) -> None:
    until = time.monotonic() + limit_s
    while not found():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.05)


def test_of_three_processes_the_one_that_lags_and_the_dead_one_are_named_once(tmp_path: Path) -> None:
    processes = [
        stalled(tmp_path, rank=0, world=3, step=17, phase="step"),
        stalled(tmp_path, rank=1, world=3, step=17, phase="waiting for data"),
        stalled(tmp_path, rank=2, world=3, step=17, phase="step"),
    ]
    try:
        assert processes[2].stdout is not None
        assert processes[2].stdout.readline() == "ready\n"
        processes[2].send_signal(signal.SIGKILL)
        wait_until(lambda: all((tmp_path / f"rank-{rank}.stack.txt").exists() for rank in (0, 1)))
        time.sleep(2.0)  # long enough to say it twice
    finally:
        said = [end(process) for process in processes]
    (line,) = said[0].splitlines()
    assert "nothing has moved for 0.02 minutes: waiting for rank 1 on " in line
    assert "(step 17, waiting for data); the last is at step 17, step; no heartbeat from rank 2 on " in line
    assert said[1] == ""  # the leader speaks for all
    assert "reading_a_shard_that_never_comes" in (tmp_path / "rank-1.stack.txt").read_text()
    assert not (tmp_path / "rank-2.stack.txt").exists()


def test_where_the_leader_is_dead_the_next_one_speaks(tmp_path: Path) -> None:
    leader = stalled(tmp_path, rank=0, world=2, step=4, phase="step")
    other = stalled(tmp_path, rank=1, world=2, step=4, phase="step", stop=True)
    try:
        assert leader.stdout is not None
        assert leader.stdout.readline() == "ready\n"
        leader.kill()
        assert other.wait(timeout=30) == STALLED_STATUS
    finally:
        end(leader)
        said = end(other)
    assert "rank 1 on " in said
    assert "no heartbeat from rank 0 on " in said


def test_a_stalled_run_ends_with_its_status_where_that_is_wanted(tmp_path: Path) -> None:
    process = stalled(tmp_path, rank=0, world=1, step=3, phase="checkpoint", stop=True)
    try:
        assert process.wait(timeout=30) == STALLED_STATUS
    finally:
        said = end(process)
    assert "(step 3, checkpoint)" in said
    assert f"ending with status {STALLED_STATUS}" in said


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "_BEAT_S", 0.02)
    monkeypatch.setattr(watchdog, "_SILENT_S", 0.1)


def a_dog(folder: Path, *, minutes: float = 0.005, rank: int = 0, world: int = 1) -> Watchdog:
    return Watchdog(folder, rank=rank, world=world, config=WatchdogConfig(minutes=minutes))


@pytest.mark.usefixtures("quick")
def test_a_process_that_moves_or_says_that_it_lives_is_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with a_dog(tmp_path, minutes=0.02) as dog:  # 1.2 s
        for call in range(18):
            dog.phase("step", call // 10)  # the same again and again is a sign of life too
            time.sleep(0.1)
    assert not caplog.messages
    assert not (tmp_path / "rank-0.stack.txt").exists()


@pytest.mark.usefixtures("quick")
def test_a_run_that_moves_again_says_so_and_is_watched_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="vlp"), a_dog(tmp_path) as dog:
        for step in (1, 2):
            dog.phase("step", step)
            wait_until(lambda said=2 * step - 1: len(caplog.messages) >= said)
        dog.phase("step", 3)
        wait_until(lambda: len(caplog.messages) >= 4)
    first, again, second, _ = caplog.messages
    assert "(step 1, step)" in first
    assert again == "training moves again, at step 2"
    assert "(step 2, step)" in second


@pytest.mark.usefixtures("quick")
def test_a_suspended_process_has_not_stalled(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    jumps = iter([1.0, 1.02, 5000.0, 5000.02])
    real = time.monotonic
    with monkeypatch.context() as patched:
        patched.setattr(watchdog.time, "monotonic", lambda: next(jumps, None) or 5000.0 + real() % 1e-6)
        with a_dog(tmp_path, minutes=0.01) as dog:
            dog.phase("step", 1)
            time.sleep(0.3)
    assert not caplog.messages


@pytest.mark.usefixtures("quick")
def test_the_heartbeat_says_where_the_process_was_and_how_it_ended(tmp_path: Path) -> None:
    with a_dog(tmp_path / "heartbeats", rank=3, world=8) as dog:
        dog.phase("check", 12)
        wait_until(lambda: read_heartbeat(tmp_path / "heartbeats", 3).phase == "check")  # type: ignore[union-attr]
    heart = read_heartbeat(tmp_path / "heartbeats", 3)
    assert heart is not None
    assert (heart.rank, heart.step, heart.phase) == (3, 12, "ended")
    with pytest.raises(RuntimeError, match="broken"), a_dog(tmp_path / "heartbeats"):
        raise RuntimeError("broken")
    failed = read_heartbeat(tmp_path / "heartbeats", 0)
    assert failed is not None
    assert failed.phase == "failed"
    with pytest.raises(KeyboardInterrupt), a_dog(tmp_path / "heartbeats"):
        raise KeyboardInterrupt  # a run that was told to stop has not failed
    stopped = read_heartbeat(tmp_path / "heartbeats", 0)
    assert stopped is not None
    assert stopped.phase == "ended"


@pytest.mark.usefixtures("quick")
def test_a_folder_that_cannot_be_written_is_told_once_and_training_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING, logger="vlp"), a_dog(tmp_path / "file" / "heartbeats", minutes=1.0) as dog:
        dog.phase("step", 1)
        time.sleep(0.2)
    assert [message for message in caplog.messages if "heartbeats cannot be written" in message] == caplog.messages
    assert len(caplog.messages) == 1


def test_without_being_entered_it_takes_phases_and_does_nothing(tmp_path: Path) -> None:
    a_dog(tmp_path).phase("step", 1)
    assert list(tmp_path.iterdir()) == []


def test_processes_are_ordered_by_how_far_they_are() -> None:
    def heart(step: int, phase: str) -> Heartbeat:
        return Heartbeat(rank=0, host="a", pid=1, step=step, phase=phase, since="", beats=1)

    inorder = [
        heart(9, "failed"), heart(1, "checkpoint"), heart(2, "waiting for data"), heart(2, "step"),
        heart(2, "waiting for others"),
    ]  # fmt: skip
    assert sorted(reversed(inorder), key=lambda one: one.key) == inorder


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"rank": 1}', json.dumps({"phase": "asleep"})])
def test_a_file_that_is_no_heartbeat_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "rank-0.json").write_text(text)
    assert read_heartbeat(tmp_path, 0) is None


def test_no_minutes_are_refused() -> None:
    with pytest.raises(ConfigError, match="minutes"):
        validate(WatchdogConfig, {"minutes": 0.0}, where="test")
