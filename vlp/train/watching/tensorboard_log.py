"""The run's metrics for TensorBoard, in files beside the run."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlp.errors import BackendError


class TensorboardLog:
    """Writes rows as scalars into `folder`; look at them with `tensorboard --logdir RUN`.

    A run that is continued after step k writes a new file there, and tells TensorBoard to forget what an earlier one
    says of later steps.  Rows are written where they come, not in a thread of TensorBoard's that would die by itself.

    Args:
        folder: RUN/tensorboard.
        after_step: steps trained before this start.

    Raises:
        BackendError: if TensorBoard is not installed.
    """

    name = "TensorBoard"

    def __init__(self, folder: Path, *, after_step: int = 0) -> None:
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError:
            raise BackendError("tensorboard is not installed: pip install 'vlp[tensorboard]'") from None
        self._event: Any = event_pb2.Event
        self._summary: Any = summary_pb2.Summary
        folder.mkdir(parents=True, exist_ok=True)
        # Files are read in the order of their names; "tfevents" is what TensorBoard looks for in them.
        self._file = (folder / f"events.out.tfevents.{time.time_ns():019d}").open("wb")
        self._records: Any = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        if after_step:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._write(step=after_step + 1, session_log=start)
        self._file.flush()

    def log(self, row: Mapping[str, Any], *, step: int) -> None:
        """Writes the numbers of one row; cells without a value are left out."""
        numbers = {name: cell for name, cell in row.items() if isinstance(cell, float | int) and name != "step"}
        values = [self._summary.Value(tag=name, simple_value=number) for name, number in numbers.items()]
        self._write(step=step, summary=self._summary(value=values))
        self._file.flush()

    def finish(self) -> None:
        """Closes the file."""
        self._file.close()

    def _write(self, **content: Any) -> None:
        self._records.write(self._event(wall_time=time.time(), **content).SerializeToString())
