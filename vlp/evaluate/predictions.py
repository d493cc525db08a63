"""Predictions as files: what a model said of every study, with enough provenance to score it years later.

One parquet file per task.  Refused studies stay in the table with a status, so that coverage is a figure and not
a silence.  Everything the metrics need is in these files; nobody who scores them needs the model.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlp.errors import DataError

FOLDER = "predictions"
OK = "ok"
REFUSED = "refused"
PRIOR, PARAPHRASES = "prior", "paraphrases"
"""Files that belong to a task without being one: maps of the mean training mask, and scores of other wordings."""

_IDENTITY = {
    "dataset": "string",
    "dataset_version": "string",
    "split": "string",
    "patient_id": "string",
    "study_id": "string",
    "image_id": "string",
    "view": "string",
    "checkpoint_hash": "string",
    "prompt_set_hash": "string",
    "preprocess_hash": "string",
    "status": "string",
    "status_reason": "string",
}
_MAP = {
    "finding": "string",
    "text": "string",
    "region_kind": "string",
    "rows": "int32",
    "columns": "int32",
    "peak_x": "double",
    "peak_y": "double",
    "hit": "bool",
    "valid_px": "int64",
    "truth_px": "int64",
    "predicted_px": "list<int32>",
    "shared_px": "list<int32>",
}
_OWN: Mapping[str, Mapping[str, str]] = {
    "classification": {
        "finding": "string",
        "score_name": "string",
        "score": "double",
        "score_type": "string",
        "label": "string",
    },
    "grounding": _MAP,
    "anatomy": _MAP,
    PRIOR: _MAP,
    "negation": {"finding": "string", "pos": "double", "neg": "double", "pnc": "double", "label": "string"},
    "calibration": {
        "finding": "string",
        "score": "double",
        "probability": "double",
        "possible": "list<string>",
        "state": "string",
        "gate": "string",
        "label": "string",
    },
    PARAPHRASES: {"finding": "string", "wording": "string", "score": "double", "label": "string"},
    "retrieval": {
        "query": "bool",
        "gallery": "bool",
        "findings": "list<string>",
        "absent": "list<string>",
        "uncertain": "list<string>",
        "age": "double",
        "sex": "string",
        "embedding": "list<float>",
        "tower": "list<half>",
        "thumbnail": "list<half>",
    },
}
_MAY_LACK = {"retrieval": frozenset({"absent", "uncertain", "age", "sex", "tower", "thumbnail"})}
"""Columns that files of earlier versions do not have; what needs them is then left out."""
_UNIQUE: Mapping[str, tuple[str, ...]] = {
    "classification": ("study_id", "finding", "score_name"),
    "grounding": ("study_id", "image_id", "finding"),
    "anatomy": ("study_id", "image_id", "finding"),
    PRIOR: ("study_id", "image_id", "finding"),
    "negation": ("study_id", "finding"),
    "calibration": ("study_id", "finding"),
    PARAPHRASES: ("study_id", "finding", "wording"),
    "retrieval": ("study_id",),
}
"""What names a row: two rows with one name are an error (a retry, an augmented copy), never an average."""

_NUMBERS: Mapping[str, tuple[str, ...]] = {
    "classification": ("score",),
    "negation": ("pos", "neg", "pnc"),
    "calibration": ("score", "probability"),
    PARAPHRASES: ("score",),
}
"""Columns that hold a number wherever a study was not refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """What every prediction of a run has in common."""

    dataset_version: str
    checkpoint_hash: str
    prompt_set_hash: str
    preprocess_hash: str

    def columns(self) -> dict[str, str]:
        """The columns it fills."""
        return {name: getattr(self, name) for name in self.__slots__}


def columns_of(task: str) -> tuple[str, ...]:
    """Names of the columns of a task's file."""
    return (*_IDENTITY, *_OWN[task])


def path_of(folder: Path, task: str) -> Path:
    """Where the predictions of a task lie in an output folder."""
    return folder / FOLDER / f"{task}.parquet"


def write(rows: Iterable[Mapping[str, Any]], folder: Path, task: str) -> Path:
    """Writes a task's rows, sorted by name so that the order of computation leaves no trace, in one step.

    Raises:
        DataError: for rows with the same name or a NaN score.
    """
    import pyarrow as pa
    from pyarrow import parquet

    ordered = sorted(rows, key=lambda row: _name(row, task))
    _check(ordered, task)
    table = pa.Table.from_pylist([dict(row) for row in ordered], schema=_schema(task))
    path = path_of(folder, task)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    parquet.write_table(table, temporary, compression="zstd")
    os.replace(temporary, path)
    return path


def read(folder: Path, task: str) -> list[dict[str, Any]]:
    """The rows of a task, sorted by name.

    Raises:
        DataError: if the file is missing, is no parquet, lacks columns, repeats a row, has NaN scores or no scored row.
    """
    import pyarrow as pa
    from pyarrow import parquet

    path = path_of(folder, task)
    if not path.is_file():
        raise DataError(f"{path}: no predictions for {task}; run `vlp evaluate` first")
    try:
        table = parquet.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable parquet file ({type(error).__name__})") from None
    needed = [name for name in columns_of(task) if name not in _MAY_LACK.get(task, ())]
    missing = [name for name in needed if name not in table.column_names]
    if missing:
        raise DataError(f"{path}: lacks the columns {', '.join(missing)}")
    rows = sorted(table.to_pylist(), key=lambda row: _name(row, task))
    _check(rows, task)
    return rows


def scored(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that were not refused."""
    return [row for row in rows if row["status"] == OK]


def refusals(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many studies were refused, by reason."""
    reasons: dict[str, set[str]] = {}
    for row in rows:
        if row["status"] != OK:
            reasons.setdefault(str(row["status_reason"]), set()).add(row["study_id"])
    return {reason: len(studies) for reason, studies in sorted(reasons.items())}


def fingerprint(value: Any) -> str:
    """Sixteen hex digits that change with `value`, which must be JSON-able."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _name(row: Mapping[str, Any], task: str) -> tuple[str, ...]:
    return tuple(str(row[column]) for column in _UNIQUE[task])


def _check(rows: Sequence[Mapping[str, Any]], task: str) -> None:
    names = [_name(row, task) for row in rows]
    repeated = len(names) - len(set(names))
    if repeated:
        raise DataError(f"predictions of {task}: {repeated} rows repeat another; every row must be predicted once")
    good = [row for row in rows if row["status"] == OK]
    numbers = _NUMBERS.get(task, ())
    undefined = sum(1 for row in good if not all(_is_number(row[column]) for column in numbers))
    if undefined:
        raise DataError(f"predictions of {task}: {undefined} scores are not numbers; the model or its input is broken")
    if rows and not good:
        raise DataError(f"predictions of {task}: all {len(rows)} rows were refused; there is nothing to score")


def _is_number(value: Any) -> bool:
    return value is not None and value == value


def _schema(task: str) -> Any:
    import pyarrow as pa

    types = {
        "string": pa.string(),
        "double": pa.float64(),
        "bool": pa.bool_(),
        "int32": pa.int32(),
        "int64": pa.int64(),
        "list<int32>": pa.list_(pa.int32()),
        "list<string>": pa.list_(pa.string()),
        "list<float>": pa.list_(pa.float32()),
        "list<half>": pa.list_(pa.float16()),
    }
    return pa.schema([(name, types[kind]) for name, kind in {**_IDENTITY, **_OWN[task]}.items()])
