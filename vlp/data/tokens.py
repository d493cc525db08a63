"""Texts to token ids, offline, by the tokenizer file that travels with every text model."""

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vlp.errors import BackendError, DataError
from vlp.tensors import Tokens

_CACHE_ENTRIES = 200_000
"""Reports repeat themselves: identical sentences are tokenised once, up to this many distinct ones."""
_PACKAGE = "package:"
_PROBE = "There is no pleural effusion of the left lung."


class Tokenizer:
    """Turns texts into `Tokens`, padded to the longest of them and cut at `max_tokens`.

    Wraps the `tokenizers` library directly rather than transformers' classes, which in version 5 silently ignore
    vocabulary files that are handed over under their old name.
    """

    def __init__(self, backend: Any, *, pad_token: str, max_tokens: int) -> None:
        """Takes a `tokenizers.Tokenizer`; its own padding and truncation are replaced by ours."""
        pad_id = backend.token_to_id(pad_token)
        if pad_id is None:
            raise DataError(f"the tokenizer has no padding token {pad_token!r}")
        if max_tokens < 3:
            raise DataError(f"max_tokens must be at least 3, not {max_tokens}")
        backend.no_padding()
        backend.enable_truncation(max_length=max_tokens)
        self._backend = backend
        self._cache: dict[str, np.ndarray] = {}
        self.pad_token = pad_token
        self.pad_id = int(pad_id)
        self.max_tokens = max_tokens

    @classmethod
    def from_folder(cls, path: Path | str, *, max_tokens: int | None = None) -> "Tokenizer":
        """The tokenizer whose `tokenizer.json` lies in a local folder; `max_tokens` defaults to what it was saved with.

        Raises:
            DataError: if the folder holds no usable tokenizer.
        """
        from tokenizers import Tokenizer as Backend

        folder = Path(path)
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise DataError(f"{folder}: no tokenizer.json in this folder; is it a text model's folder?")
        settings = _read_settings(folder)
        try:
            backend = Backend.from_file(str(file))
        except Exception as error:  # the library raises bare Exception for a damaged file
            raise DataError(f"{file}: not a tokenizer: {' '.join(str(error).split())[:160]}") from None
        pad_token = settings.get("pad_token") or (backend.padding or {}).get("pad_token") or "[PAD]"
        limit = max_tokens or min(int(settings.get("model_max_length") or 512), 512)
        tokenizer = cls(backend, pad_token=_content(pad_token), max_tokens=limit)
        tokenizer._refuse_if_blind(file, _content(settings.get("unk_token") or "[UNK]"))
        return tokenizer

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """The tokens of `texts`, one row each."""
        rows = [self._encode(text) for text in texts]
        width = max((len(row) for row in rows), default=1)
        ids = np.full((len(rows), width), self.pad_id, dtype=np.int64)
        for place, row in zip(ids, rows, strict=True):
            place[: len(row)] = row
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        return Tokens(ids=torch.from_numpy(ids), mask=torch.from_numpy(np.arange(width) < lengths[:, None]))

    def count(self, text: str) -> int:
        """How many tokens `text` has, those that mark its beginning and end included, before it is cut."""
        encoded = self._backend.encode(text)
        marks = self._backend.num_special_tokens_to_add(is_pair=False)
        # What was cut off comes along in pieces of at most the same length, each with marks of its own.
        return len(encoded.ids) + sum(len(piece.ids) - marks for piece in encoded.overflowing)

    def __len__(self) -> int:
        """Size of the vocabulary, added tokens included."""
        return int(self._backend.get_vocab_size(with_added_tokens=True))

    def save(self, folder: Path | str) -> None:
        """Writes what `from_folder` reads back to an equal tokenizer."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        self._backend.save(str(target / "tokenizer.json"))
        settings = {"pad_token": self.pad_token, "model_max_length": self.max_tokens}
        (target / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_cache": {}}  # workers fill their own

    def _encode(self, text: str) -> np.ndarray:
        row = self._cache.get(text)
        if row is None:
            if len(self._cache) >= _CACHE_ENTRIES:
                self._cache.clear()
            # One at a time: the library's batch call starts threads, which forked loader workers must not.
            row = self._cache[text] = np.array(self._backend.encode(text).ids, dtype=np.int32)
        return row

    def _refuse_if_blind(self, file: Path, unknown: str) -> None:
        unknown_id = self._backend.token_to_id(unknown)
        ids = self._backend.encode(_PROBE, add_special_tokens=False).ids
        if not ids or (unknown_id is not None and ids.count(unknown_id) > len(ids) / 2):
            raise DataError(f"{file}: this tokenizer does not know common English words; its vocabulary is damaged")


def resolve_text_model(path: str) -> Path:
    """Where a text model's files lie: `package:NAME` is the `model` folder inside an installed package.

    Anything else is returned as a path; a caller for whom it is no folder may take it for a hub name.

    Raises:
        BackendError: if the package is not installed or carries no model.
    """
    if not path.startswith(_PACKAGE):
        return Path(path)
    package = path.removeprefix(_PACKAGE)
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        name = package.replace("_", "-")
        raise BackendError(f"text model {path!r}: the package is not installed; pip install 'vlp[demo]' or {name}")
    folder = Path(next(iter(spec.submodule_search_locations))) / "model"
    if not folder.is_dir():
        raise BackendError(f"text model {path!r}: the installed package has no folder named model")
    return folder


def _read_settings(folder: Path) -> dict[str, Any]:
    file = folder / "tokenizer_config.json"
    if not file.is_file():
        return {}
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError):
        raise DataError(f"{file}: not valid JSON; the text model's folder is damaged") from None
    return settings if isinstance(settings, dict) else {}


def _content(token: Any) -> str:
    """Settings name a token by its text or by a mapping that holds it."""
    return str(token["content"]) if isinstance(token, dict) else str(token)
