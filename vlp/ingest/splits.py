"""Which split a person belongs to: what the archive says, else a keyed hash, so that it never changes as it grows."""

import hashlib
from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import Field, model_validator

from vlp import log
from vlp.config import Config
from vlp.records import Person, Split, Study

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
_logger = log.get_logger(__name__)


class Splits(Config):
    """How persons are divided into those trained on, those choices are made by, and those tested on.

    The same person, salt and shares always give the same split, whoever else is in the archive.
    """

    salt: str = "vlp"
    """Another salt gives another, equally random division."""
    train: Fraction = 0.8
    """Share of the persons to whom the archive gives no split; as `val` and `test`."""
    val: Fraction = 0.1
    test: Fraction = 0.1
    official: bool = True
    """Whether a split that the archive gives is kept; false divides everybody anew, and figures on the result compare
    with nobody's."""
    val_from_train: Fraction = 0.0
    """Share of the persons of the archive's own training split that become validation, for archives that have none."""
    group: str | None = None
    """Group of a person (e.g. site, scanner) that is never divided: all persons of one value go to one split, so that
    the test is on sites that training never saw.  Persons without a value are divided one by one."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if abs(self.train + self.val + self.test - 1.0) > 1e-9:
            raise ValueError("train, val and test must add up to 1")
        if self.val_from_train and not self.official:
            raise ValueError("val_from_train takes from the archive's own split, which official: false does away with")
        return self

    @property
    def fractions(self) -> dict[Split, float]:
        """Share of persons per split."""
        return {"train": self.train, "val": self.val, "test": self.test}

    def split_of(self, study: Study) -> Split:
        """The split of a study: of its person, or of its person's group."""
        unit = self._unit(study.person)
        if study.split is None or not self.official:
            return assign(unit, salt=self.salt, fractions=self.fractions)
        if study.split == "train" and self.val_from_train:
            # Hashed apart from the division of others, of which it must not be a part.
            shares: dict[Split, float] = {"val": self.val_from_train, "train": 1.0 - self.val_from_train}
            return assign(unit, salt=f"{self.salt}\0val from train", fractions=shares)
        return study.split

    def _unit(self, person: Person) -> str:
        value = person.groups.get(self.group) if self.group is not None else None
        return person.id if value is None else f"{self.group}\0{value}"


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


def warn_of_empty(splits: Splits, studies: Mapping[Split, int]) -> tuple[Split, ...]:
    """The splits that should have studies and have none, each with a line in the log that says what to do.

    Args:
        splits: how the studies were divided.
        studies: how many came into each split.
    """
    empty = tuple(split for split, share in splits.fractions.items() if share > 0 and not studies.get(split))
    for split in empty:
        if splits.group is not None:
            advice = f"whole groups ({splits.group}) are divided, and there may be too few; another salt may do"
        elif split == "val":
            advice = "where the archive's own split has none, splits.val_from_train takes some of its training persons"
        else:
            advice = "the archive's own split may have none; splits.official: false divides everybody anew"
        _logger.warning("split %s is empty: %s", split, advice)
    return empty
