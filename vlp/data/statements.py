"""What sentences say, as numbers that are equal exactly where the things are: in any batch, process or run.

Words and facts become 64-bit hashes, so processes agree on them without a shared table, and identical sentences,
equal facts and contradictions can be found on the device by comparing integers (`objectives.positives`).
"""

import hashlib
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

from vlp.data.schema import SentenceJson
from vlp.records import Certainty, Sentence
from vlp.tensors import ABSENT, PRESENT, UNCERTAIN, Statements

CERTAINTY_CODES = {Certainty.PRESENT: PRESENT, Certainty.ABSENT: ABSENT, Certainty.UNCERTAIN: UNCERTAIN}

_ENDINGS = ".,;:!?。"
_CACHED = 65_536
"""Reports repeat themselves: codes of so many distinct texts are remembered."""


class Fact(NamedTuple):
    """One finding, where, and whether it is there."""

    finding: str
    certainty: Certainty
    location: str | None = None

    @classmethod
    def of(cls, sentence: Sentence | SentenceJson) -> "Fact | None":
        """What the sentence states; None where it speaks of no finding."""
        if sentence.finding is None:
            return None
        return cls(finding=sentence.finding, certainty=sentence.certainty, location=sentence.location)


def normalised(text: str) -> str:
    """The words of a sentence without what does not change them: case, white space, width of letters, final stops.

    A text of nothing but stops stays as it is.
    """
    words = " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).split())
    return words.rstrip(_ENDINGS + " ") or words


@lru_cache(maxsize=_CACHED)
def code(text: str | None) -> int:
    """A signed 64-bit hash (BLAKE2b) of exactly this text; 0 for None and for nothing else."""
    if text is None:
        return 0
    digest = hashlib.blake2b(text.encode("utf-8", errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True) or 1


@lru_cache(maxsize=_CACHED)
def identity(text: str) -> int:
    """The code of a text's normalised words."""
    return code(normalised(text))


def statements(said: Iterable[tuple[str, Fact | None]]) -> Statements:
    """The codes of texts and of what they state, in order; a text without a fact has an identity alone."""
    rows = np.array([_codes(text, fact) for text, fact in said], dtype=np.int64).reshape(-1, 4)
    columns = torch.from_numpy(np.ascontiguousarray(rows.T))
    return Statements(identity=columns[0], finding=columns[1], location=columns[2], certainty=columns[3])


@lru_cache(maxsize=_CACHED)
def _codes(text: str, fact: Fact | None) -> tuple[int, int, int, int]:
    if fact is None:
        return identity(text), 0, 0, 0
    return identity(text), code(fact.finding), code(fact.location), CERTAINTY_CODES[fact.certainty]
