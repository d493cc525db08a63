"""Answers kept on disk, by hash, without a word of the report.

What is kept of an answer is what passed the checks: sentence numbers, findings, places, counts.  One file per report,
in folders by the first two digits of its key, written beside its name and then moved there: readers in other
processes see a whole file or none.
"""

import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vlp.errors import BackendError
from vlp.records import Certainty
from vlp.reports.reader import Statement


@dataclass(frozen=True, slots=True)
class Kept:
    """One answer as it is kept."""

    statements: list[list[Statement]]
    """Per sentence."""
    dropped: Counter[str]
    answer_sha256: str
    attempts: int


def sha256(*parts: str) -> str:
    """The hash of some texts in order; no two different rows of texts share it by where they are cut."""
    return hashlib.sha256("\0".join(f"{len(part)}:{part}" for part in parts).encode(errors="surrogatepass")).hexdigest()


class AnswerCache:
    """A folder of answers; None keeps nothing."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def get(self, key: str) -> Kept | None:
        """The answer under `key`; None if there is none, or its file is damaged."""
        if self._folder is None:
            return None
        try:
            return _read(json.loads(self._path(key).read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, key: str, kept: Kept) -> None:
        """Keeps an answer.

        Raises:
            BackendError: the folder cannot be written.
        """
        if self._folder is None:
            return
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(_written(kept), file)
            os.replace(temporary, path)
        except OSError as error:
            raise BackendError(f"{self._folder}: cannot write the answer cache: {error.strerror}") from None

    def _path(self, key: str) -> Path:
        assert self._folder is not None
        return self._folder / key[:2] / f"{key}.json"


def _written(kept: Kept) -> dict[str, Any]:
    statements: Sequence[Sequence[dict[str, Any]]] = [[asdict(one) for one in said] for said in kept.statements]
    return {
        "statements": statements,
        "dropped": dict(kept.dropped),
        "answer_sha256": kept.answer_sha256,
        "attempts": kept.attempts,
    }


def _read(values: dict[str, Any]) -> Kept:
    statements = [
        [Statement(**{**one, "certainty": Certainty(one["certainty"])}) for one in said]
        for said in values["statements"]
    ]
    return Kept(statements, Counter(values["dropped"]), str(values["answer_sha256"]), int(values["attempts"]))
