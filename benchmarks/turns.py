"""Contenders that take turns: each lives in a process of its own, and one of them works at a time.

A process of its own makes peak memory a contender's own; taking turns lets a slow moment of the machine hit all alike.
The parent writes a line and the child answers with one line of JSON; the child ends with its parent.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
_QUIET = "KINETO_LOG_LEVEL"
"""The profiler that counts products would say so on stderr."""
_SECONDS_TO_END = 10.0

Turn = Callable[[str], dict[str, Any]]
"""What a contender does when asked for something by name, and what it measured."""


class GoneError(Exception):
    """A contender cannot take part, or go on: the message says why (memory, most of the time)."""


class Contender:
    """The parent's end of one process: `python -m module SPEC`, which calls `serve`."""

    def __init__(self, module: str, spec: Mapping[str, Any], *, threads: int) -> None:
        """Returns once it is ready for its first turn.

        Raises:
            GoneError: if it ran out of memory while it made its inputs.
            RuntimeError: if it failed for another reason (its own words are on stderr).
        """
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), _QUIET: "99"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            cwd=ROOT,
            text=True,
        )
        self.about: dict[str, Any] = self._answer()
        """What it said of itself when it was ready."""

    def turn(self, wanted: str = "run") -> dict[str, Any]:
        """Lets it work once, at what is `wanted`; returns what it measured.

        Raises:
            GoneError: if it ran out of memory.
            RuntimeError: if it failed for another reason.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{wanted}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._answer()
        return self._answer()

    def close(self) -> None:
        """Ends the process, and with it what it started: it is asked first, since killed parents leave children."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> "Contender":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            if status == -9:
                raise GoneError("ended by the system, as happens when memory runs out")
            raise RuntimeError(f"a measuring process ended with status {status}")
        answer: dict[str, Any] = json.loads(line)
        if "gone" in answer:
            self.close()
            raise GoneError(answer["gone"])
        return answer


def serve(make: Callable[[dict[str, Any]], tuple[dict[str, Any], Turn]]) -> None:
    """The child's side: `make` gets the spec and returns what to say about itself, and its turn.

    Whatever libraries print goes to stderr, so that answers stay alone on stdout.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    try:
        about, turn = make(json.loads(sys.argv[1]))
        say(about)
        for wanted in sys.stdin:
            say(turn(wanted.strip()))
    except RuntimeError as error:
        if not (isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)):
            raise
        say({"gone": "out of memory"})
