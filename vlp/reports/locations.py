"""Where a finding is and how large: side first, then zone ("left lower", "bilateral base"), and back into English.

Sides are the patient's own.  "base" and "apex" are kept apart from "lower" and "upper", as reports do.
"""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from vlp.reports.phrases import Word

SIDES: tuple[str, ...] = ("left", "right", "bilateral")
ZONES: tuple[str, ...] = ("upper", "middle", "lower", "apex", "base", "perihilar")
SEVERITIES: tuple[str, ...] = ("small", "moderate", "large")

_PLACES: Mapping[str, tuple[str | None, str | None]] = MappingProxyType(
    {
        **dict.fromkeys(("left", "lt", "leftsided"), ("left", None)),
        **dict.fromkeys(("right", "rt", "rightsided"), ("right", None)),
        **dict.fromkeys(("bilateral", "bilaterally", "both"), ("bilateral", None)),
        **dict.fromkeys(("bibasilar", "bibasal"), ("bilateral", "base")),
        "biapical": ("bilateral", "apex"),
        "lul": ("left", "upper"),
        "rul": ("right", "upper"),
        "lll": ("left", "lower"),
        "rll": ("right", "lower"),
        "rml": ("right", "middle"),
        **dict.fromkeys(("lingula", "lingular"), ("left", "middle")),
        "retrocardiac": ("left", "lower"),
        "upper": (None, "upper"),
        **dict.fromkeys(("middle", "mid", "midlung", "midzone"), (None, "middle")),
        "lower": (None, "lower"),
        **dict.fromkeys(("apex", "apical", "apices", "apice"), (None, "apex")),
        **dict.fromkeys(("base", "basilar", "basal"), (None, "base")),
        **dict.fromkeys(
            ("perihilar", "hilar", "hilum", "hila", "parahilar", "suprahilar", "infrahilar"), (None, "perihilar")
        ),
    }
)
"""Word -> (side, zone).  The lingula lies beside the middle lobe's level; "retrocardiac" is the left lower lobe."""

_PAIRED = frozenset({"base", "apice", "lung", "apices"})
"""Words whose plural means both sides."""

_DEGREES: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(
            [
                "small",
                "tiny",
                "mild",
                "mildly",
                "minimal",
                "minimally",
                "trace",
                "slight",
                "slightly",
                "subtle",
                "minor",
                "faint",
                "minute",
            ],
            "small",
        ),
        **dict.fromkeys(["moderate", "moderately"], "moderate"),
        **dict.fromkeys(
            [
                "large",
                "severe",
                "severely",
                "marked",
                "markedly",
                "massive",
                "massively",
                "extensive",
                "gross",
                "huge",
                "considerable",
            ],
            "large",
        ),
    }
)


def find_location(words: Sequence[Word], *, text: str | None = None) -> str | None:
    """The place these words name, None if they name none; left and right together are "bilateral".

    With the `text` the words come from, a plural ("at the bases") means both sides too.
    """
    sides: set[str] = set()
    zone: str | None = None
    paired = False
    for word in words:
        side, part = _PLACES.get(word.form, (None, None))
        if side:
            sides.add(side)
        zone = zone or part
        paired = paired or (text is not None and word.form in _PAIRED and text[word.end - 1] in "sS")
    if len(sides) > 1 or (paired and not sides):
        sides = {"bilateral"}
    return compose(next(iter(sides), None), zone)


def find_severity(words: Iterable[Word]) -> str | None:
    """The degree these words name; the largest of several ("small to moderate" is moderate), None if none."""
    degrees = {_DEGREES[word.form] for word in words if word.form in _DEGREES}
    return max(degrees, key=SEVERITIES.index, default=None)


def parts(location: str) -> tuple[str | None, str | None]:
    """(side, zone) of a normalised location, either may be None."""
    words = location.split()
    side = next((word for word in words if word in SIDES), None)
    zone = next((word for word in words if word in ZONES), None)
    return side, zone


def compose(side: str | None, zone: str | None) -> str | None:
    """The normalised location of a side and a zone; None if there is neither."""
    return " ".join(part for part in (side, zone) if part) or None


def render(location: str, *, noun: str) -> str:
    """The location as it ends a template, e.g. "of the left lower lung", "of both bases"; `noun` is what has sides."""
    side, zone = parts(location)
    if zone in {"apex", "base"}:
        what = zone
    elif zone == "perihilar":
        what = "perihilar region"
    else:
        what = f"{zone} {noun}" if zone else noun
    if side == "bilateral":
        return f"of both {'apices' if what == 'apex' else what + 's'}"
    return f"of the {side} {what}" if side else f"of the {what}"
