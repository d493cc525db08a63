import errno
import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from vlp.data.locks import take_lock

_TRY = """
import sys
from vlp.data.locks import take_lock
try:
    print(take_lock(open(sys.argv[1], "r+b")))
except BlockingIOError:
    print("held")
"""


def other(path: Path) -> str:
    done = subprocess.run([sys.executable, "-c", _TRY, str(path)], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_one_process_at_a_time_and_free_when_closed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with path.open("wb") as file:
        assert take_lock(file)
        assert other(path) == "held"
    assert other(path) == "True"


@pytest.mark.parametrize(("number", "held"), [(errno.ENOLCK, False), (errno.ENOSYS, False), (errno.EIO, None)])
def test_a_file_system_without_locks_is_told_from_a_failure(tmp_path: Path, monkeypatch, number, held) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(fcntl, "flock", fail)
    with (tmp_path / "lock").open("wb") as file:
        if held is None:
            with pytest.raises(OSError, match="no"):
                take_lock(file)
        else:
            assert take_lock(file) is held
