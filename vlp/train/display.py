"""How a run looks while it runs: a bar on a terminal, a line every 15 seconds in a log."""

import sys
import time
from types import TracebackType
from typing import Any

from vlp import log

_QUIET_REPORT_S = 15.0
_BAR_REPORT_S = 2.0
_logger = log.get_logger(__name__)


class Display:
    """Shows step, loss, images/s, the zero-shot check and the time left.  Ranks other than 0 show nothing."""

    def __init__(self, *, first: int, total: int) -> None:
        self._first = first
        self._total = total
        self._last = time.monotonic()
        self._step = first
        self._images = 0
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> "Display":
        if log.rank() == 0 and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[facts]}"),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task("training", total=self._total, completed=self._first, facts="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, *, step: int, images: int, loss: Any, check: float | None) -> None:
        """Takes the facts of one trained step; `loss` is read (which waits for the device) only when shown."""
        self._images += images
        now = time.monotonic()
        wait = _QUIET_REPORT_S if self._bar is None else _BAR_REPORT_S
        if now - self._last < wait and step < self._total:
            if self._bar is not None:
                self._bar.update(self._task, completed=step)
            return
        # Rates of the time since the last report: a slow start (decoding, first sentences) says nothing of the rest.
        seconds = max(now - self._last, 1e-9)
        facts = f"loss {float(loss):.3f}, {self._images / seconds:.0f} images/s"
        if check is not None:
            facts += f", zero-shot AUROC {check:.3f}"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, facts=facts)
        elif log.rank() == 0:
            left = seconds / max(step - self._step, 1) * (self._total - step)
            _logger.info("step %d/%d: %s, %s left", step, self._total, facts, _clock(left))
        self._last, self._step, self._images = now, step, 0


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
