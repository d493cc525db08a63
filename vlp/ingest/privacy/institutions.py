"""Hospitals and practices, found by the word that says what they are ("Hospital", "Clinic", "NHS Trust")."""

import re
from collections.abc import Iterator

from vlp.ingest.privacy.phi import CAPITALISED, Hit
from vlp.ingest.privacy.words import INSTITUTION_FILLERS, ORDINARY

_HEADS = (
    r"(?:Medical|Health|Cancer|Kidney|Dialysis|Heart|Surgery|Surgical|Imaging|Rehabilitation|Trauma|Diagnostic|Care)"
    r" (?:Center|Centre)|Nursing (?:Home|Facility)|Assisted Living|Urgent Care|Hospitals?|Clinics?|Infirmary|Institute"
    r"|Hospice|Polyclinic|Sanatorium|Health(?: ?[Cc]are)?(?: (?:System|Network|Services))?|(?:Imaging|Radiology)"
    r" (?:Associates|Group|Partners)|NHS (?:Foundation )?Trust|Medical (?:Group|Associates)|Center|Centre|Klinik"
    r"|Krankenhaus|Spital|Memorial"
)
_HEAD = re.compile(rf"(?<![\w-])(?:{_HEADS}|{_HEADS.upper()})(?![\w-])")
_WORD_BEFORE = re.compile(rf"(?P<word>{CAPITALISED}\.?|of|and|de|la|&)[ \t]+$")
_NAMES = rf"{CAPITALISED}(?:[ \t]+{CAPITALISED})*"
_OF = re.compile(rf"[ \t]+(?:of|at|de(?: la| los| las)?|del)[ \t]+(?:the[ \t]+)?{_NAMES}")
_HEAD_FIRST = re.compile(
    r"(?<![\w-])(?:(?:Hospital|Cl[ií]nica|Centro M[eé]dico|Ambulatorio)"
    r"(?: (?:Universitario|General|Cl[ií]nico|Regional|Comarcal|Infantil))*"
    rf"(?: (?:de|del|de la|de los|San|Santa|Virgen))*[ \t]+{_NAMES}"
    rf"|(?:Universit[aä]ts)?[Kk]linikum[ \t]+{_NAMES}|University of[ \t]+{_NAMES}|(?:St|Saint)\.? {CAPITALISED}['’]s)"
)
_MAX_WORDS = 7
_LEADING = frozenset(
    [
        "the",
        "at",
        "from",
        "in",
        "of",
        "and",
        "outside",
        "prior",
        "previous",
        "ct",
        "mri",
        "&",
        "de",
        "la",
        "see",
        "for",
        "to",
    ]
)
"""Words in front of a name that are no part of it."""


def find_institutions(text: str) -> Iterator[Hit]:
    """Places of care with a name of their own; "the hospital", "Outside Hospital" and "Pain Clinic" are none."""
    for match in _HEAD.finditer(text):
        start = _start(text, match.start())
        following = _OF.match(text, match.end())
        own = text[start : match.start()] + (following.group() if following else "")
        if _telling(own):
            yield Hit(start, following.end() if following else match.end(), "institution")
    for match in _HEAD_FIRST.finditer(text):
        if _telling(match.group().partition(" ")[2]):
            yield Hit(*match.span(), "institution")


def _start(text: str, head: int) -> int:
    """Where the name begins whose last word is at `head`: over capitalised words and "of", "and" backwards."""
    start = head
    for _ in range(_MAX_WORDS):
        before = _WORD_BEFORE.search(text[max(0, start - 40) : start])
        if before is None or (before["word"].endswith(".") and len(before["word"]) > 4):
            break
        start -= len(before.group())
    words = re.split(r"[ \t]+", text[start:head])
    for word in words:  # what only leads up to the name stays: "from Mercy Hospital", "The Mercy Hospital"
        if word.lower() not in _LEADING:
            break
        start += len(word) + 1
    return min(start, head)


def _telling(words: str) -> bool:
    """Whether some word is neither ordinary nor says only what kind of place it is."""
    return any(
        word.lower() not in ORDINARY and word.lower().rstrip(".") not in INSTITUTION_FILLERS
        for word in re.findall(r"[^\W\d_]+(?:['’-][^\W\d_]+)*", words)
        if len(word) > 1 and word[0].isupper()
    )
