"""A training command in a process of its own, and how fast its steps followed each other once it was going."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.turns import ROOT

_SECONDS = 900
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True, slots=True, kw_only=True)
class Clocked:
    """Steps after the first `skip`; start-up is no part of it."""

    steps: int
    seconds: float
    cpu_seconds: float
    """Of the program and its workers."""
    waited: float
    """Seconds the training process spent getting batches."""
    others: float
    """Cores that other processes kept busy."""
    parameters: int
    threads: int
    """Of torch in the training process."""

    @property
    def data_wait(self) -> float:
        """Share of the time spent getting batches."""
        return self.waited / self.seconds


class ProgramError(Exception):
    """The program ended before its steps were done; holds the end of what it said."""


def run_clocked(
    program: str, arguments: Sequence[str], *, steps: int, skip: int, threads: int | None, workdir: Path
) -> Clocked:
    """Runs `vlp` or `open_clip` (see `step_clock`) for `steps` steps; threads None leaves them to the program.

    Raises:
        ProgramError: if it did not come so far.
    """
    assert 0 < skip < steps
    environment = {name: value for name, value in os.environ.items() if name not in _THREADS}
    if threads is not None:
        environment |= dict.fromkeys(_THREADS, str(threads))
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), environment.get("PYTHONPATH"))))
    with tempfile.TemporaryDirectory(dir=workdir) as name:
        file = Path(name) / "steps.jsonl"
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.step_clock", str(file), str(steps), program, *arguments],
            cwd=name,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    if len(rows) < steps:
        said = (done.stdout + done.stderr)[-3000:]
        raise ProgramError(f"{program} ended with status {done.returncode} after {len(rows)} of {steps} steps:\n{said}")
    return between(rows[skip - 1], rows[steps - 1], steps=steps - skip)


def between(first: Mapping[str, float], last: Mapping[str, float], *, steps: int) -> Clocked:
    """What lies between two lines of the clock."""
    seconds, cpu = last["wall"] - first["wall"], last["own"] - first["own"]
    return Clocked(
        steps=steps,
        seconds=seconds,
        cpu_seconds=cpu,
        waited=last["waited"] - first["waited"],
        others=max(0.0, last["machine"] - first["machine"] - cpu) / seconds,
        parameters=int(last["parameters"]),
        threads=int(last["threads"]),
    )
