"""A token classifier from a folder (Hugging Face format) as a scanner, e.g. a de-identification tagger.

Needs `vlp[model]`.  Everything comes from the folder: weights as safetensors, a fast tokenizer, labels.  Texts longer
than the model are read in windows that overlap; what any window marks is a hit, and a marked piece marks its word.
"""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlp import log
from vlp.errors import BackendError, CheckpointError
from vlp.ingest.privacy.phi import Hit, HitKind, believable, merged

_LABELS: tuple[tuple[str, HitKind], ...] = (
    (r"age", "age"),
    (r"date|birth|dob", "date"),
    (r"phone|fax|tele", "phone"),
    (r"e?mail", "email"),
    (r"url|web|ip(?:addr)?|ip_address", "web"),
    (r"hosp\w*|org\w*|institut\w*|facility|vendor", "institution"),
    (r"loc\w*|addr\w*|street|city|state|country|zip|postal\w*|geo\w*|gpe|building\w*|room", "address"),
    (r"id|id_?num\w*|mrn|medical_?record\w*|account\w*|licen[cs]e\w*|ssn|social\w*|device\w*|serial\w*|plan\w*"
     r"|bio_?id|unique\w*|passport", "number"),
    (r"patient|doctor|hcw|staff|name|per|person|\w*_?name|user\w*|clinician|physician", "name"),
)  # fmt: skip
_OVERLAP = 64
_MAX_TOKENS = 512
_logger = log.get_logger(__name__)


def kind_of(label: str) -> HitKind | None:
    """What a model's label ("B-PATIENT", "HOSP", "I-Date") means here; None for "O" and what we do not scan for."""
    name = re.sub(r"^[BIESLU][-_]", "", label).lower().replace("-", "_").replace(" ", "_")
    return next((kind for pattern, kind in _LABELS if re.fullmatch(pattern, name)), None)


class TransformerScanner:
    """Hits of the token classifier in `folder`."""

    def __init__(self, folder: Path) -> None:
        try:
            import torch
            import transformers
            from safetensors import SafetensorError
        except ImportError:
            raise BackendError("phi_scan: transformer needs torch and transformers; install vlp[model]") from None
        if not (folder / "config.json").is_file():
            raise BackendError(
                f"phi_scan: {folder} holds no model; give a folder with config.json, weights and tokenizer"
            )
        try:
            self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self._model: Any = transformers.AutoModelForTokenClassification.from_pretrained(
                folder, local_files_only=True, use_safetensors=True
            ).eval()
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(
                f"phi_scan: {folder}: not a token classifier that can be loaded: {type(error).__name__}"
            ) from None
        if not self._tokenizer.is_fast:
            raise CheckpointError(
                f"phi_scan: {folder}: the tokenizer cannot tell where in the text its tokens are (not fast)"
            )
        self._kinds = [kind_of(label) for _, label in sorted(self._model.config.id2label.items())]
        if not any(self._kinds):
            raise CheckpointError(f"phi_scan: {folder}: none of the model's labels names something identifying")
        limit = min(
            self._tokenizer.model_max_length, getattr(self._model.config, "max_position_embeddings", _MAX_TOKENS)
        )
        self._max_tokens = min(limit, _MAX_TOKENS)
        self._torch = torch
        self._fingerprint = _hash(folder)

    def scan(self, text: str) -> tuple[Hit, ...]:
        """The hits in `text`, in order and without overlaps."""
        if not text.strip():
            return ()
        return merged(believable(text, _joined(text, merged(self._tokens(text)))))

    def fingerprint(self) -> str:
        """SHA-256 of configuration, tokenizer and weights."""
        return self._fingerprint

    def _tokens(self, text: str) -> Iterator[Hit]:
        """The words in which some token is marked."""
        windows = self._tokenizer(
            text,
            return_offsets_mapping=True,
            return_overflowing_tokens=True,
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=self._max_tokens,
            stride=min(_OVERLAP, self._max_tokens // 4),
        )
        offsets = windows.pop("offset_mapping").tolist()
        windows.pop("overflow_to_sample_mapping", None)
        with self._torch.inference_mode():
            marks = self._model(**windows).logits.argmax(dim=-1).tolist()
        for window, places in zip(marks, offsets, strict=True):
            for mark, (start, end) in zip(window, places, strict=True):
                kind = self._kinds[mark]
                if kind is not None and end > start:  # special tokens have no place
                    yield Hit(*_word(text, start, end), kind)


def _word(text: str, start: int, end: int) -> tuple[int, int]:
    """The span widened to the letters and digits it touches."""
    while start > 0 and text[start - 1].isalnum() and text[start].isalnum():
        start -= 1
    while end < len(text) and text[end].isalnum() and text[end - 1].isalnum():
        end += 1
    return start, end


def _joined(text: str, hits: tuple[Hit, ...]) -> Iterator[Hit]:
    """Hits of one kind with nothing but a space or punctuation between them as one."""
    current: Hit | None = None
    for hit in hits:
        if current and hit.kind == current.kind and re.fullmatch(r"[ \t.,'’/()-]{0,2}", text[current.end : hit.start]):
            current = Hit(current.start, hit.end, hit.kind)
            continue
        if current:
            yield current
        current = hit
    if current:
        yield current


def _hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.json")) + sorted(folder.glob("*.safetensors")) + sorted(folder.glob("vocab*")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
