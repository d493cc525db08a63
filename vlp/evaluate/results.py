"""`results.json`: one flat list of figures, each with interval and counts; equal predictions give equal bytes."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from vlp.errors import DataError
from vlp.metrics.estimate import Estimate, format_interval

MACRO = "macro"
"""`Result.finding` of an average over findings."""
MACRO_LARGE = "macro_large"
"""`Result.finding` of an average over large findings alone."""
ALL = "all"
"""`Result.finding` of a figure that is not about one finding."""
AVERAGES = frozenset({MACRO, MACRO_LARGE, ALL})
"""What stands for no single finding."""
_DIGITS = 6
RESULTS_FILE = "results.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One row of `results.json`."""

    task: str
    metric: str
    finding: str
    value: float | None
    """None where undefined; `method` says why."""
    low: float | None
    high: float | None
    n_patients: int
    n_positive: int
    method: str

    @property
    def text(self) -> str:
        """Value and interval as people read them."""
        return format_interval(self.value, self.low, self.high)


def result(task: str, metric: str, finding: str, estimate: Estimate, *, method: str = "") -> Result:
    """An estimate as a row; `method` is put before the estimate's own account of itself."""
    words = [method] if method else []
    words.append(f"{estimate.method} ({estimate.level:.0%})")
    if estimate.undefined:
        words.append(f"left out as undefined: {', '.join(estimate.undefined)}")
    if estimate.reason:
        words.append(f"no value: {estimate.reason}" if estimate.value is None else f"no interval: {estimate.reason}")
    return Result(
        task=task,
        metric=metric,
        finding=finding,
        value=_rounded(estimate.value),
        low=_rounded(estimate.low),
        high=_rounded(estimate.high),
        n_patients=estimate.n_patients,
        n_positive=estimate.n_positive,
        method="; ".join(words),
    )


def find(results: Sequence[Result], *, task: str, metric: str, finding: str) -> Result | None:
    """The row of that name, or None."""
    for row in results:
        if (row.task, row.metric, row.finding) == (task, metric, finding):
            return row
    return None


def write_results(results: Sequence[Result], folder: Path) -> Path:
    """Writes `results.json` in one step."""
    text = json.dumps([asdict(row) for row in results], indent=1, ensure_ascii=False, allow_nan=False)
    return write_text(folder / RESULTS_FILE, text + "\n")


def read_results(folder: Path) -> list[Result]:
    """The rows of a `results.json`.

    Raises:
        DataError: if the file is missing or holds something else.
    """
    path = folder / RESULTS_FILE
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return [Result(**{field.name: row[field.name] for field in fields(Result)}) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a list of results ({type(error).__name__}); run `vlp evaluate` first") from None


def write_text(path: Path, text: str) -> Path:
    """Writes a whole file or nothing: to a temporary name beside it, then renamed."""
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
    return path


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, _DIGITS) + 0.0
