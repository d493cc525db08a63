"""What a run writes down as it goes: `metrics.csv`, one row a step, and `samples.parquet`, which studies each step saw.

A run that is continued from step k first drops every row after k, so that the files read as if it had never stopped.
"""

import csv
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from vlp.train.processes import Processes
from vlp.train.wandb_log import WandbLog

Cell = float | int | str | torch.Tensor | None


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
        self, path: Path | None, *, after_step: int = 0, processes: Processes | None = None, leads: bool = True
    ) -> None:
        import pyarrow as pa

        self._path = path
        self._processes = processes or Processes()
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
        waiting = [
            tuple(row) for text in self._processes.collect(json.dumps(self._waiting)) for row in json.loads(text)
        ]
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
    """The files of a run and, where it is wanted, wandb."""

    def __init__(self, *, metrics: MetricsFile, samples: SamplesFile, wandb: WandbLog) -> None:
        self._metrics = metrics
        self._samples = samples
        self._wandb = wandb

    def append(self, row: Mapping[str, Cell], *, step: int, epoch: int, keys: Sequence[str]) -> None:
        """Takes what is to be written of one step."""
        self._metrics.append({"step": step, "epoch": epoch, **row})
        self._samples.append(step=step, epoch=epoch, keys=keys)

    def flush(self) -> None:
        """Writes the metrics that wait."""
        for row in self._metrics.flush():
            self._wandb.log(row, step=int(row["step"] or 0))

    def flush_samples(self) -> None:
        """Writes the samples that wait; the file is written anew each time, so this is for checkpoints."""
        self._samples.flush()


def read_metrics(path: Path) -> list[dict[str, str]]:
    """The rows of a `metrics.csv`, a line torn by a crash left out; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if None not in row.values() and None not in row and (row["step"] or "").isdigit()]


def _write_rows(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> None:
    temporary = path.with_name(f".{path.name}.partial")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(temporary, path)


def _value(cell: Cell) -> float | str | None:
    return cell.item() if isinstance(cell, torch.Tensor) else cell


def _shown(cell: float | str | None) -> str:
    if cell is None:
        return ""
    # Nine digits tell any two float32 apart, so that a resumed run can be compared with an uninterrupted one.
    return f"{cell:.9g}" if isinstance(cell, float) else str(cell)
