"""A run folder: where its files lie, its log, and files that are written whole or not at all."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Where things lie in a run folder."""

    run: Path

    @property
    def config(self) -> Path:
        """The resolved configuration of the run."""
        return self.run / "config.yaml"

    @property
    def metrics(self) -> Path:
        """One row a step."""
        return self.run / "metrics.csv"

    @property
    def samples(self) -> Path:
        """Which studies each step saw, where that is asked for."""
        return self.run / "samples.parquet"

    @property
    def skipped(self) -> Path:
        """One line for every step whose update was left out, with the keys of its studies."""
        return self.run / "skipped.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Numbered ones to continue from, and `final`."""
        return self.run / "checkpoints"

    @property
    def final(self) -> Path:
        """The model that the run was for."""
        return self.checkpoints / "final"


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


@contextmanager
def logging_to(path: Path, *, leads: bool) -> Iterator[None]:
    """Sends the package's log lines to a file as well; from the process that leads, since the others are silent."""
    if not leads:
        yield
        return
    logger = logging.getLogger("vlp")
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(message)s"))
    level = logger.level
    logger.setLevel(level or logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
        logger.setLevel(level)
