"""One logger, spoken by rank 0, and progress bars with rates that also read well in a log file."""

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

Item = TypeVar("Item")

_QUIET_REPORT_S = 15.0
"""Seconds between progress lines where there is no terminal to draw a bar on."""


def rank() -> int:
    """This process's rank as the launcher set it (torchrun: RANK, Slurm: SLURM_PROCID), else 0."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))


def get_logger(name: str) -> logging.Logger:
    """The logger of one module; ranks other than 0 speak only warnings."""
    logger = logging.getLogger(name)
    logger.addFilter(lambda record: rank() == 0 or record.levelno >= logging.WARNING)
    return logger


def configure(*, level: int = logging.INFO) -> None:
    """Sends the package's log lines to stderr, once, without touching other libraries' loggers."""
    root = logging.getLogger("vlp")
    if not root.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(message)s", "%H:%M:%S"))
        root.addHandler(handler)
        root.propagate = False
    root.setLevel(level)


def progress(
    items: Iterable[Item], *, description: str, total: int | None = None, unit: str = "items"
) -> Iterator[Item]:
    """Yields `items` while showing how many of `total` are done, at what rate, and the time left.

    A rich bar on a terminal; one line every 15 seconds elsewhere; silent on ranks other than 0.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    if rank() != 0:
        yield from items
    elif sys.stderr.isatty():
        yield from _bar(items, description, total, unit)
    else:
        yield from _lines(items, description, total, unit)


def _bar(items: Iterable[Item], description: str, total: int | None, unit: str) -> Iterator[Item]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(description, total=total, rate="")
        started = time.monotonic()
        for done, item in enumerate(items, start=1):
            yield item
            rate = done / max(time.monotonic() - started, 1e-9)
            bar.update(task, completed=done, rate=f"{rate:.1f} {unit}/s")


def _lines(items: Iterable[Item], description: str, total: int | None, unit: str) -> Iterator[Item]:
    logger = get_logger("vlp.progress")
    started = last = time.monotonic()
    done = 0
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= _QUIET_REPORT_S:
            last = now
            share = f"{done}/{total}" if total else f"{done}"
            logger.info("%s: %s %s, %.1f %s/s", description, share, unit, done / (now - started), unit)
    elapsed = time.monotonic() - started
    if elapsed > 2.0:
        logger.info("%s: %d %s in %.1f s (%.1f %s/s)", description, done, unit, elapsed, done / elapsed, unit)
