"""How a run looks while it runs: a bar on a terminal, a line every 15 seconds in a log."""

import sys
import time
from types import TracebackType
from typing import Any

from vlp import log

_QUIET_REPORT_S = 15.0
_BAR_REPORT_S = 2.0
_TOLD_WAIT = 0.05
"""A share of time spent waiting for data that is worth a word."""
_logger = log.get_logger(__name__)


class Display:
    """Shows step, loss, images/s, memory, the zero-shot check and the time left; waiting for data where it is much.

    Ranks other than 0 show nothing.
    """

    def __init__(self, *, first: int, total: int) -> None:
        self._first = first
        self._total = total
        self._last = time.monotonic()
        self._step = first
        self._images = 0
        self._waits: list[float] = []
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

    def show(
        self,
        *,
        step: int,
        images: int,
        loss: Any,
        check: float | None,
        data_wait: float | None = None,
        memory_gb: float | None = None,
    ) -> None:
        """Takes the facts of one trained step; `loss` is read (which waits for the device) only when shown.

        Args:
            step: steps trained.
            images: of this step, on all ranks.
            loss: of this step, a number or a tensor.
            check: the last zero-shot AUROC, if there is one.
            data_wait: share of the step that was spent waiting for the batch.
            memory_gb: memory in use.
        """
        self._images += images
        self._waits += [] if data_wait is None else [data_wait]
        now = time.monotonic()
        wait = _QUIET_REPORT_S if self._bar is None else _BAR_REPORT_S
        if now - self._last < wait and step < self._total:
            if self._bar is not None:
                self._bar.update(self._task, completed=step)
            return
        # Rates of the time since the last report: a slow start (decoding, first sentences) says nothing of the rest.
        seconds = max(now - self._last, 1e-9)
        facts = f"loss {float(loss):.3f}, {self._images / seconds:.0f} images/s" + self._extras(check, memory_gb)
        if self._bar is not None:
            self._bar.update(self._task, completed=step, facts=facts)
        elif log.rank() == 0:
            left = seconds / max(step - self._step, 1) * (self._total - step)
            _logger.info("step %d/%d: %s, %s left", step, self._total, facts, _clock(left))
        self._last, self._step, self._images = now, step, 0
        self._waits.clear()

    def _extras(self, check: float | None, memory_gb: float | None) -> str:
        extras = []
        if self._waits and (wait := sum(self._waits) / len(self._waits)) > _TOLD_WAIT:
            extras.append(f"waiting for data {wait:.0%}")
        if memory_gb is not None:
            extras.append(f"{memory_gb:.1f} GB")
        if check is not None:
            extras.append(f"zero-shot AUROC {check:.3f}")
        return "".join(f", {extra}" for extra in extras)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d}"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
