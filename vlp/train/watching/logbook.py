"""What a run writes down as it goes, and how that is read again; reading needs no torch.

`metrics.csv` has one row a step, `samples.parquet` says which studies each step saw, `starts.csv` when and where the
run was started or continued.  A run that is continued from step k first drops every metric and sample after k, so that
those files read as if it had never stopped.
"""

import csv
import json
import math
import os
import socket
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from vlp import log
from vlp.train.folder import RunFolder

if TYPE_CHECKING:
    from torch import Tensor

    from vlp.train.processes import Processes

Cell: TypeAlias = "float | int | str | Tensor | None"
_START_COLUMNS = ("step", "time", "host", "processes", "job")
_logger = log.get_logger(__name__)


class Sink(Protocol):
    """Something beside the files that shows metrics: wandb, TensorBoard."""

    name: str

    def log(self, row: Mapping[str, Any], *, step: int) -> None:
        """Takes one row; cells without a value are None."""

    def finish(self) -> None:
        """Closes it, so that nothing is lost."""


class MetricsFile:
    """`metrics.csv`: the columns are fixed at the start, a cell without a value stays empty.

    Without a path it keeps nothing.
    """

    def __init__(self, path: Path | None, columns: Sequence[str], *, after_step: int = 0) -> None:
        self._path = path
        self._columns = tuple(columns)
        self._waiting: list[dict[str, Cell]] = []
        if path is not None:
            _write_rows(path, self._columns, [row for row in read_metrics(path) if int(row["step"]) <= after_step])

    def append(self, row: Mapping[str, Cell]) -> None:
        """Takes one row.  Tensors are not read before `flush`, so that a step need not wait for the device."""
        assert set(row) <= set(self._columns), "a row with a column that was not announced"
        if self._path is not None:
            self._waiting.append(dict(row))

    def flush(self) -> list[dict[str, float | str | None]]:
        """Writes the waiting rows, and returns them with their tensors read."""
        if self._path is None:
            return []
        rows = [{name: _value(row.get(name)) for name in self._columns} for row in self._waiting]
        with self._path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writerows({name: _shown(cell) for name, cell in row.items()} for row in rows)
        self._waiting.clear()
        return rows


class SamplesFile:
    """`samples.parquet`: one row (step, epoch, key) for every study of every step; without a path it keeps nothing.

    Every process hands in the studies that it saw; the one that leads writes those of all, by step and rank.
    """

    def __init__(
        self, path: Path | None, *, after_step: int = 0, processes: "Processes | None" = None, leads: bool = True
    ) -> None:
        import pyarrow as pa

        self._path = path
        self._processes = processes
        self._leads = leads
        self._schema = pa.schema([("step", pa.int64()), ("epoch", pa.int64()), ("key", pa.string())])
        self._waiting: list[tuple[int, int, str]] = []
        self._table = self._schema.empty_table()
        if path is not None and leads and path.exists():
            import pyarrow.compute as pc
            import pyarrow.parquet as pq

            table = pq.read_table(path, schema=self._schema)
            self._table = table.filter(pc.field("step") <= after_step)

    def append(self, *, step: int, epoch: int, keys: Sequence[str]) -> None:
        """Takes the keys of one step."""
        if self._path is not None:
            self._waiting += [(step, epoch, key) for key in keys]

    def flush(self) -> None:
        """Writes the whole file anew, in one move; all processes come here together."""
        if self._path is None:
            return
        own = json.dumps(self._waiting)
        everyone = [own] if self._processes is None else self._processes.collect(own)
        waiting = [tuple(row) for text in everyone for row in json.loads(text)]
        self._waiting.clear()
        if not self._leads:
            return
        waiting.sort(key=lambda row: row[0])  # steps; of one step, ranks stay in order
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = list(zip(*waiting, strict=True)) or [(), (), ()]
        arrays = [pa.array(column, type=field.type) for column, field in zip(columns, self._schema, strict=True)]
        self._table = pa.concat_tables([self._table, pa.Table.from_arrays(arrays, schema=self._schema)])
        temporary = self._path.with_name(f".{self._path.name}.partial")
        pq.write_table(self._table, temporary)
        os.replace(temporary, self._path)


class Logbook:
    """The files of a run, and the sinks that get the same rows.

    A sink that fails is told of once and left out from then on: no picture of a run is worth the run.
    """

    def __init__(self, *, metrics: MetricsFile, samples: SamplesFile, sinks: Sequence[Sink] = ()) -> None:
        self._metrics = metrics
        self._samples = samples
        self._sinks = list(sinks)

    def append(self, row: Mapping[str, Cell], *, step: int, epoch: int, keys: Sequence[str]) -> None:
        """Takes what is to be written of one step."""
        self._metrics.append({"step": step, "epoch": epoch, **row})
        self._samples.append(step=step, epoch=epoch, keys=keys)

    def flush(self) -> None:
        """Writes the metrics that wait."""
        for row in self._metrics.flush():
            for sink in tuple(self._sinks):
                try:
                    sink.log(row, step=int(row["step"] or 0))
                except Exception as error:  # whatever it is made of
                    self._sinks.remove(sink)
                    _give_up(sink, error)

    def flush_samples(self) -> None:
        """Writes the samples that wait; the file is written anew each time, so this is for checkpoints."""
        self._samples.flush()

    def finish(self) -> None:
        """Closes the sinks; the files need no closing."""
        for sink in self._sinks:
            try:
                sink.finish()
            except Exception as error:
                _give_up(sink, error)
        self._sinks.clear()


def note_start(path: Path, *, step: int, processes: int) -> None:
    """Adds a row to `starts.csv`: this run goes on after `step`, now and here."""
    row = (step, datetime.now(tz=UTC).isoformat(timespec="seconds"), socket.gethostname(), processes,
           os.environ.get("SLURM_JOB_ID", ""))  # fmt: skip
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([_START_COLUMNS, row] if new else [row])


def read_metrics(path: Path) -> list[dict[str, str]]:
    """The rows of a `metrics.csv` or `starts.csv`, lines torn by a crash left out; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if None not in row.values() and None not in row and row.get("step", "").isdigit()]


def summary(run: Path) -> dict[str, Any]:
    """What a run came to, from its own files: steps, the last loss and check, speed, the checkpoint."""
    folder = RunFolder(run)
    rows = read_metrics(folder.metrics)
    facts: dict[str, Any] = {"run": str(run), "finished": folder.final.exists(), "steps": len(rows)}
    if rows:
        losses = _numbers(rows, "loss")
        checks = _numbers(rows, "zero_shot_auroc")
        facts |= {
            "epochs": int(rows[-1]["epoch"]) + 1,
            "loss": losses[-1] if losses else None,
            "zero_shot_auroc": checks[-1] if checks else None,
            "images_per_s": round(median(_numbers(rows, "images_per_s")), 1),
        }
        facts |= {name: round(value, 3) for name, value in _load(rows).items()}
    if starts := read_metrics(folder.run / "starts.csv"):
        facts["starts"] = len(starts)
    if folder.final.exists():
        facts["checkpoint"] = str(folder.final)
    return facts


def _load(rows: Sequence[Mapping[str, str]]) -> dict[str, float]:
    """How the machine was used, and what went wrong; older runs have not noted all of it."""
    facts: dict[str, float] = {}
    if waits := _numbers(rows, "data_wait"):
        facts["data_wait"] = sum(waits) / len(waits)
    if memory := _numbers(rows, "memory_gb"):
        facts["memory_gb"] = max(memory)
    for name in ("replaced", "skipped"):
        if counts := _numbers(rows, name):
            facts[name] = int(sum(counts))
    return facts


def _numbers(rows: Sequence[Mapping[str, str]], column: str) -> list[float]:
    """The finite numbers of a column; a step that was left out may have had others."""
    numbers = [float(row[column]) for row in rows if row.get(column)]
    return [number for number in numbers if math.isfinite(number)]


def _give_up(sink: Sink, error: Exception) -> None:
    reason = next(iter(str(error).splitlines()), "")
    _logger.warning("%s fails (%s: %s); training goes on without it", sink.name, type(error).__name__, reason)


def _write_rows(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> None:
    temporary = path.with_name(f".{path.name}.partial")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(temporary, path)


def _value(cell: Cell) -> float | str | None:
    return cell if cell is None or isinstance(cell, float | int | str) else cell.item()


def _shown(cell: float | str | None) -> str:
    if cell is None:
        return ""
    # Nine digits tell any two float32 apart, so that a resumed run can be compared with an uninterrupted one.
    return f"{cell:.9g}" if isinstance(cell, float) else str(cell)
