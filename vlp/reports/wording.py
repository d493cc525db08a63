"""The training text of a sentence that names no finding: its own words, as they are true of this study by itself.

Abbreviations are written out and removed words become one mark.  What compares with an earlier study is cut ("again
seen", "stable", "since the prior study"); a sentence that only compares ("no interval change", "the heart size is
unchanged", "aeration has improved") says nothing of what is there now, and has no training text.
"""

import re
from functools import cache
from typing import NamedTuple

from vlp.reports.findings import load_data
from vlp.reports.marks import WRITTEN, normalised

_LONGEST = 2000
"""Characters of a sentence that are looked at; prose without a stop for longer is no sentence."""
_WORDS = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")


class _Rules(NamedTuple):
    """The rules of wording.yaml, and one look that tells whether any may apply."""

    abbreviations: tuple[tuple[re.Pattern[str], str], ...]
    cuts: tuple[re.Pattern[str], ...]
    replacements: tuple[tuple[re.Pattern[str], str], ...]
    changes: tuple[re.Pattern[str], ...]
    empty: frozenset[str]
    short: re.Pattern[str]
    compares: re.Pattern[str]


@cache
def _rules() -> _Rules:
    data = load_data("wording.yaml")
    return _Rules(
        abbreviations=tuple((re.compile(old, re.IGNORECASE), new) for old, new in data["abbreviations"]),
        cuts=tuple(re.compile(cut, re.IGNORECASE) for cut in data["cuts"]),
        replacements=tuple((re.compile(old, re.IGNORECASE), new) for old, new in data["replacements"]),
        changes=tuple(re.compile(change, re.IGNORECASE) for change in data["changes"]),
        empty=frozenset(data["empty"]),
        short=re.compile("|".join(old for old, _ in data["abbreviations"]), re.IGNORECASE),
        compares=re.compile(
            r"\b(?:compar|unchang|stabl|remain|interval|interim|prior|previous|again|new|persist|chang|similar|same|since"
            r"|before|better|wors|improv|increas|decreas|less|more|larger|smaller|progress|regress|pre-?exist|than)",
            re.IGNORECASE,
        ),
    )


def training_text(written: str) -> str | None:
    """The words of a sentence as they are trained on; None where they say nothing of what is there now."""
    rules = _rules()
    text = normalised(" ".join(written[:_LONGEST].split()))
    if rules.short.search(text):
        for pattern, words in rules.abbreviations:
            text = pattern.sub(words, text)
    if rules.compares.search(text):
        text = _present(text, rules)
    said = {word.lower() for word in _WORDS.findall(text.replace(WRITTEN, " "))}
    return None if said <= rules.empty else text


def _present(text: str, rules: _Rules) -> str:
    """The sentence without its comparisons; "" where there is nothing but comparison."""
    capital = text[:1].isupper()
    for cut in rules.cuts:
        text = cut.sub("", text)
    if any(change.search(text) for change in rules.changes):
        return ""
    for pattern, words in rules.replacements:
        text = pattern.sub(words, text)
    text = re.sub(r"\s+([,;.])", r"\1", " ".join(text.split())).lstrip(" ,;.")
    return text[:1].upper() + text[1:] if capital else text
