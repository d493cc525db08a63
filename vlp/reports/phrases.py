"""Finding many wordings in a sentence at once: words, a small pattern language, and a tree of words.

A pattern is a row of words.  `(a|b c)` is a choice, `(a|b)?` may be left out, `~` stands for up to eight filler words.
Words are compared without case and without the plural "s"; "w/o" is "without", and every mark of a removed word is
"xxxx".  Looking words up in a tree costs one dictionary access per word, however many patterns there are.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any, Generic, TypeVar

from vlp.reports import marks

Value = TypeVar("Value")

GAP = "~"
_MAX_GAP = 8
_VALUES = ""
"""Key under which a node of the tree keeps the values of the patterns that end there; no word is empty."""

_SHORT = {"w/o": "without", "w/": "with", "b/l": "bilateral"}
_WORD = re.compile(
    rf"(?P<mark>{marks.PATTERN})|\b(?:[wW]/[oO]|[hHrR]/[oO]|[sS]/[pP]|[cC]/[wW]|[bB]/[lL]|[dD]/[tT])\b|\b[wW]/"
    r"|[^\W_]+(?:['’][^\W_]+)?|[,;:()/?]"
)
_PART = re.compile(r"\(([^)]*)\)(\?)?|(\S+)")


def word_set(words: str) -> frozenset[str]:
    """The words of a line, to be looked up in."""
    return frozenset(words.split())


@dataclass(frozen=True, slots=True)
class Word:
    """A word or mark of a text: its normal form, and where it stands."""

    form: str
    start: int
    end: int


@lru_cache(maxsize=65536)
def normal_form(word: str) -> str:
    """Lower case without the plural "s": "Opacities" -> "opacity", "masses" -> "mass", "atelectasis" unchanged."""
    word = word.lower()
    if "/" in word:
        return _SHORT.get(word, word)
    if len(word) <= 3 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("sses"):
        return word[:-2]
    return word[:-3] + "y" if word.endswith("ies") else word[:-1]


def find_words(text: str, start: int, end: int) -> list[Word]:
    """The words and marks of `text[start:end]`, with positions in `text`."""
    return [
        Word(marks.FORM if match["mark"] else normal_form(match.group()), match.start(), match.end())
        for match in _WORD.finditer(text, start, end)
    ]


def expand(pattern: str) -> list[tuple[str, ...]]:
    """Every row of normal forms the pattern stands for."""
    choices: list[list[tuple[str, ...]]] = []
    for choice, optional, word in _PART.findall(pattern):
        options = [tuple(normal_form(part) for part in option.split()) for option in (choice or word).split("|")]
        choices.append([*options, ()] if optional else options)
    return [tuple(word for part in row for word in part) for row in product(*choices)]


@dataclass(frozen=True, slots=True)
class Match(Generic[Value]):
    """Words `begin` up to `end` (exclusive) of a sentence say what `values` stand for."""

    begin: int
    end: int
    values: tuple[Value, ...]


class Phrases(Generic[Value]):
    """Patterns with values, searched together."""

    def __init__(self, patterns: Iterable[tuple[str, Value]], *, fillers: Iterable[str] = ()) -> None:
        self._root: dict[str, Any] = {}
        self._fillers = frozenset(normal_form(word) for word in fillers)
        for pattern, value in patterns:
            for row in expand(pattern):
                node = self._root
                for word in row:
                    node = node.setdefault(word, {})
                if value not in node.get(_VALUES, ()):
                    node[_VALUES] = (*node.get(_VALUES, ()), value)

    def find(self, words: Sequence[str]) -> list[Match[Value]]:
        """The longest match at each word, in order.

        The next match starts behind it; only the words a gap skipped may hold a match of their own ("heart ~ normal"
        over "heart and mediastinum are normal").
        """
        matches: list[Match[Value]] = []
        begin = 0
        while begin < len(words):
            node = self._root.get(words[begin])
            found = self._longest(node, words, begin + 1, gapped=False) if node is not None else None
            if found is not None:
                matches.append(Match(begin, found.end, found.values))
            begin = begin + 1 if found is None or found.gapped else found.end
        return matches

    def _longest(
        self, node: dict[str, Any], words: Sequence[str], index: int, *, gapped: bool
    ) -> "_Found[Value] | None":
        """The longest row of the tree below `node` that goes on at `index`."""
        best = _Found(index, node[_VALUES], gapped) if _VALUES in node else None
        if index < len(words) and (child := node.get(words[index])) is not None:
            best = self._longest(child, words, index + 1, gapped=gapped) or best
        for skipped in self._gap(words, index) if GAP in node else ():
            if (child := node[GAP].get(words[skipped])) is not None:
                found = self._longest(child, words, skipped + 1, gapped=gapped or skipped > index)
                best = found if found and (best is None or found.end > best.end) else best
        return best

    def _gap(self, words: Sequence[str], index: int) -> Iterator[int]:
        """Where the word behind a gap at `index` may stand."""
        for skipped in range(index, min(index + _MAX_GAP + 1, len(words))):
            yield skipped
            if words[skipped] not in self._fillers:
                return


@dataclass(frozen=True, slots=True)
class _Found(Generic[Value]):
    end: int
    values: tuple[Value, ...]
    gapped: bool
