"""How replicas are made, found, moved and listened to by the contract suites of archives and annotations."""

import csv
import gzip
import hashlib
import importlib
import io
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from pydantic import TypeAdapter

from vlp.config import Config

Member = TypeVar("Member", bound=Config)
INGEST = Path(__file__).parents[1] / "ingest"


def names(family: str) -> list[str]:
    """The replicas of a family ("archives", "annotations"), found by their files."""
    return sorted(path.stem for path in (INGEST / family / "replicas").glob("*.py") if path.stem != "replica")


def build(family: str, name: str, folder: Path) -> Any:
    """The replica `name`, built in `folder`; it skips, saying so, where an extra is not installed."""
    return importlib.import_module(f"tests.ingest.{family}.replicas.{name}").build(folder)


def configured(family: str, base: type[Member], values: Mapping[str, Any]) -> Member:
    """The member of the family that `values` configure, found by their `kind` in the module of that name."""
    module = importlib.import_module(f"vlp.ingest.{family}.{values['kind']}")
    (member,) = (
        each
        for each in vars(module).values()
        if isinstance(each, type)
        and issubclass(each, base)
        and "kind" in each.model_fields
        and each.model_fields["kind"].default == values["kind"]
    )
    return TypeAdapter(member).validate_json(json.dumps(_plain(values)))


def moved(value: Any, old: Path, new: Path) -> Any:
    """`value` with every path under `old` now under `new`."""
    if isinstance(value, Mapping):
        return {key: moved(each, old, new) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [moved(each, old, new) for each in value]
    if isinstance(value, str | Path) and Path(value).is_relative_to(old):
        return str(new / Path(value).relative_to(old))
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def snapshot(folder: Path) -> dict[str, Any]:
    """Every file and folder under `folder`, with time of change and content."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        if path.is_file()
        else None
        for path in sorted(folder.rglob("*"))
    }


class Listener(logging.Handler):
    """Collects what the package's loggers say, whoever else is listening."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def __enter__(self) -> "Listener":
        logging.getLogger("vlp").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("vlp").removeHandler(self)


def picture(path: Path, *, rows: int = 40, columns: int = 50) -> Path:
    """A small grey picture at `path`, another one for every name, in the format its ending says."""
    seed = int.from_bytes(hashlib.sha256(path.name.encode()).digest()[:4], "big")
    pixels = np.random.default_rng(seed).integers(0, 256, (rows, columns), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """A table with the columns of the first row; gzipped if its name says so."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    content = text.getvalue().encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path
