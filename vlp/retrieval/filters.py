"""Which cases may be found, by what is known of them: `finding=pleural effusion`, `view=PA,AP`, `age=40..60`.

All terms must hold.  A value that is not known of a case is not let through by any term, not even by one with `not`,
except that a finding its labels do not speak of is one it does not have.
"""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from vlp.errors import DataError
from vlp.records import Certainty, Split, View
from vlp.reports.findings import canonical

Rows = np.ndarray
"""A truth value for each row of the cases."""
Certain = Literal["present", "uncertain", "absent", "unmentioned"]

_FIXED: dict[str, tuple[str, ...]] = {
    "certainty": get_args(Certain),
    "view": get_args(View),
    "sex": ("F", "M"),
    "split": get_args(Split),
}
"""Names whose values are the same in every archive."""
_OPEN = ("finding", "age", "date", "source")
_RANGE = ".."


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One condition: the name is one of these values, or lies in this range."""

    name: str
    values: tuple[str, ...] = ()
    """Any of them."""
    low: str | None = None
    high: str | None = None
    """Edges of a range, both included; None: open."""
    negated: bool = False

    def __str__(self) -> str:
        value = ",".join(self.values) if self.values else f"{self.low or ''}{_RANGE}{self.high or ''}"
        return f"{'not ' if self.negated else ''}{self.name}={value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Conditions of which all must hold."""

    terms: tuple[Term, ...] = ()
    certainty: tuple[Certain, ...] = ("present",)
    """What the labels must say of the findings that are asked for."""

    @classmethod
    def parse(cls, *texts: str) -> "Filter":
        """The filter that texts like "finding=mass", "not view=lateral", "age=40..60" and "certainty=absent" make.

        Several values of one name are parted by commas, any of which will do.  A range includes both of its ends,
        either of which may be missing.  `certainty` says what the labels must say of every `finding`: "present"
        unless given; "unmentioned" is a finding they do not speak of.

        Raises:
            DataError: for a text that is no such condition, or a value that there is nowhere.
        """
        terms = [_term(text) for text in texts]
        stated = [term for term in terms if term.name == "certainty"]
        rest = tuple(term for term in terms if term.name != "certainty")
        if len(stated) > 1 or any(term.negated for term in stated):
            raise DataError("certainty: give it once, without not, e.g. certainty=present,uncertain")
        if stated and not any(term.name == "finding" for term in rest):
            raise DataError("certainty: of which finding? Add one, e.g. finding=pneumonia")
        known: tuple[Certain, ...] = get_args(Certain)
        certainty = tuple(value for value in known if value in stated[0].values) if stated else ("present",)
        return cls(terms=rest, certainty=certainty)

    def rows(self, facts: "CaseFacts") -> Rows:
        """Which rows of a table of cases it lets through.

        Raises:
            DataError: for a name or a value that no case of the table has.
        """
        mask = np.ones(len(facts.cases), bool)
        for term in self.terms:
            mask &= facts.holding(term, self.certainty)
        return mask

    def __str__(self) -> str:
        """As it would be parsed again."""
        words = [str(term) for term in self.terms]
        return ", ".join([*words, f"certainty={','.join(self.certainty)}"] if self.certainty != ("present",) else words)


class CaseFacts:
    """What a table of cases can be asked; what an answer needs is worked out once."""

    def __init__(self, cases: pd.DataFrame) -> None:
        """Takes a table with the columns of `Index.cases`."""
        self.cases = cases
        self._codes: dict[str, tuple[np.ndarray, list[str]]] = {}

    def holding(self, term: Term, certainty: Sequence[Certain] = ("present",)) -> Rows:
        """Rows of which a term holds; see `Filter.rows`."""
        if term.name == "finding":
            found = np.logical_or.reduce([self._finding(name, certainty) for name in term.values])
            return np.logical_not(found) if term.negated else found
        known, matching = self._matching(term)
        return known & (matching != term.negated)

    @cached_property
    def findings(self) -> tuple[str, ...]:
        """Every finding that a label speaks of."""
        return tuple(sorted({name for table in self._labels.values() for name in table}))

    @cached_property
    def groups(self) -> dict[str, np.ndarray]:
        """Value of every row, None where it has none, by name of the group, e.g. site."""
        found: dict[str, np.ndarray] = {}
        for row, groups in enumerate(self.cases["groups"]):
            for name, value in groups.items():
                if name not in found:
                    found[name] = np.full(len(self.cases), None, object)
                found[name][row] = value
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """Everything that a filter of these cases may name."""
        return tuple(dict.fromkeys((*_OPEN, *_FIXED, *sorted(self.groups))))

    def _finding(self, asked: str, certainty: Sequence[Certain]) -> Rows:
        name = asked if asked in self.findings else canonical(asked)
        if name is None or name not in self.findings:
            raise DataError(f"finding={_short(asked)}: no case here has a label of it; {_choice(asked, self.findings)}")
        said = {which: table.get(name, self._nowhere) for which, table in self._labels.items()}
        said["unmentioned"] = ~np.logical_or.reduce(list(said.values()))
        found: Rows = np.logical_or.reduce([said[which] for which in certainty])
        return found

    def _matching(self, term: Term) -> tuple[Rows, Rows]:
        """Rows that have a value, and rows whose value is one that is asked for."""
        if term.name == "age":
            ages = self.cases["age"].to_numpy(np.float64)
            # Somebody of 60.5 years is 60 years old.
            return np.isfinite(ages), _within(np.floor(ages), _number(term.low), _number(term.high))
        codes, names = self._coded(term.name)
        known = codes >= 0
        if not len(names):
            raise DataError(f"{term.name}: no case here has one; {_choice(term.name, self.names)}")
        if term.name == "date":
            return known, _among(codes, _within_dates(names, term.low, term.high))
        for value in term.values:
            if value not in _FIXED.get(term.name, ()) and value not in names:
                raise DataError(f"{term.name}={_short(value)}: no case here has it; {_choice(value, sorted(names))}")
        return known, _among(codes, [name in term.values for name in names])

    def _coded(self, name: str) -> tuple[np.ndarray, list[str]]:
        """Number of every row's value, -1 where it has none, and the values."""
        if name not in self._codes:
            if name not in (*_FIXED, *_OPEN, *self.groups):
                raise DataError(f"{_short(name)}: nothing of this name is known of a case; {_choice(name, self.names)}")
            column = self.cases[name] if name in (*_FIXED, *_OPEN) else self.groups[name]
            codes, names = pd.factorize(column)
            self._codes[name] = codes, [str(value) for value in names]
        return self._codes[name]

    @cached_property
    def _nowhere(self) -> Rows:
        return np.zeros(len(self.cases), bool)

    @cached_property
    def _labels(self) -> dict[str, dict[str, Rows]]:
        """Certainty -> finding -> rows."""
        return {which.value: _by_name(self.cases[which.value]) for which in Certainty}


def _by_name(lists: pd.Series) -> dict[str, Rows]:
    """For every name, which of the lists it is in."""
    values = lists.to_numpy()
    lengths = np.fromiter((len(some) for some in values), np.int64, len(values))
    names, found = pd.factorize(np.concatenate([np.asarray(some, object) for some in values])) if lengths.sum() else (
        np.empty(0, np.int64), ())  # fmt: skip
    owners = np.repeat(np.arange(len(values)), lengths)
    table: dict[str, Rows] = {}
    for code, name in enumerate(found):
        mask = np.zeros(len(values), bool)
        mask[owners[names == code]] = True
        table[str(name)] = mask
    return table


def _term(text: str) -> Term:
    name, equals, value = (part.strip() for part in text.partition("="))
    negated = name.startswith("not ")
    name = name.removeprefix("not ").strip()
    if not equals or not name or not value:
        raise DataError(f"filter {_short(text)!r}: expected name=value, e.g. finding=pneumonia or age=40..60")
    if name in ("age", "date"):
        return _ranged(name, value, negated=negated)
    values = tuple(dict.fromkeys(part.strip() for part in value.split(",") if part.strip()))
    known = _FIXED.get(name, values)
    for one in values:
        if one not in known:
            raise DataError(f"{name}={_short(one)}: values are {', '.join(known)}")
    if not values:
        raise DataError(f"filter {_short(text)!r}: expected a value after the =")
    return Term(name=name, values=values, negated=negated)


def _ranged(name: str, value: str, *, negated: bool) -> Term:
    low, dots, high = value.partition(_RANGE)
    low, high = low.strip(), high.strip()
    edges = (low, high) if dots else (low, low)
    check: Callable[[str], Any] = _number if name == "age" else _date
    if not any(edges):
        raise DataError(f"{name}={_short(value)}: expected one value or a range, e.g. {name}={_EXAMPLES[name]}")
    checked = [check(edge) for edge in edges if edge]
    if len(checked) == 2 and checked[0] > checked[1]:
        raise DataError(f"{name}={_short(value)}: the range ends before it begins")
    return Term(name=name, low=edges[0] or None, high=edges[1] or None, negated=negated)


_EXAMPLES = {"age": "40..60", "date": "2019-01..2020-06-30"}


def _number(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not np.isfinite(number):
        raise DataError(f"age={_short(text)}: expected years, e.g. age={_EXAMPLES['age']}")
    return number


def _date(text: str) -> str:
    """A date as far as it is given: 2019, 2019-05 or 2019-05-03."""
    parts = text.split("-")
    lengths = [len(part) for part in parts]
    if not all(part.isdigit() for part in parts) or lengths != [4, 2, 2][: len(parts)]:
        raise DataError(f"date={_short(text)}: expected YYYY-MM-DD, YYYY-MM or YYYY, e.g. date={_EXAMPLES['date']}")
    return text


def _within(values: np.ndarray, low: float | None, high: float | None) -> Rows:
    inside: np.ndarray = (values >= (-np.inf if low is None else low)) & (values <= (np.inf if high is None else high))
    return inside


def _within_dates(dates: Sequence[str], low: str | None, high: str | None) -> list[bool]:
    """By the alphabet, which is the order of dates; an end that is a month or a year includes all of it."""
    return [(low is None or date >= low) and (high is None or date[: len(high)] <= high) for date in dates]


def _among(codes: np.ndarray, wanted: Sequence[bool]) -> Rows:
    """Rows whose value is wanted; those without a value are not."""
    found: Rows = np.array([*wanted, False])[codes]
    return found


def _choice(asked: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(asked, known, n=3, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(close)}?"
    shown = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
    return f"there are {shown}" if known else "there is nothing to filter by"


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."
