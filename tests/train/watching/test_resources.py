import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from vlp.train.watching import resources
from vlp.train.watching.resources import (
    disk_free_bytes,
    group_limits,
    memory_bytes,
    peak_memory_bytes,
    shared_memory_free_bytes,
)


def put(folder: Path, name: str, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


def test_limits_of_version_two_are_those_of_all_groups_around_the_process(tmp_path: Path) -> None:
    memberships, groups = tmp_path / "cgroup", tmp_path / "groups"
    memberships.write_text("0::/job/step\n")
    put(groups / "job" / "step", "memory.max", "max\n")
    put(groups / "job", "memory.max", "5000\n")
    put(groups, "memory.max", "9000\n")
    put(tmp_path, "memory.max", "1\n")  # outside of the hierarchy
    assert list(group_limits(memberships, groups)) == [5000, 9000]


def test_limits_of_version_one_are_those_of_the_memory_controller(tmp_path: Path) -> None:
    memberships, groups = tmp_path / "cgroup", tmp_path / "groups"
    memberships.write_text("5:cpu,cpuacct:/slurm/job_7\n4:memory:/slurm/job_7\n")
    put(groups / "memory" / "slurm" / "job_7", "memory.limit_in_bytes", "7000\n")
    put(groups / "cpu,cpuacct" / "slurm" / "job_7", "memory.limit_in_bytes", "1\n")
    assert list(group_limits(memberships, groups)) == [7000]


def test_without_control_groups_there_are_no_limits(tmp_path: Path) -> None:
    assert list(group_limits(tmp_path / "cgroup", tmp_path)) == []


def test_the_limit_of_a_job_counts_where_it_is_less_than_the_machine_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = memory_bytes()
    assert 0 < free <= psutil.virtual_memory().total
    (tmp_path / "cgroup").write_text("0::/job\n")
    put(tmp_path / "groups" / "job", "memory.max", "1000\n")
    monkeypatch.setattr(resources, "_MEMBERSHIPS", tmp_path / "cgroup")
    monkeypatch.setattr(resources, "_GROUPS", tmp_path / "groups")
    assert memory_bytes() == 1000


def test_the_peak_remembers_what_was_given_back() -> None:
    program = (
        "import numpy as np; from vlp.train.watching.resources import peak_memory_bytes; before = peak_memory_bytes();"
        "much = np.ones(200_000_000, dtype=np.uint8); del much; print(peak_memory_bytes() - before)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert 150_000_000 < int(done.stdout) < 400_000_000


def test_where_the_system_keeps_no_count_the_peak_is_what_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "_PROCESS", tmp_path / "none")
    held = psutil.Process().memory_info().rss
    assert np.isclose(peak_memory_bytes(), held, rtol=0.2)


def test_room_is_that_of_the_place_where_a_folder_will_be_made(tmp_path: Path) -> None:
    free = psutil.disk_usage(str(tmp_path)).free
    assert np.isclose(disk_free_bytes(tmp_path / "not" / "yet"), free, rtol=0.05)


def test_shared_memory_may_be_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "_SHARED_MEMORY", tmp_path / "shm")
    assert shared_memory_free_bytes() is None
    (tmp_path / "shm").mkdir()
    free = shared_memory_free_bytes()
    assert free is not None
    assert free > 0
