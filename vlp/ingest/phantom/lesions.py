"""The findings in three dimensions: what each changes of the anatomy, adds to it, and where it is.

A finding's shape and place come from its own seed, in proportion to the lung it lies in, so the same finding stays
itself from study to study; severity scales it without moving it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from vlp.ingest.phantom.anatomy import (
    AIRY,
    LUNG_TOP,
    SIDES,
    SIGN,
    SOFT,
    Anatomy,
    Changes,
    rib_tubes,
)
from vlp.ingest.phantom.devices import device
from vlp.ingest.phantom.projection import Blobs, Bodies, Ellipsoid, Loft, Part, Tubes
from vlp.ingest.phantom.truth import PlacedFinding, Side, Zone

Region = Literal["parts", "fluid", "air", "heart", "lung", "layer"]
DENSER = SOFT - AIRY
"""What soft tissue attenuates beyond the lung it displaces, per mm."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lesion:
    """One finding, placed."""

    parts: tuple[tuple[Part, float], ...] = ()
    """What it adds to the picture, each with its attenuation beyond the surroundings, per mm."""
    within: tuple[Side, ...] = ()
    """Lungs that bound it; empty: nothing does."""
    region: Region = "parts"
    """What its mask is: its parts, or a piece of anatomy on `sides`."""
    sides: tuple[Side, ...] = ()
    layer: Loft | None = None
    """Inner border of a thickened pleura (region "layer")."""
    mask: tuple[Part, ...] = ()
    """Parts whose shadow is the mask, if not those of `parts`."""
    threshold: float = 1.0
    """Path length (mm) from which a pixel belongs to the mask."""
    ceiling: float = 0.0
    """mm that no part's path length can exceed, approached gently; 0: no limit."""
    grow: float = 0.0
    """mm by which the mask is dilated."""


def changes(findings: Sequence[PlacedFinding]) -> Changes:
    """What all the findings together do to the anatomy itself."""
    heart, pull = 1.0, 0.0
    raised: dict[Side, float] = {}
    rarefied: dict[Side, float] = {}
    collapse: dict[Side, float] = {}
    fluid: dict[Side, float] = {}
    bulges: list[Ellipsoid] = []
    for finding in findings:
        severity = finding.severity
        for side in sides_of(finding):
            sign = SIGN[side]
            if finding.name == "pleural effusion":
                fluid[side] = max(fluid.get(side, -999.0), -132 + 142 * severity)
                pull -= sign * 14 * max(severity - 0.6, 0)
            elif finding.name == "pneumothorax":
                collapse[side] = max(collapse.get(side, 0.0), 0.16 + 0.62 * severity)
                pull -= sign * 22 * max(severity - 0.6, 0)
            elif finding.name == "emphysema":
                rarefied[side] = max(rarefied.get(side, 0.0), 0.4 + 0.6 * severity)
            elif finding.name == "atelectasis":
                raised[side] = raised.get(side, 0.0) + 5 + 20 * severity
                pull += sign * 8 * severity
            elif finding.name == "fibrosis":
                raised[side] = raised.get(side, 0.0) + 10 * severity
        if finding.name == "cardiomegaly":
            heart = max(heart, 1.16 + 0.36 * severity)
        elif finding.name == "hernia":
            bulges.append(_sac(finding))
    return Changes(heart=heart, raised=raised, rarefied=rarefied, collapse=collapse, fluid=fluid, pull=pull,
                   bulges=tuple(bulges))  # fmt: skip


def sides_of(finding: PlacedFinding) -> tuple[Side, ...]:
    """The lungs a finding is in; both where no side is named."""
    return SIDES if finding.side is None else (finding.side,)


def place(finding: PlacedFinding, anatomy: Anatomy) -> Lesion:
    """The finding within an anatomy that already went through its `changes`."""
    rng = np.random.Generator(np.random.PCG64(finding.seed))
    return _PLACES[finding.name](finding, anatomy, rng)


def _zone_height(anatomy: Anatomy, side: Side, zone: Zone) -> tuple[float, float]:
    """Middle and height (mm) of a third of the lung above its dome."""
    bottom = anatomy.domes[side]
    third = (LUNG_TOP - bottom) / 3
    return bottom + third * ({"lower": 0.5, "middle": 1.5, "upper": 2.4}[zone]), third


def _spot(
    finding: PlacedFinding, anatomy: Anatomy, rng: np.random.Generator, *, side: Side, zone: Zone, edge: float = 0.55
) -> np.ndarray:
    """A place [3] in the zone, clear of heart and mediastinum in the frontal view, the same for the same seed."""
    chance = rng.uniform(-1, 1, size=3)
    middle, third = _zone_height(anatomy, side, zone)
    z = middle + 0.28 * third * chance[2]
    x, y, a, b = (float(value[0]) for value in anatomy.lungs[side].cavity.at(np.array([z])))
    inner = 0.18 if side == "left" and zone != "upper" else -0.12
    across = inner + (edge - inner) * (chance[0] + 1) / 2
    point = np.array([[x + SIGN[side] * a * across, y + 0.5 * b * chance[1], z]])
    return anatomy.lungs[side].follow(point)[0]


def _effusion(finding: PlacedFinding, anatomy: Anatomy, rng: np.random.Generator) -> Lesion:
    return Lesion(region="fluid", sides=sides_of(finding), threshold=20.0)


def _pneumothorax(finding: PlacedFinding, anatomy: Anatomy, rng: np.random.Generator) -> Lesion:
    return Lesion(region="air", sides=sides_of(finding), threshold=15.0)


def _cardiomegaly(finding: PlacedFinding, anatomy: Anatomy, rng: np.random.Generator) -> Lesion:
    return Lesion(region="heart", threshold=4.0)


def _emphysema(finding: PlacedFinding, anatomy: Anatomy, rng: np.random.Generator) -> Lesion:
    return Lesion(region="lung", sides=sides_of(finding), threshold=8.0)


def _cloud(
    centre: np.ndarray,
    spread: np.ndarray,
    rng: np.random.Generator,
    *,
    most: int,
    share: float,
    size: tuple[float, float],
) -> tuple[np.ndarray, np.ndarray]:
    """The first `share` of `most` blob centres [blobs 3] about `centre`, and their sigmas; a prefix of one sequence."""
    offsets = np.clip(rng.normal(size=(most, 3)), -1.9, 1.9)
    sigmas = rng.uniform(*size, size=most)
    count = max(int(most * share), 6)
    return centre + offsets[:count] * spread, sigmas[:count]


def _consolidation(finding: PlacedFinding, anatomy: Anatomy, rng: np.random.Generator) -> Lesion:
    parts = []
    for side in sides_of(finding):
        centre = _spot(finding, anatomy, rng, side=side, zone=finding.zone or "lower", edge=0.35)
        spread = (0.55 + 0.75 * finding.severity) * np.array([20.0, 22, 17])
        points, sigmas = _cloud(centre, spread, rng, most=80, share=0.4 + 0.6 * finding.severity, size=(4.0, 8.5))
        parts.append(Blobs(points=points, sigmas=sigmas, peaks=rng.uniform(20, 40, size=80)[: len(points)]))
    return Lesion(parts=tuple((part, DENSER) for part in parts), within=sides_of(finding), threshold=13.0,
                  ceiling=95.0)  # fmt: skip


def _edema(finding: PlacedFinding, anatomy: Anatomy, rng: np.random.Generator) -> Lesion:
    """A bat's wing about each hilum, and septal lines at the edge of the bases."""
    haze: list[tuple[Part, float]] = []
    for side in sides_of(finding):
        sign = SIGN[side]
        centre = np.array([sign * 66.0, -8, 4])
        points, sigmas = _cloud(centre, np.array([24.0, 22, 34]), rng, most=60, share=1.0, size=(9.0, 17.0))
        peaks = rng.uniform(5.0, 13.0, size=60) * (0.6 + 0.9 * finding.severity)
        haze.append((Blobs(points=points, sigmas=sigmas, peaks=peaks), DENSER))
        low, _ = _zone_height(anatomy, side, "lower")
        lines = []
        for z, turn in zip(low + rng.uniform(-32, 26, size=14), rng.uniform(-0.9, 0.9, size=14), strict=True):
            x, y, a, b = (float(value[0]) for value in anatomy.lungs[side].cavity.at(np.array([z])))
            outward = np.array([sign * a * np.cos(turn), b * np.sin(turn), 0])
            root = np.array([x, y, z])
            lines.append(np.stack((root + 0.97 * outward, root + [0, 0, rng.uniform(-3, 3)] + 0.74 * outward)))
        haze.append((Tubes.along(lines, radius=0.9), 0.055 * (0.5 + finding.severity)))
    mask = tuple(part for part, _ in haze if isinstance(part, Blobs))
    return Lesion(parts=tuple(haze), within=sides_of(finding), mask=mask, threshold=9.0, ceiling=70.0)


def _atelectasis(finding: PlacedFinding, anatomy: Anatomy, rng: np.random.Generator) -> Lesion:
    """Plates seen on edge; when it is much, a wedge of collapsed lung beside them."""
    plates, wedge = [], []
    for side in sides_of(finding):
        zone: Zone = finding.zone or "lower"
        centre = _spot(finding, anatomy, rng, side=side, zone=zone, edge=0.3)
        middle, third = _zone_height(anatomy, side, zone)
        tilts, steps = rng.uniform(-0.35, 0.35, size=3), rng.uniform(-0.3, 0.3, size=(3, 2))
        for index in range(1 + int(finding.severity * 1.99)):
            centre_z = middle - 0.22 * third + 0.36 * third * index
            tilt = SIGN[side] * (0.25 + tilts[index])
            at = np.array([centre[0] + 12 * steps[index, 0], centre[1] + 20 * steps[index, 1], centre_z])
            long, up = np.array([np.cos(tilt), 0, -np.sin(tilt)]), np.array([np.sin(tilt), 0, np.cos(tilt)])
            plates.append(Ellipsoid(centre=at, radii=(26 + 16 * finding.severity, 24, 2.8),
                                    axes=np.stack((long, [0, 1, 0], up))))  # fmt: skip
        base = np.add(centre, (-SIGN[side] * 6, -12, -0.25 * third))
        points, sigmas = _cloud(base, np.array([22.0, 18, 8]), rng, most=40, share=1.0, size=(6.0, 11.0))
        peaks = np.full(40, 1.0 + 30.0 * max(finding.severity - 0.3, 0))
        wedge.append(Blobs(points=points, sigmas=sigmas, peaks=peaks))
    shown: list[Part] = [Bodies(solids=tuple(plates)), *wedge]
    parts = tuple((part, DENSER) for part in shown)
    return Lesion(parts=parts, within=sides_of(finding), threshold=9.0, ceiling=60.0, grow=2.0)


def _nodule(finding: PlacedFinding, anatomy: Anatomy, rng: np.random.Generator) -> Lesion:
    side = finding.side or "right"
    centre = _spot(finding, anatomy, rng, side=side, zone=finding.zone or "middle", edge=0.7)
    radius = 6.0 + 6.5 * finding.severity
    ball = Ellipsoid(centre=centre, radii=tuple(radius * rng.uniform(0.88, 1.08, size=3)))
    return Lesion(parts=((Bodies(solids=(ball,)), (2.7 - 0.9 * finding.severity) * DENSER),), threshold=2.0, grow=1.0)


def _mass(finding: PlacedFinding, anatomy: Anatomy, rng: np.random.Generator) -> Lesion:
    """A lobulated body with a spiculated rim."""
    side = finding.side or "right"
    centre = _spot(finding, anatomy, rng, side=side, zone=finding.zone or "upper", edge=0.4)
    radius = 17.0 + 17.0 * finding.severity
    body = Ellipsoid(centre=centre, radii=tuple(radius * rng.uniform(0.82, 1.0, size=3)))
    ways = rng.normal(size=(26, 3))
    ways /= np.linalg.norm(ways, axis=1, keepdims=True)
    lobes = Blobs(
        points=centre + ways[:8] * radius * 0.72, sigmas=np.full(8, 0.30 * radius), peaks=np.full(8, 0.45 * radius)
    )
    spikes = [np.stack((centre + way * radius * 0.8, centre + way * radius * 1.3)) for way in ways]
    core: tuple[Part, ...] = (Bodies(solids=(body,)), lobes)
    parts = (*((part, 1.05 * DENSER) for part in core), (Tubes.along(spikes, radius=1.2), DENSER))
    return Lesion(parts=parts, within=(side,), mask=core, threshold=7.0)


def _fibrosis(finding: PlacedFinding, anatomy: Anatomy, rng: np.random.Generator) -> Lesion:
    """A net of short lines and small rings under the pleura."""
    nets: list[tuple[Part, float]] = []
    fields: list[Part] = []
    for side in sides_of(finding):
        lung = anatomy.lungs[side]
        middle, third = _zone_height(anatomy, side, finding.zone or "lower")
        most, kept = 220, int(70 + 150 * finding.severity)
        turn, height, deep = (
            rng.uniform(0, 2 * np.pi, most),
            rng.uniform(-0.62, 0.5, most),
            rng.uniform(0.62, 0.97, most),
        )
        way, ring = rng.normal(size=(most, 3)), rng.uniform(2.8, 5.0, most)
        z = middle + third * height[:kept] * (0.8 + 0.4 * finding.severity)
        x, y, a, b = lung.cavity.at(z)
        at = np.stack((x + a * deep[:kept] * np.cos(turn[:kept]), y + b * deep[:kept] * np.sin(turn[:kept]), z), axis=1)
        at = lung.follow(at)
        way = way[:kept] / np.linalg.norm(way[:kept], axis=1, keepdims=True)
        along = np.linspace(-7, 7, 13)
        lines = (at[:, None] + along[None, :, None] * way[:, None]).reshape(-1, 3)
        around = np.linspace(0, 2 * np.pi, 18, endpoint=False)
        circle = np.stack((np.cos(around), 0.4 * np.sin(around), np.sin(around)), axis=1)
        rings = (at[: kept // 2, None] + ring[: kept // 2, None, None] * circle[None]).reshape(-1, 3)
        points = np.concatenate((lines, rings))
        held = lung.holds(points)
        tubes = Tubes(points=points[held], weights=np.full(int(held.sum()), 1.25), radius=1.15)
        nets.append((tubes, SOFT * 2.4))
        seen = at[lung.holds(at)]
        field = Blobs(points=seen, sigmas=np.full(len(seen), 9.0), peaks=np.full(len(seen), 2.2))
        nets.append((field, DENSER * 0.8))
        fields.append(field)
    return Lesion(parts=tuple(nets), within=sides_of(finding), mask=tuple(fields), threshold=7.0, ceiling=14.0)


_RIBS: dict[Zone, tuple[int, ...]] = {"upper": (3, 4, 5), "middle": (5, 6, 7), "lower": (7, 8, 9)}


def _fracture(finding: PlacedFinding, anatomy: Anatomy, rng: np.random.Generator) -> Lesion:
    """One to three neighbouring ribs, each with a gap and an end that has slipped."""
    side = finding.side or "right"
    away, near, marks = [], [], []
    share, slip = rng.uniform(0.20, 0.30), rng.choice([-1.0, 1.0])
    for number in _RIBS[finding.zone or "middle"][: 1 + int(finding.severity * 2.99)]:
        axis = anatomy.ribs[side, number]
        middle = int(len(axis) * (share + rng.uniform(-0.02, 0.02)))
        piece = axis[middle - 3 : middle + 34]
        fade = np.clip(1 - np.arange(len(piece) - 6) / (len(piece) - 6), 0, 1)[:, None]
        offset = np.array([0.0, 0, slip * (7.5 + 4.5 * finding.severity)])
        away.append(piece)
        near.append(piece[6:] + offset * fade)
        marks.append(Ellipsoid(centre=axis[middle] + 0.35 * offset, radii=(15, 15, 15)))
    gone, slipped = np.concatenate(away), np.concatenate(near)
    ends = np.stack([piece[1] for piece in near])
    caps = Tubes(points=ends, weights=np.full(len(ends), 4.0), radius=5.0)
    parts = (
        (rib_tubes(gone, thick=True), -anatomy.mineral),
        (rib_tubes(slipped, thick=True), 2.3 * anatomy.mineral),
        (caps, anatomy.mineral),
    )
    return Lesion(parts=parts, mask=(Bodies(solids=tuple(marks)),), threshold=1.0)


def _sac(finding: PlacedFinding) -> Ellipsoid:
    """The herniated stomach behind the heart."""
    rng = np.random.Generator(np.random.PCG64(finding.seed))
    radius = 24.0 + 18.0 * finding.severity
    x, lean = rng.uniform(-4, 22), rng.uniform(0.85, 1.1)
    return Ellipsoid(
        centre=np.array([x, -48.0, -66 + 0.5 * radius]), radii=(radius * lean, 0.6 * radius, 0.92 * radius)
    )


def _hernia(finding: PlacedFinding, anatomy: Anatomy, rng: np.random.Generator) -> Lesion:
    """The sac is a bulge of the anatomy; here are its wall, and the gas above the flat level of fluid in it."""
    sac = _sac(finding)
    level = rng.uniform(-0.15, 0.2)
    share = np.linspace(level, 0.97, 30)
    section = 0.88 * np.sqrt(1 - share**2)
    x, y, z = sac.centre
    gas = Loft(z=z + 0.93 * share * sac.radii[2], x=np.full(30, x), y=np.full(30, y),
               a=sac.radii[0] * section, b=sac.radii[1] * section)  # fmt: skip
    whole = Bodies(solids=(sac,))
    return Lesion(parts=((whole, 0.06 * SOFT), (Bodies(solids=(gas,)), -SOFT)), mask=(whole,), threshold=4.0)


def _thickening(finding: PlacedFinding, anatomy: Anatomy, rng: np.random.Generator) -> Lesion:
    """A peel inside the outer wall of one zone, thickest at its side, or a cap over the apex."""
    side = finding.side or "right"
    cavity = anatomy.lungs[side].cavity
    middle, third = _zone_height(anatomy, side, finding.zone or "upper")
    zone = np.exp(-(((cavity.z - middle) / (0.5 * third)) ** 4))
    if finding.zone in (None, "upper"):
        zone = 1 / (1 + np.exp(-(cavity.z - middle) / 5))
    waves = 1 + 0.12 * np.sin(cavity.z / rng.uniform(6, 11) + rng.uniform(0, 6))
    thick = (7.0 + 9.0 * finding.severity) * zone * waves
    inner = replace(cavity.shrunk(0.58 * thick, 0.15 * thick), x=cavity.x - SIGN[side] * 0.42 * thick)
    return Lesion(region="layer", sides=(side,), layer=inner, threshold=6.0)


def _device(finding: PlacedFinding, anatomy: Anatomy, rng: np.random.Generator) -> Lesion:
    parts = device(finding, anatomy, rng)
    return Lesion(parts=parts, threshold=0.4, grow=2.5)


_PLACES: dict[str, Callable[[PlacedFinding, Anatomy, np.random.Generator], Lesion]] = {
    "pleural effusion": _effusion,
    "pneumothorax": _pneumothorax,
    "consolidation": _consolidation,
    "atelectasis": _atelectasis,
    "edema": _edema,
    "cardiomegaly": _cardiomegaly,
    "nodule": _nodule,
    "mass": _mass,
    "emphysema": _emphysema,
    "fibrosis": _fibrosis,
    "fracture": _fracture,
    "hernia": _hernia,
    "pleural thickening": _thickening,
    "support device": _device,
}
