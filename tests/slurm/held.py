"""`vlp`, whose processes wait once at a step for a signal, so that what a test does happens at a known step.

    python held.py train CONFIG ...        with VLP_TEST_HELD=FOLDER VLP_TEST_STEP=3

Nothing else is changed.  A process that waits leaves its id in FOLDER/RANK, and is not held again.  FOLDER/go lets all
of them go.
"""

import os
import time
from pathlib import Path
from typing import Any

from vlp.cli.main import main
from vlp.train.boundary import StepBoundary
from vlp.train.signals import StopFlag

PATIENCE_S = 200.0


def hold(step: int, mark: Path) -> None:
    """Makes the process wait before the boundary of `step`."""
    came: list[int] = []
    boundary, raise_flag = StepBoundary.on_train_batch_end, StopFlag.raise_flag

    def noticed(self: StopFlag, number: int, frame: Any) -> None:
        came.append(number)
        raise_flag(self, number, frame)

    def held(self: StepBoundary, *arguments: Any) -> None:
        if self.progress.step + 1 == step and not mark.exists():
            written = mark.with_name(f"{mark.name}.partial")
            written.write_text(str(os.getpid()))
            written.rename(mark)
            until = time.monotonic() + PATIENCE_S
            while not (came or mark.with_name("go").exists()) and time.monotonic() < until:
                time.sleep(0.05)
        boundary(self, *arguments)

    StopFlag.raise_flag = noticed  # type: ignore[method-assign]
    StepBoundary.on_train_batch_end = held  # type: ignore[method-assign]


if __name__ == "__main__":
    if "VLP_TEST_HELD" in os.environ:
        hold(int(os.environ["VLP_TEST_STEP"]), Path(os.environ["VLP_TEST_HELD"], os.environ["SLURM_PROCID"]))
    main()
