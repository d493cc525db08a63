"""How a radiograph was taken, by its DICOM header: projection, side and orientation, with what contradicts what.

Headers disagree with themselves often enough that the order of belief is fixed and the disagreements are counted:

    projection   ViewPosition, ViewCodeSequence, PatientOrientation, then descriptions (processing, series, protocol,
                 performed procedure, study), of which one counts only if it names exactly one projection
    side         ImageLaterality, Laterality, ViewPosition, ViewCodeSequence, then the same descriptions

PatientOrientation and some codes say no more than *frontal*; a later witness may say which of PA and AP it was.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from vlp.ingest.dicom_file import Header
from vlp.records import View

Projection = Literal["PA", "AP", "frontal", "lateral", "other"]
Side = Literal["L", "R", "B"]
Orientation = Literal["unstated", "standard", "mirrored", "rotated"]

Said = TypeVar("Said", bound=str)

_POSITIONS: Mapping[str, Projection] = {
    **dict.fromkeys(("PA", "POSTEROANTERIOR"), "PA"),
    **dict.fromkeys(("AP", "ANTEROPOSTERIOR", "APSUPINE", "APERECT", "APPORTABLE", "PORTABLEAP"), "AP"),
    **dict.fromkeys(("LL", "RL", "LAT", "LATERAL", "LLAT", "RLAT", "LEFTLATERAL", "RIGHTLATERAL"), "lateral"),
    **dict.fromkeys(("FRONTAL",), "frontal"),
    **dict.fromkeys(
        ("LLD", "RLD", "LLO", "RLO", "LAO", "RAO", "LPO", "RPO", "OBLIQUE", "LORDOTIC", "APAXIAL"), "other"
    ),
}
_CODES: Mapping[str, Projection] = {
    **dict.fromkeys(("272479007", "R-10214", "R-40888"), "PA"),
    **dict.fromkeys(("399348003", "R-10206"), "AP"),
    **dict.fromkeys(("399033003", "R-10202"), "frontal"),
    **dict.fromkeys(("399067008", "399173006", "399198007", "R-102CD", "R-10236", "R-10232"), "lateral"),
}
"""SNOMED CT, and the older SNOMED RT numbers, of DICOM's context group 4010 (DX View)."""
_WORDS: tuple[tuple[re.Pattern[str], Projection], ...] = (
    (re.compile(r"\b(OBLIQUE|OBL|DECUB(ITUS)?|LORDOTIC|LLD|RLD|LAO|RAO|LPO|RPO)\b"), "other"),
    (re.compile(r"\b(LATERAL|LAT|LL|RL|LLAT|RLAT)\b"), "lateral"),
    (re.compile(r"\b(PA|POSTERO[ -]?ANTERIOR)\b"), "PA"),
    (re.compile(r"\b(AP|ANTERO[ -]?POSTERIOR)\b"), "AP"),
    (re.compile(r"\bFRONTAL\b"), "frontal"),
)
_DESCRIPTIONS = (
    "AcquisitionDeviceProcessingDescription",
    "SeriesDescription",
    "ProtocolName",
    "PerformedProcedureStepDescription",
    "StudyDescription",
)
_SIDE_WORDS: tuple[tuple[re.Pattern[str], Side], ...] = (
    (re.compile(r"\b(LEFT LAT(ERAL)?|LT LAT(ERAL)?|L LAT(ERAL)?|LL|LLAT)\b"), "L"),
    (re.compile(r"\b(RIGHT LAT(ERAL)?|RT LAT(ERAL)?|R LAT(ERAL)?|RL|RLAT)\b"), "R"),
)
_SIDES: Mapping[str, Side] = {"L": "L", "LEFT": "L", "R": "R", "RIGHT": "R", "B": "B", "BOTH": "B"}
_POSITION_SIDES: Mapping[str, Side] = {
    **dict.fromkeys(("LL", "LLAT", "LEFTLATERAL"), "L"),
    **dict.fromkeys(("RL", "RLAT", "RIGHTLATERAL"), "R"),
}
_CODE_SIDES: Mapping[str, Side] = {"399173006": "L", "R-10236": "L", "399198007": "R", "R-10232": "R"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewFacts:
    """What a header says of the projection and the side, and which of its elements disagree."""

    projection: Projection | None
    """None where nothing says it."""
    projection_from: str = ""
    """The element it was read from."""
    side: Side | None = None
    """The side of the body that is shown, or for a lateral view the side that was at the detector."""
    orientation: Orientation = "unstated"
    """Of a frontal image: *standard* has the patient's left at the right edge and the feet below."""
    conflicts: tuple[str, ...] = ()
    """E.g. "ViewPosition against PatientOrientation"; names of elements, never values."""

    @property
    def view(self) -> View:
        """The projection as records know it; a frontal image of which no more is known is "other"."""
        return "other" if self.projection is None or self.projection == "frontal" else self.projection


def view_facts(header: Header) -> ViewFacts:
    """Projection, side and orientation of the image, by the order of belief in the module's documentation."""
    conflicts: list[str] = []
    projection, source = _decide(list(_projections(header)), conflicts)
    side, _ = _decide(list(_sides(header)), conflicts)
    return ViewFacts(
        projection=projection,
        projection_from=source,
        side=side,
        orientation=_orientation(header) if projection in ("PA", "AP", "frontal", None) else "unstated",
        conflicts=tuple(conflicts),
    )


def _decide(witnesses: list[tuple[str, Said]], conflicts: list[str]) -> tuple[Said | None, str]:
    """The first witness's value, made more precise by later ones; those that contradict it go to `conflicts`."""
    value: Said | None = None
    source = ""
    for name, said in witnesses:
        if value is None or (value == "frontal" and said in ("PA", "AP")):
            value, source = said, name
        elif said != value and not (said == "frontal" and value in ("PA", "AP")):
            conflicts.append(f"{source} against {name}")
    return value, source


def _projections(header: Header) -> Iterator[tuple[str, Projection]]:
    position = _POSITIONS.get(_letters(header.text("ViewPosition")))
    if position is not None:
        yield "ViewPosition", position
    for item in header.items("ViewCodeSequence")[:1]:
        coded = _CODES.get(item.text("CodeValue")) or _named(item.text("CodeMeaning"))
        if coded is not None:
            yield "ViewCodeSequence", coded
    directions = {direction[:1] for direction in header.texts("PatientOrientation")[:2]}
    if directions & {"A", "P"}:
        yield "PatientOrientation", "lateral"
    elif directions & {"L", "R"}:
        yield "PatientOrientation", "frontal"
    for keyword in _DESCRIPTIONS:
        named = _named(header.text(keyword))
        if named is not None:
            yield keyword, named


def _named(text: str) -> Projection | None:
    """The projection a text names, if it names exactly one: "CHEST PA AND LATERAL" is about a study, not an image."""
    words = _words(text)
    if _WORDS[0][0].search(words):
        return "other"
    found = [projection for pattern, projection in _WORDS[1:] if pattern.search(words)]
    if len(found) > 1 and "frontal" in found:
        found.remove("frontal")
    return found[0] if len(found) == 1 else None


def _sides(header: Header) -> Iterator[tuple[str, Side]]:
    for keyword in ("ImageLaterality", "Laterality"):
        side = _SIDES.get(header.text(keyword).upper())
        if side is not None:
            yield keyword, side
    position = _POSITION_SIDES.get(_letters(header.text("ViewPosition")))
    if position is not None:
        yield "ViewPosition", position
    for item in header.items("ViewCodeSequence")[:1]:
        coded = _CODE_SIDES.get(item.text("CodeValue")) or _side_named(item.text("CodeMeaning"))
        if coded is not None:
            yield "ViewCodeSequence", coded
    for keyword in _DESCRIPTIONS:
        named = _side_named(header.text(keyword))
        if named is not None:
            yield keyword, named


def _side_named(text: str) -> Side | None:
    words = _words(text)
    found = [side for pattern, side in _SIDE_WORDS if pattern.search(words)]
    return found[0] if len(found) == 1 else None


def _orientation(header: Header) -> Orientation:
    directions = [direction[:1] for direction in header.texts("PatientOrientation")[:2]]
    if len(directions) < 2 or not all(direction in ("L", "R", "H", "F") for direction in directions):
        return "unstated"
    across, down = directions
    if (across, down) == ("L", "F"):
        return "standard"
    return "mirrored" if (across, down) == ("R", "F") else "rotated"


def _letters(text: str) -> str:
    return re.sub(r"[^A-Z]", "", text.upper())


def _words(text: str) -> str:
    """Upper case, separators as spaces, "P.A." as "PA"."""
    joined = re.sub(r"\b([A-Z])\.\s?([A-Z])\b\.?", r"\1\2", text.upper())
    return " ".join(re.split(r"[^A-Z-]+", joined))
