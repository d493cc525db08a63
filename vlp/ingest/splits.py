"""Which split a person belongs to: a keyed hash of the pseudonym, so it never changes as an archive grows."""

import hashlib
from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import Field, model_validator

from vlp.config import Config
from vlp.records import Split

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class Splits(Config):
    """How persons without a split of their own are divided."""

    salt: str = "vlp"
    """Another salt gives another, equally random division."""
    train: Fraction = 0.8
    val: Fraction = 0.1
    test: Fraction = 0.1

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if abs(self.train + self.val + self.test - 1.0) > 1e-9:
            raise ValueError("train, val and test must add up to 1")
        return self

    @property
    def fractions(self) -> dict[Split, float]:
        """Share of persons per split."""
        return {"train": self.train, "val": self.val, "test": self.test}


def assign(person_id: str, *, salt: str, fractions: Mapping[Split, float]) -> Split:
    """The split of one person; `fractions` add up to 1 and are laid along [0, 1) in their order."""
    digest = hashlib.sha256(f"{salt}\0{person_id}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    edge = 0.0
    for split, fraction in fractions.items():
        edge += fraction
        if place < edge:
            return split
    return [split for split, fraction in fractions.items() if fraction > 0][-1]  # rounding left a sliver at the end
