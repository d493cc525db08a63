"""What is true of a phantom study, before anything is drawn or written: the body, the findings, the exposure.

`history` decides it, `rendering` draws it, `prose` describes it.  Sides are the patient's own: the patient's left
is on the right of a frontal image.
"""

from dataclasses import dataclass
from typing import Literal

Side = Literal["left", "right"]
Zone = Literal["upper", "middle", "lower"]
Projection = Literal["PA", "AP", "lateral"]

FINDINGS: tuple[str, ...] = (
    "pleural effusion",
    "pneumothorax",
    "consolidation",
    "atelectasis",
    "edema",
    "cardiomegaly",
    "nodule",
    "mass",
    "emphysema",
    "fibrosis",
    "fracture",
    "hernia",
    "pleural thickening",
    "support device",
)
"""Canonical names, as in the report vocabulary."""

FOCAL: frozenset[str] = frozenset(
    {"pleural effusion", "pneumothorax", "consolidation", "atelectasis", "nodule", "mass", "fracture", "hernia",
     "pleural thickening"}
)  # fmt: skip
"""Findings small enough that pointing at them means something."""

DEVICES: tuple[str, ...] = (
    "endotracheal tube",
    "central venous catheter",
    "enteric tube",
    "pacemaker",
    "chest tube",
    "sternal wires",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedFinding:
    """One finding at one place.  What is bilateral is two of them."""

    name: str
    side: Side | None = None
    """None for midline findings (cardiomegaly, hernia, some devices)."""
    zone: Zone | None = None
    """Third of the lung; None where it says nothing (effusion, cardiomegaly, most devices)."""
    severity: float = 0.5
    """In (0, 1]: below 1/3 small, below 2/3 moderate, else large."""
    device: str | None = None
    """One of `DEVICES` when `name` is "support device"."""
    seed: int = 0
    """Fixes shape and exact place, so the same finding stays itself from study to study."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """A person's build; everything in the thorax is drawn in proportion to it."""

    age: float
    sex: Literal["F", "M"]
    size: float
    """1.0 is an average adult; scales the whole thorax."""
    habitus: float
    """-1 slender ... +1 stout: soft tissue, height of the diaphragm, width of the heart."""
    seed: int
    """Fixes the remaining variation of anatomy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """How the pictures of one study were taken."""

    frontal: Literal["PA", "AP"]
    lateral: bool
    """Whether a lateral view was taken too."""
    rotation_deg: float
    tilt_deg: float
    inspiration: float
    """0 shallow ... 1 full."""
    scanner: int
    """Index of the scanner style: tone curve, noise, sharpness, collimation."""
    site: str
    """Name of the hospital site."""
    marker: bool
    """Whether a side marker (a letter beside the thorax) is drawn."""
    site_marker: bool
    """The planted confounder: a mark in a corner that only one site uses."""
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyTruth:
    """Everything that is true of one phantom study."""

    id: str
    person: str
    order: int
    """0 for the person's first study."""
    days: int
    """Days since the person's first study."""
    body: Body
    exposure: Exposure
    findings: tuple[PlacedFinding, ...]
    earlier: "StudyTruth | None" = None
    """The person's study before this one."""
