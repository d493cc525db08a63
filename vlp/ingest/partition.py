"""Parts of an archive that are sharded by different jobs and merged afterwards."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")

PART = r"[1-9]\d*/[1-9]\d*"
"""How a part is written, e.g. 3/16: the third of sixteen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Part `number` of `count`, counted from 1."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Part":
        """The part that `text`, e.g. "3/16", names.

        Raises:
            ValueError: if it is not of this form, or the number is larger than the count.
        """
        if not re.fullmatch(PART, text):
            raise ValueError("a part is written like 3/16: the third of sixteen")
        number, count = map(int, text.split("/"))
        if number > count:
            raise ValueError(f"there is no part {number} of {count}; parts are counted from 1")
        return cls(number=number, count=count)

    @property
    def folder(self) -> str:
        """Name of the folder it goes to."""
        return f"{self.number:04d}-of-{self.count:04d}"

    def of(self, items: Sequence[Item]) -> Sequence[Item]:
        """This part of `items`: consecutive ones, so that parts laid end to end are the whole in its own order."""
        start, end = (len(items) * edge // self.count for edge in (self.number - 1, self.number))
        return items[start:end]

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"
