"""Runs a training program, ours or open_clip's, and notes when each of its optimizer steps was done.

    python -m benchmarks.step_clock FILE STEPS PROGRAM ARGUMENT ...

Started by `benchmarks.clocked_run`.  The program is the unchanged one; torch tells of every optimizer's step, and of
every batch that is waited for.  FILE gets a line of JSON a step; the program ends after STEPS of them.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data.dataloader import _BaseDataLoaderIter

from benchmarks.processes import Moment


class StepClock:
    """Notes steps, and the time the program waited for its batches."""

    def __init__(self, path: Path, *, steps: int) -> None:
        self._file = path.open("w", encoding="utf-8")
        self._left = steps
        self._waited = 0.0

    def attach(self) -> None:
        """From now on, in this process."""
        register_optimizer_step_post_hook(self._note)
        following = _BaseDataLoaderIter.__next__

        def timed(iterator: Any) -> Any:
            started = time.perf_counter()
            try:
                return following(iterator)
            finally:
                self._waited += time.perf_counter() - started

        _BaseDataLoaderIter.__next__ = timed  # type: ignore[method-assign, assignment]

    def _note(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        now = Moment.now()
        parameters = sum(value.numel() for group in optimizer.param_groups for value in group["params"])
        row = {"wall": now.wall, "own": now.own, "machine": now.machine, "waited": self._waited,
               "parameters": parameters, "threads": torch.get_num_threads()}  # fmt: skip
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        self._left -= 1
        if self._left == 0:
            raise SystemExit(0)


def _vlp(arguments: list[str]) -> None:
    from vlp.cli.main import main

    sys.argv = ["vlp", *arguments]
    main()


def _open_clip(arguments: list[str]) -> None:
    """The first two arguments: the folder of the old webdataset, and of its model configurations."""
    packages, models, *rest = arguments
    sys.path.insert(0, packages)
    import open_clip
    from open_clip_train.main import main

    open_clip.add_model_config(models)
    main(rest)


_PROGRAMS = {"vlp": _vlp, "open_clip": _open_clip}

if __name__ == "__main__":
    file, steps, program, *arguments = sys.argv[1:]
    os.environ["PYTHONUNBUFFERED"] = "1"
    StepClock(Path(file), steps=int(steps)).attach()
    _PROGRAMS[program](arguments)
