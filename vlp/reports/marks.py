"""What stands in reports for words that were removed to hide a person, in the forms of the archives.

`___` (MIMIC-CXR), `XXXX` (Open-I), `[**2150-3-14**]` (older MIMIC), `<DATE>`, `[REDACTED]`, `{NAME}`, `XX/XX/XXXX`.
They are one word that nobody knows: it may be a name, a date, or, in Open-I, any word at all.
"""

import re

FORM = "xxxx"
"""The one form of every mark among the words of a sentence."""
WRITTEN = "___"
"""How every mark is written in a training text."""

PATTERN = (
    r"\[\*\*[^\]\n]{0,80}\*\*\]"
    r"|<[A-Z][A-Z_ -]{1,24}>"
    r"|[\[{](?:DATE|TIME|NAME|REDACTED|REMOVED|PHI|PERSON|DOCTOR|LOCATION|HOSPITAL|ID|AGE|PHONE)[\]}]"
    r"|_{2,}(?:/_{2,})*"
    r"|\bX{2,}(?:/X{2,})+\b|\bX{3,}\b"
)
"""A regular expression (case matters) that finds one mark."""

_MARK = re.compile(PATTERN)
_ANY = re.compile(r"[_\[<{]|XX")


def normalised(text: str) -> str:
    """The text with every mark written as `___`."""
    return _MARK.sub(WRITTEN, text) if _ANY.search(text) else text


def find_marks(text: str) -> list[tuple[int, int]]:
    """Where the marks stand, in order."""
    return [match.span() for match in _MARK.finditer(text)] if _ANY.search(text) else []
