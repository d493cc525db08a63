"""Numbers and addresses that lead to a person: telephones, record numbers, mail, the web, streets, ages over 89.

Every rule is a regular expression over the text with its de-identification tokens blanked out.  A bare number is taken
for an identifier only from seven digits on; a shorter one needs a cue ("MRN", "accession") in front of it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from vlp.ingest.privacy.phi import CAPITALISED, Hit, HitKind
from vlp.ingest.privacy.words import ORDINARY


@dataclass(frozen=True, slots=True)
class _Rule:
    """What matches is a hit: the group `hit` or `long`, or all; nothing where `words` holds ordinary words only."""

    kind: HitKind
    pattern: re.Pattern[str]


def _rule(kind: HitKind, *alternatives: str, ignore_case: bool = False) -> _Rule:
    return _Rule(kind, re.compile("|".join(alternatives), re.IGNORECASE if ignore_case else 0))


_LONE = r"(?<![\w.,/-])"
"""In front of a number that is not part of a longer one."""

_LINK_END = r"(?:/[^\s<>\"')]*[^\s<>\"').,;])?(?![\w-])"
_BYTE = r"(?:25[0-5]|2[0-4]\d|1?\d?\d)"
_NETWORK = (
    _rule("email", r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+"),
    _rule(
        "web",
        r"\b(?:https?|s?ftp|file|smb|dicom)://[^\s<>\"')]+[^\s<>\"').,;]",
        rf"\bwww\.[\w-]+(?:\.[\w-]+)+{_LINK_END}",
        ignore_case=True,
    ),
    _rule(
        "web",
        r"(?<![\w@.-])[a-z][\w-]*(?:\.[\w-]+)*\.(?:com|org|net|edu|gov|int|info|io|local|uk|es|de|fr|eu|ca|au)"
        rf"{_LINK_END}",
        rf"(?<![\w.])(?:{_BYTE}\.){{3}}{_BYTE}(?::\d{{2,5}})?(?!\.?\w)",
        r"\b(?:[0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}\b",
    ),
)

_PHONE_CUE = (
    r"\b(?:(?:tel|telephone|tel[eé]fono|telefon|tfno|phone|fax|mobile|cell|pager|beeper|dial|ext|extension|extn"
    r"|reading room|call ?back)(?: (?:number|no|#))?(?:\s*[.:#]\s*|\s+)(?P<hit>[(+]?\d[\d ().-]{1,18}\d(?:\s*#\s?\d+)?)"
    r"|(?:call|page|contact|reach|dial)(?:ed)?(?: \w+)?(?: at| on)?\s+(?P<long>\d{5,}))"
    r"(?![\w/:%]|\s*(?:cm|mm|pm|am|h|hrs?|hours)\b)"
)
_PHONES = (
    _rule(
        "phone",
        r"(?<![\w.-])(?:\+?1[ .-]?)?(?:\(\d{3}\)[ .-]?\d{3}[ .-]|\d{3}[ .-]\d{3}[.-])\d{4}"
        r"(?:,?\s*(?:#|x|ext\.?|extension)\s*\d{2,6})?(?!\w)",
        rf"{_LONE}x-?\d{{1,2}}-?\d{{4}}(?!\w)|{_LONE}x\d{{4,5}}(?!\w)",
        ignore_case=True,
    ),
    _rule(
        "phone",
        r"(?<![\w.])\+\d{1,3}[ .-]?\(?\d{1,4}\)?(?:[ .-]?\d{2,7}){1,5}(?!\w)",
        rf"{_LONE}\d{{3}}-\d{{4}}(?![\w-])",
    ),
    _rule("phone", _PHONE_CUE, ignore_case=True),
)

_NO = r"(?: ?(?:number|num|no\.?|nr\.?|id|#))?"
_NUMBER_CUES = (
    rf"m\.?r\.?n\.?{_NO}",
    r"mr ?#",
    r"(?:medical|health|hospital|patient|unit|clinic) ?(?:record )?(?:number|no\.?|#|id(?:entifier)?)",
    r"(?:accession|acc|account|acct|encounter|order|requisition|req|visit|case|exam|study|film|(?:insurance )?policy"
    r"|member|medicare|medicaid|nhs|episode|claim|licen[cs]e|npi|dea|fin|u?id|guid|specimen|surgical pathology|badge"
    r"|employee|contract|file|chart|record|(?:device )?serial|s/n|s\.?s\.?n\.?|social security|passport"
    rf"|(?:driver'?s?|driving|vehicle) licen[cs]e){_NO}",
    r"(?:pt|patient|subject|person)[ .]?id",
    r"n\.?h\.?c\.?|historia cl[ií]nica|dni|nie|cip",
    r"(?:fall|patienten|auftrags)[- ]?(?:nr|nummer)\.?",
)
_ID = r"(?=[\w-]*\d)[A-Za-z]{0,4}\d?[A-Za-z]{0,3}-?\d[\w-]{2,}(?:[ -]\d{2,}(?!\w)){0,3}"
"""An identifier behind a cue: at least three characters, the first digit early, perhaps in groups."""
_NO_ID = r"(?!(?:19|20)\d\d(?![\w-])|\d+x\d+|\d+[a-z]{1,2}(?![\w-]))"
"""A year, the size of a film, a number with a unit."""
_NUMBERS = (
    _rule("number", rf"{_LONE}\d{{3}}-\d{{2}}-\d{{4}}(?![\w-])"),
    _rule(
        "number",
        rf"(?<![\w-])(?:{'|'.join(_NUMBER_CUES)})(?:\s*(?:[:#=]|is)\s*#?|\s+#?\s*)(?P<hit>{_NO_ID}{_ID})(?!\w)",
        ignore_case=True,
    ),
    _rule(
        "number",
        rf"{_LONE}[A-Za-z]{{0,4}}-?\d{{7,}}(?![\w.,]*\d)",
        rf"{_LONE}\d+(?:\.\d+){{5,}}(?!\w)",
        rf"{_LONE}[A-Z]{{1,4}}-?\d{{2,4}}-\d{{4,}}(?!\w)",
    ),
)

_STREETS = (
    "(?:Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct|Way|Place|Pl|Terrace|Ter|Parkway|Pkwy"
    "|Highway|Hwy|Circle|Cir|Close|Crescent|Square|Sq|Trail|Mews|STREET|AVENUE|AVE|ROAD|RD|BOULEVARD|BLVD|LANE|DRIVE"
    "|PARKWAY|HIGHWAY|TERRACE|CIRCLE|SQUARE)"
)
_STATE = (
    "(?:A[KLRZ]|C[AOT]|D[CE]|FL|GA|HI|I[ADLN]|K[SY]|LA|M[ADEINOST]|N[CDEHJMVY]|O[HKR]|PA|RI|S[CD]|T[NX]|UT|V[AT]"
    "|W[AIVY])"
)
_NAME = rf"{CAPITALISED}\.?(?:\s{CAPITALISED}){{0,2}}"
_WHOLE_STATE = (
    "(?:Alabama|Alaska|Arizona|Arkansas|California|Colorado|Connecticut|Delaware|Florida|Georgia|Hawaii|Idaho|Illinois"
    "|Indiana|Iowa|Kansas|Kentucky|Louisiana|Maine|Maryland|Massachusetts|Michigan|Minnesota|Mississippi|Missouri|Montana"
    "|Nebraska|Nevada|New (?:Hampshire|Jersey|Mexico|York)|(?:North|South) (?:Carolina|Dakota)|Ohio|Oklahoma|Oregon"
    "|Pennsylvania|Rhode Island|Tennessee|Texas|Utah|Vermont|(?:West )?Virginia|Washington|Wisconsin|Wyoming)"
)
_ZIP = r"\d{5}(?:-\d{4})?"
_TOWN = rf"(?:,?\s+{_NAME},?\s+(?:{_STATE}\b(?:\s+{_ZIP})?|[A-Z]{{1,2}}\d\w?\s\d[A-Z]{{2}}\b))?"
_UNIT = r"(?:,?\s+(?:Apt|Apartment|Suite|Ste|Unit|Floor|Fl|#)\.?\s*#?\w+)?"
_ADDRESSES = (
    _rule("address", rf"\b[Pp]\.?\s?[Oo]\.?\s+(?:Box|BOX|box)\s+\d+{_TOWN}"),
    _rule(
        "address",
        rf"{_LONE}\d{{1,5}}[A-Za-z]?\s+(?:[NSEW]\.?\s+)?(?P<words>{CAPITALISED}(?:\s{CAPITALISED}){{0,3}}?)\s+"
        rf"{_STREETS}(?![\w-])\.?{_UNIT}{_TOWN}",
    ),
    _rule("address", rf"\b{_NAME},?\s+{_STATE}\s+{_ZIP}\b", rf"\b{_NAME},\s+{_WHOLE_STATE}\b(?:\s+{_ZIP})?"),
    _rule("address", rf"\b(?:zip|postal)(?: code)?[: ]+(?P<hit>{_ZIP})(?!\w)", ignore_case=True),
    _rule(
        "address",
        r"\b(?:home |mailing |street )?(?:address|domicilio|direcci[oó]n|residence|adresse|wohnhaft)\s*[:=]?\s+"
        r"(?P<hit>(?=[^\n;]*\d)[^\n;]{4,80}?)(?=\.?\s*(?:$|[\n;]|\.\s))",
        ignore_case=True,
    ),
    _rule("address", rf"\b(?:from|in|near|of)\s+(?P<hit>(?P<words>{_NAME}),\s+{_STATE})(?![\w-])"),
    _rule(
        "address",
        rf"\b(?:[Ll]ives|[Rr]esides|[Rr]esiding|[Ll]iving) (?:alone |with \w+ )?(?:in|at)\s+"
        rf"(?P<hit>\d*\s*(?P<words>{CAPITALISED}(?:,?\s{CAPITALISED}){{0,4}}))",
    ),
    _rule(
        "address",
        rf"\b(?:Calle|C/|Avda\.?|Avenida|Plaza|Paseo|Via|Viale)\s+(?:de\s+(?:la\s+|los\s+|las\s+)?)?{_NAME},?\s+\d+\w?",
        rf"\b\d{{1,4}},?\s+(?:[Rr]ue|[Aa]venue|[Bb]oulevard|[Cc]hemin)\s+(?:d[eu]\s+|des\s+)?(?:l[ae]s?\s+)?{_NAME}",
        r"\b[A-ZÄÖÜ][a-zäöüß-]+(?:stra(?:ß|ss)e|str\.|gasse|weg|allee|platz)\s+\d+\w?\b",
    ),
)

_OLD = r"(?:9\d|1[0-2]\d)"
_OLD_IN_WORDS = (
    r"(?:ninety(?:[ -]?(?:one|two|three|four|five|six|seven|eight|nine))?"
    r"|(?:one )?hundred(?: (?:and )?(?:one|two|three|four|five))?)"
)
_UNIT_OF_AGE = (
    r"\s*-?\s*(?:years?|yrs?|y\.?\s?/?o\b|y\.o|y(?:ear)?[mf]?\b|años|jahre|j[aä]hrig|-j[aä]hrig|ans\b)|\s?[MF]\b"
)
_AGES = (
    _rule(
        "age",
        rf"(?<![\w.,/+-]){_OLD}(?={_UNIT_OF_AGE})",
        rf"\b{_OLD_IN_WORDS}(?=\s*-?\s*(?:year|yr))",
        ignore_case=True,
    ),
    _rule("age", rf"\bage[d]?\s*(?:[:=]|is|of)?\s*(?P<hit>{_OLD})(?!\w|\s?%|[.,/]\d)", ignore_case=True),
    _rule("age", r"\b(?:nonagenarian|centenarian)\b", ignore_case=True),
)

_RULES = (*_NETWORK, *_PHONES, *_NUMBERS, *_ADDRESSES, *_AGES)


def find_identifiers(text: str) -> Iterator[Hit]:
    """The hits of every rule in `text`, in no order; they may overlap.  `text` is without de-identification tokens."""
    for rule in _RULES:
        for match in rule.pattern.finditer(text):
            groups = match.groupdict()
            words = (groups.get("words") or "").replace(",", " ").split()
            if words and all(word.lower().strip(".") in ORDINARY for word in words):
                continue  # "2 PA Views St", "from Chest, PA"
            group = next((name for name in ("hit", "long") if groups.get(name)), 0)
            yield Hit(*match.span(group), rule.kind)
