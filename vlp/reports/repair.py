r"""Reports that a system on the way has damaged, made readable before they become a `Report`.

A report is never edited once it is one: spans point into it.  So an importer repairs first, once, and says what it did.

* a byte order mark, null and other control characters, invisible characters: taken out;
* "\r\n" and "\r": one "\n";
* HL7 escapes (`\.br\`, `\X0D\`, `\T\`): what they stand for;
* RTF: its text;
* UTF-8 that was read as Latin-1 or Windows-1252 ("neumonÃ­a"): read again.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Repaired:
    """A report's text, and what was done to it."""

    text: str
    changes: Mapping[str, int]
    """Kind of damage -> how often; empty for a sound text."""


_HL7 = re.compile(
    r"\\(?:\.(?P<layout>br|sp|ce|in|ti|fi|nf|sk)[^\\\n]{0,8}|X(?P<hex>(?:[0-9A-Fa-f]{2}){1,8})|(?P<mark>[FSTRE]))\\"
)
_HL7_MARKS = {"F": "|", "S": "^", "T": "&", "R": "~", "E": "\\"}
_RTF_TOKEN = re.compile(
    r"\\'(?P<hex>[0-9A-Fa-f]{2})|\\u(?P<code>-?\d{1,6}) ?\??|\\(?P<word>[A-Za-z]{1,32})-?\d{0,10} ?"
    r"|\\(?P<symbol>[^A-Za-z\n])|(?P<brace>[{}])|(?P<line>\r?\n)|(?P<text>[^\\{}\r\n]+|\r|\\)"
)
_RTF_HIDDEN = frozenset(
    {"fonttbl", "colortbl", "stylesheet", "info", "pict", "header", "footer", "generator", "listtable", "themedata"}
)
_RTF_WORDS = {"par": "\n", "line": "\n", "sect": "\n", "page": "\n", "tab": "\t", "cell": "\t", "row": "\n",
              "emdash": "—", "endash": "–", "bullet": "•", "lquote": "‘", "rquote": "’", "ldblquote": "“",
              "rdblquote": "”"}  # fmt: skip
_BYTES = {chr(byte): byte for byte in range(0x80, 0x100)} | {
    bytes([byte]).decode("cp1252"): byte for byte in range(0x80, 0x100) if byte not in {0x81, 0x8D, 0x8F, 0x90, 0x9D}
}
"""Characters of Windows-1252 and Latin-1 -> the byte they were read from."""
_TRAILING = "".join(re.escape(character) for character, byte in _BYTES.items() if byte < 0xC0)
_MISREAD = re.compile(f"(?:[\u00c2-\u00f4][{_TRAILING}]{{1,3}})")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_INVISIBLE = re.compile(r"[\u200b-\u200f\u202a-\u202e\u2060-\u2064\u00ad]")


def repair(text: str) -> Repaired:
    """The text as it was meant, with a count of what was damaged; a sound text comes back unchanged."""
    changes: Counter[str] = Counter()
    if text.lstrip("\ufeff\x00 \r\n\t").startswith("{\\rtf"):
        text = _from_rtf(text)
        changes["RTF"] += 1
    for name, pattern, meant in _REPAIRS:
        text, count = _replaced(text, pattern, meant)
        changes[name] += count
    return Repaired(text, MappingProxyType({name: count for name, count in changes.items() if count}))


def _replaced(text: str, pattern: re.Pattern[str], meant: Callable[[re.Match[str]], str]) -> tuple[str, int]:
    """The text with every match as it was meant, and how many of them differ from what stood there."""
    count = 0

    def change(match: re.Match[str]) -> str:
        nonlocal count
        new = meant(match)
        count += new != match.group()
        return new

    return pattern.sub(change, text), count


def _from_hl7(match: re.Match[str]) -> str:
    if match["mark"]:
        return _HL7_MARKS[match["mark"]]
    if match["hex"]:
        return bytes.fromhex(match["hex"]).decode("latin-1")
    return "\n" if match["layout"] in {"br", "sp", "ce", "sk"} else " "


def _read_again(match: re.Match[str]) -> str:
    """UTF-8 out of what was made of it; as it stands where it is none."""
    try:
        return bytes(_BYTES[character] for character in match.group()).decode("utf-8")
    except UnicodeDecodeError:
        return match.group()


def _nothing(match: re.Match[str]) -> str:
    return ""


_REPAIRS: tuple[tuple[str, re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    ("byte order mark", re.compile("\ufeff|^\u00ef\u00bb\u00bf"), _nothing),
    ("HL7 escape", _HL7, _from_hl7),
    ("misread UTF-8", _MISREAD, _read_again),
    ("carriage return", re.compile(r"\r\n?"), lambda match: "\n"),
    ("control character", _CONTROL, _nothing),
    ("invisible character", _INVISIBLE, _nothing),
)


def _from_rtf(text: str) -> str:
    """The words of an RTF document; tables of fonts, colours and pictures are left out."""
    parts: list[str] = []
    hidden: list[bool] = [False]
    for token in _RTF_TOKEN.finditer(text[text.index("{\\rtf") :]):
        if token["brace"] == "{":
            hidden.append(hidden[-1])
        elif token["brace"]:
            hidden.pop()
            if len(hidden) <= 1:
                break
        elif token["symbol"] == "*" or token["word"] in _RTF_HIDDEN:
            hidden[-1] = True
        elif not hidden[-1]:
            parts.append(_rtf_text(token))
    return "".join(parts).strip() + "\n"


def _rtf_text(token: re.Match[str]) -> str:
    if token["hex"]:
        return bytes.fromhex(token["hex"]).decode("cp1252", errors="replace")
    if token["code"]:
        return chr(int(token["code"]) % 0x10000)
    if token["word"]:
        return _RTF_WORDS.get(token["word"], "")
    if token["symbol"]:
        return {"~": " ", "_": "-", "-": ""}.get(token["symbol"], token["symbol"])
    return token["text"] or ""
