"""The job script of an array, with Slurm's own commands left out: what it runs, what it refuses, what comes out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlp.data import open_shards
from vlp.data.validate import check

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "slurm" / "ingest.sbatch"


def _run(*arguments: object, **variables: object) -> subprocess.CompletedProcess[str]:
    """The script as a task with these Slurm variables."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "VLP_"))}
    environment |= {name: str(value) for name, value in variables.items()}
    command = ["bash", str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)


def _array(task: int, count: int, *, tasks: int | None = None, largest: int | None = None) -> dict[str, object]:
    return {
        "SLURM_ARRAY_TASK_ID": task,
        "SLURM_ARRAY_TASK_MIN": 1,
        "SLURM_ARRAY_TASK_MAX": largest or count,
        "SLURM_ARRAY_TASK_COUNT": tasks or count,
        "SLURM_CPUS_PER_TASK": 3,
    }


@pytest.fixture
def echo(tmp_path: Path) -> dict[str, object]:
    """A `vlp` that says how it was called."""
    program = tmp_path / "vlp"
    program.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    return {"VLP_BIN": tmp_path}


@pytest.mark.parametrize("script", sorted((ROOT / "slurm").glob("*.sbatch")), ids=lambda path: path.name)
def test_scripts_are_whole(script):
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    options = [line for line in script.read_text().splitlines() if line.startswith("#SBATCH")]
    assert options
    assert all(option == "#SBATCH --requeue" or ("=" in option and "--" in option) for option in options)


def test_a_task_makes_its_part(echo):
    done = _run("c.yaml", "output=a b", **echo, **_array(3, 16))
    assert done.stdout.splitlines() == ["ingest", "c.yaml", "workers=3", "part=3/16", "output=a b"]


def test_without_an_array_it_does_what_it_is_told(echo):
    assert _run("c.yaml", "merge=16", **echo).stdout.splitlines() == ["ingest", "c.yaml", "workers=1", "merge=16"]


def test_some_tasks_again_need_the_number_of_parts(echo):
    """--array=3,7 knows of two tasks and a largest number of 7: neither is how many parts there are."""
    again = _array(7, 16, tasks=2, largest=7) | {"SLURM_ARRAY_TASK_MIN": 3}
    done = _run("c.yaml", **echo, **again)
    assert done.returncode == 2
    assert "VLP_PARTS=16" in done.stderr
    assert "part=7/16" in _run("c.yaml", **echo, **again, VLP_PARTS=16).stdout.splitlines()


def test_nothing_to_do_is_a_usage_line(echo):
    done = _run(**echo)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: sbatch")


def test_an_array_and_its_merge(tmp_path):
    archive = tmp_path / "archive"
    archive.mkdir()
    rows = []
    for number in range(5):
        pixels = np.random.default_rng(number).integers(0, 256, (24, 32), dtype=np.uint8)
        Image.fromarray(pixels).save(archive / f"{number}.png")
        rows.append({"file": f"{number}.png", "study_id": f"s{number}", "patient_id": f"p{number}", "text": "Clear."})
    (archive / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"source: {{kind: folder, path: {archive}}}\noutput: {tmp_path / 'shards'}\n")
    where = {"VLP_BIN": Path(sys.executable).parent}
    for task in (2, 1):
        done = _run(recipe, "workers=0", **where, **_array(task, 2))
        assert done.returncode == 0, done.stderr
    done = _run(recipe, "merge=2", **where)
    assert done.returncode == 0, done.stderr
    assert len(open_shards(tmp_path / "shards")) == 5
    assert check(tmp_path / "shards") == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive", "recipe.yaml", "shards"]


def test_a_task_that_fails_fails_its_job(tmp_path):
    done = _run(tmp_path / "none.yaml", VLP_BIN=Path(sys.executable).parent, **_array(1, 1))
    assert done.returncode == 2
    assert "none.yaml" in done.stderr
    assert "Traceback" not in done.stderr
