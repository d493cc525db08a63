"""Studies that are not taken: counted by reason, judged against budgets, listed in `quarantine.jsonl`.

Every study an archive gives is written, refused (something is wrong with it) or left out (a rule of the recipe says
so); the three add up to what was read, as in a CONSORT diagram.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from vlp.data.journal import Refused
from vlp.errors import DataError

LEFT_OUT = "excluded"
"""Faults of this code, or one that begins with it and "_", are no faults: a rule of the recipe leaves the study out."""
_HASH_CHARACTERS = 16
_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Excess:
    """A budget that was overdrawn, in words, and by which codes."""

    allowance: str
    codes: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Largest shares of all studies that may be refused."""

    total: float
    """For all codes without a budget of their own together."""
    by_code: Mapping[str, float] = field(default_factory=dict)

    def exceeded(self, faults: Mapping[str, int], studies: int) -> Excess | None:
        """The first budget that `faults` exceed where `studies` were usable; None if none."""
        read = studies + sum(faults.values())
        for code, share in self.by_code.items():
            if faults.get(code, 0) > share * read:
                return Excess(allowance=f"fault_budgets.{code} {share:g}", codes=frozenset({code}))
        others = {code: count for code, count in faults.items() if code not in self.by_code}
        if sum(others.values()) > self.total * read:
            return Excess(allowance=f"error_budget {self.total:g}", codes=frozenset(others))
        return None


@dataclass(slots=True, kw_only=True)
class Tally:
    """What was not taken, so far."""

    refused: list[Refused] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def faults(self) -> Counter[str]:
        """Refused studies by code."""
        return Counter(study.code for study in self.refused)

    def judge(self, budget: Budget, *, studies: int, mute: int) -> None:
        """Raises a `DataError` if too much was refused, or nothing is left to train on."""
        bad = len(self.refused)
        if studies + bad == 0:
            left = f": {self.left_out.total()} were left out by the recipe" if self.left_out else ""
            raise DataError(f"the archive holds no study{left}")
        over = budget.exceeded(self.faults, studies)
        if over:
            counts = ", ".join(f"{count} {code}" for code, count in self.faults.most_common())
            first = next(study.message for study in self.refused if study.code in over.codes)
            raise DataError(
                f"{bad} of {studies + bad} studies cannot be used ({counts}), more than {over.allowance} allows; "
                f"first: {first}"
            )
        if mute == studies:
            raise DataError(
                f"none of the {studies} studies has a sentence to train on; "
                "the archive needs reports, or labels with sentences_from_labels: true"
            )

    def lines(self) -> bytes:
        """The quarantine file's content; b"" where nothing was refused."""
        return b"".join(study.model_dump_json().encode() + b"\n" for study in self.refused)

    def shown(self) -> str:
        """The first few reasons, for people."""
        more = f"; and {len(self.refused) - _SHOWN} more" if len(self.refused) > _SHOWN else ""
        return "; ".join(study.message for study in self.refused[:_SHOWN]) + more


@runtime_checkable
class CountsLeftOut(Protocol):
    """A source whose table of contents leaves studies out by a rule of its configuration, before any is loaded."""

    def left_out(self) -> Mapping[str, int]:
        """Studies left out, by rule."""


def is_left_out(code: str) -> bool:
    """Whether a fault's code says that a rule leaves the study out."""
    return code == LEFT_OUT or code.startswith(f"{LEFT_OUT}_")


def unit_hash(unit: str, salt: str) -> str:
    """What the quarantine calls a unit of the archive, whose own name may be a patient's."""
    return hashlib.sha256(f"{salt}\0unit\0{unit}".encode(errors="surrogatepass")).hexdigest()[:_HASH_CHARACTERS]
