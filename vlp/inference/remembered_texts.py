"""What a model makes of sentences: each distinct one is encoded once, a standing set of prompts stacked once."""

import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vlp.errors import DataError
from vlp.tensors import TextFeatures

if TYPE_CHECKING:
    from vlp.model import VisionLanguageModel

_MOST_TEXTS = 65_536
_MOST_SETS = 64
"""Sets of prompts whose stacked vectors are kept; one that is longer than `_LONGEST_SET` is stacked every time."""
_LONGEST_SET = 4_096
_AT_ONCE = 256
_INVISIBLE = frozenset({"Cf", "Cc", "Cs", "Co"})
"""Unicode categories that never belong in a sentence: zero-width and direction marks, controls, surrogates."""


class RememberedTexts:
    """The text side of a model that does not change any more.

    A diagnosis asks the same sentences of every image, so what is done per call counts: neither are its sentences
    cleaned again nor their vectors stacked again.
    """

    def __init__(self, model: "VisionLanguageModel") -> None:
        """Remembers what `model` makes of texts, on its device."""
        self._model = model
        self._vectors: dict[str, Tensor] = {}
        self._sets: dict[tuple[str, ...], TextFeatures] = {}

    def features(self, texts: Sequence[str]) -> TextFeatures:
        """Features of the texts, in order.

        Raises:
            DataError: for no text, a text that is empty, or one longer than the text tower reads.
        """
        if isinstance(texts, str) or not texts:
            raise DataError("give at least one sentence, as a list of sentences")
        asked = tuple(texts)
        known = self._sets.get(asked)
        if known is not None:
            return known
        cleaned = [self._checked(text) for text in asked]
        self._encode(cleaned)
        features = TextFeatures(pooled=torch.stack([self._vectors[text] for text in cleaned]))
        if len(asked) <= _LONGEST_SET:
            if len(self._sets) >= _MOST_SETS:
                self._sets.clear()
            self._sets[asked] = features
        return features

    def _encode(self, cleaned: Sequence[str]) -> None:
        new = [text for text in dict.fromkeys(cleaned) if text not in self._vectors]
        if len(self._vectors) + len(new) > _MOST_TEXTS:
            self._vectors.clear()
            new = list(dict.fromkeys(cleaned))
        for start in range(0, len(new), _AT_ONCE):
            part = new[start : start + _AT_ONCE]
            with torch.inference_mode():
                pooled = self._model.encode_texts(self._model.tokenizer(part).to(self._model.device)).pooled
            self._vectors.update(zip(part, pooled, strict=True))

    def _checked(self, text: str) -> str:
        kept = "".join(
            " " if character.isspace() else character
            for character in unicodedata.normalize("NFC", text)
            if character.isspace() or unicodedata.category(character) not in _INVISIBLE
        )
        cleaned = " ".join(kept.split())
        if not any(character.isalnum() for character in cleaned):
            raise DataError("a text is empty: write what to look for, e.g. 'There is pleural effusion.'")
        if cleaned not in self._vectors:
            limit = self._model.tokenizer.max_tokens
            count = self._model.tokenizer.count(cleaned)
            if count > limit:
                raise DataError(f"a text has {count} tokens, the model reads at most {limit}; shorten it")
        return cleaned
