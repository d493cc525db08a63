"""What stands in front of a person's name: titles, signatures, labels, roles, the verbs of telling somebody something.

Each cue ends where a name may begin; `names` decides whether one does.
"""

import re
from dataclasses import dataclass

_START = r"(?<![\w.-])"
_SPACE = r"[ \t]+"
_COLON = r"[ \t]*[:=][ \t]*\n?[ \t]*"
"""The name may stand on the next line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cue:
    """A pattern, and how sure it makes us of what follows."""

    pattern: re.Pattern[str]
    strict: bool = True
    """Whether what follows is a name unless it is an ordinary word; else short capitals and eponyms are none either."""
    lower: bool = False
    """Whether the name may be written without capitals."""
    comma: bool = False
    """Whether "LAST, FIRST" may follow."""
    inside: bool = False
    """Whether the cue is masked with the name, as a title is."""
    certain: bool = False
    """Whether even an ordinary word is a name if it is capitalised ("Dr. Long")."""


def _any(words: str) -> str:
    """Pattern of one of the words; "~" stands for a space."""
    return "(?:" + "|".join(word.replace("~", _SPACE) for word in words.split()) + ")"


def _cue(*parts: str, flags: int = re.IGNORECASE, **options: bool) -> Cue:
    return Cue(pattern=re.compile("".join(parts), flags | re.MULTILINE), **options)


_KIND_OF_ROLE = _any(
    "supervising attending consulting ordering referring requesting radiology staff nurse senior chief responsible"
    " reading interpreting performing admitting treating primary emergency next"
)
ROLE = rf"(?:{_KIND_OF_ROLE}{_SPACE})?" + _any(
    "resident attending tech technologist technician radiographer surgeon physician nurse radiologist fellow consultant"
    " intern practitioner provider doctor clinician patient pt wife husband daughter son mother father brother sister"
    " partner spouse guardian contact of~kin"
)
_DONE = _any(
    "dictated signed read interpreted reviewed approved verified transcribed reported authenticated finali[sz]ed"
    " prepared attested edited performed requested ordered referred supervised acquired checked discussed seen"
    " written entered completed accompanied placed validad[oa] firmad[oa] informad[oa] realizad[oa] befundet"
)
_DONE_BY = rf"{_DONE}{_SPACE}(?:(?:and|&|/|,)[ \t]*\w+{_SPACE})?(?:electronically{_SPACE})?(?:by|por|durch|von)"
"""As in "dictated by", "reviewed and signed by"."""
_TOLD = _any(
    "discussed reviewed spoken? speaking conferred communicated conveyed relayed called phoned telephoned reported"
    " given faxed sent shared confirmed"
)
_TOLD_WHOM = _any("notified informed paged alerted contacted texted called referring labell?ed thank~you,?")
_TITLES = _any(
    r"Prof\.? Mr\.? Mrs\.? Ms\.? Mx\.? Rev\.? Sgt\.? Capt\.? Herrn?\.? Frau\.? Sra\.? Srta\.? Sr\.? Doctora? Professor"
    " Miss Nurse Señora? Reverend Sergeant Captain Rabbi"
)
_SHOUTED_TITLES = _any(r"PROF\.? MRS\.? REV\.? M[RSX]\. DOCTOR MISS NURSE")
"""In capitals MR and MS need their full stop, else they are resonance and sclerosis."""
_OTHER_LABELS = _any(
    "(?:patient(?:'s)?|full|pt|first|last|family|given)~name name nombre paciente author transcriptionist dictator"
    " reader staff ref notified signed electronically~signed authenticated attn attention"
    r" m[eé]dico(?:~\w+)? radi[oó]logo firmado arzt"
)
_LABELS = rf"(?:{_OTHER_LABELS}|{ROLE}(?:{_SPACE}name)?)"

CUES = (
    _cue(
        _START, r"(?:Dr[sa]?|dr[sa]?)(?:\.[ \t]*|[ \t]+)",
        flags=0, lower=True, inside=True, certain=True,
    ),
    _cue(_START, r"(?:m[rs]\.|mrs\.?)", _SPACE, flags=0, lower=True, inside=True),
    _cue(_START, _TITLES, _SPACE, flags=0, inside=True, certain=True),
    _cue(
        _START, rf"(?:DR[SA]?(?:\.[ \t]*|[ \t]+)|{_SHOUTED_TITLES}{_SPACE})",
        flags=0, inside=True,
    ),
    _cue(
        rf"(?:{_START}(?:{_DONE_BY}|cc)|/s/){_COLON}"
        rf"|{_START}{_any('dictated signed read transcribed verified')}{_SPACE}by{_SPACE}"
        rf"|/s/[ \t]*|{_START}I,{_SPACE}",
        lower=True, comma=True,
    ),
    _cue(_START, _DONE_BY, _SPACE, rf"(?:(?:his|her|the|my){_SPACE})?(?:{ROLE}{_SPACE})?"),
    _cue(_START, _LABELS, _COLON, comma=True),
    _cue(_START, ROLE, r"[ \t]*,?[ \t]+", strict=False),
    _cue(
        rf"{_START}{_TOLD}(?:{_SPACE}\w+){{0,4}}?{_SPACE}(?:with|to){_SPACE}"
        rf"|{_START}{_TOLD_WHOM}{_SPACE}",
        strict=False,
    ),
    _cue(r"^[ \t]*(?:--+|—|–)[ \t]*(?=\w+\.?[ \t]\w+)", strict=False),
)  # fmt: skip
CHAINED = Cue(pattern=re.compile(r"(?:,?[ \t]+(?:and|y|und|&)[ \t]+|[ \t]*[,/][ \t]*)(?:Drs?\.?[ \t]+)?"), strict=False)
"""Between two names: "Drs. Adler and Brown"."""
