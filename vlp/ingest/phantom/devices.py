"""Tubes, lines and metal that people put into the chest."""

from collections.abc import Callable

import numpy as np

from vlp.ingest.phantom.anatomy import SIGN, Anatomy
from vlp.ingest.phantom.projection import Bodies, Ellipsoid, Part, Tubes, smooth
from vlp.ingest.phantom.truth import PlacedFinding

METAL = 0.16
"""What a radiopaque stripe or wire attenuates, per mm."""
CASE = 0.10
"""The same for a metal case with electronics in it."""

Parts = tuple[tuple[Part, float], ...]


def device(finding: PlacedFinding, anatomy: Anatomy, rng: np.random.Generator) -> Parts:
    """The parts of the device that `finding.device` names, each with its attenuation per mm.

    Without a side, a central venous catheter enters on the right, a pacemaker and a chest tube on the left.
    """
    return _DEVICES[finding.device or "central venous catheter"](finding, anatomy, rng)


def _line(knots: np.ndarray, *, radius: float) -> Tubes:
    return Tubes.along([smooth(knots, count=60)], radius=radius)


def _endotracheal(finding: PlacedFinding, anatomy: Anatomy, rng: np.random.Generator) -> Parts:
    """Down the trachea, the tip 2 to 6 cm above the carina; a stripe along a paler tube."""
    tip = 46 + rng.uniform(12, 45)
    knots = np.array([[2, 16, 230.0], [0, -2, 170], [0, -12, 130], [-1, -15, tip]])
    return (_line(knots, radius=4.4), 0.02), (_line(np.add(knots, (3.2, 0, 0)), radius=1.5), 1.3 * METAL)


def _central(finding: PlacedFinding, anatomy: Anatomy, rng: np.random.Generator) -> Parts:
    """From the neck or under the clavicle into the superior vena cava."""
    sign = SIGN[finding.side or "right"]
    tip = np.array([-22.0, 4, rng.uniform(-5, 40)])
    if rng.uniform() < 0.5:
        way = [[sign * 48, 30, 215], [sign * 40, 26, 165], [sign * 26, 18, 118]]
    else:
        way = [[sign * 150, 60, 40], [sign * 128, 55, 96], [sign * 80, 40, 116], [sign * 36, 24, 104]]
    middle = [[8 if sign > 0 else -20, 14, 84], [-21, 8, 64]]
    return ((_line(np.array([*way, *middle, tip]), radius=1.25), METAL),)


def _enteric(finding: PlacedFinding, anatomy: Anatomy, rng: np.random.Generator) -> Parts:
    """Down the oesophagus, below the diaphragm, into the stomach."""
    end = rng.uniform(35, 75)
    knots = np.array(
        [[3, 10, 230.0], [2, -30, 130], [4, -46, 40], [6, -46, -40], [14, -30, -100], [30, -5, -125], [end, 10, -140]]
    )
    return ((_line(knots, radius=1.5), METAL),)


def _pacemaker(finding: PlacedFinding, anatomy: Anatomy, rng: np.random.Generator) -> Parts:
    """A flat case under the skin below the clavicle, and leads to the right atrium and ventricle."""
    sign = SIGN[finding.side or "left"]
    centre = np.array([sign * rng.uniform(92, 104), 84.0, rng.uniform(56, 70)])
    case = Ellipsoid(centre=centre, radii=(24, 5.5, 21))
    top = [np.add(centre, (-sign * 10, 0, 20)), [sign * 62, 50, 98], [sign * 30, 24, 92], [-12, 12, 74], [-22, 6, 40]]
    atrium = np.array([*top, [-28, 16, -10], [-18, 34, -14], [-12, 40, 2]])
    ventricle = np.array([*top, [-26, 12, -20], [-4, 26, -62], [34, 40, -76]])
    leads = tuple((_line(knots, radius=1.1), METAL) for knots in (atrium, ventricle))
    return ((Bodies(solids=(case,)), CASE), *leads)


def _chest_tube(finding: PlacedFinding, anatomy: Anatomy, rng: np.random.Generator) -> Parts:
    """Through the side of the chest wall, up along the inside of it towards the apex."""
    side = finding.side or "left"
    sign, lung = SIGN[side], anatomy.lungs[side].cavity
    entry = rng.uniform(-50, -15)
    heights = np.array([entry + 8, entry + 45, 70 + rng.uniform(-10, 20)])
    x, y, a, b = lung.at(heights)
    inside = np.stack((x + sign * a * [0.86, 0.8, 0.45], y - b * [0.1, 0.3, 0.2], heights), axis=1)
    outside = np.array([[sign * 200, 0, entry - 40], [sign * 168, 0, entry - 14]])
    knots = np.concatenate((outside, inside))
    return (_line(knots, radius=3.6), 0.022), (_line(np.add(knots, (0, 0, 1.5)), radius=1.2), METAL)


def _wires(finding: PlacedFinding, anatomy: Anatomy, rng: np.random.Generator) -> Parts:
    """Five or six loops around the sternum, each with a twist."""
    loops = []
    turn = np.linspace(0, 2 * np.pi, 20)
    for index in range(int(rng.integers(5, 7))):
        z, tilt = 78 - 23 * index, rng.uniform(-0.25, 0.25)
        width = rng.uniform(10, 13)
        y = 82 + 8 * np.sin(min(index / 2, 1.5))
        ring = np.stack(
            (width * np.cos(turn), y + 7 * np.sin(turn), z + 5 * np.sin(turn) + tilt * width * np.cos(turn)), 1
        )
        twist = np.array([[0, y + 8, z + 5], [2, y + 9, z - 1], [-1, y + 9, z - 5.0]])
        loops += [ring, twist]
    return ((Tubes.along(loops, radius=0.9), METAL * 1.6),)


_DEVICES: dict[str, Callable[[PlacedFinding, Anatomy, np.random.Generator], Parts]] = {
    "endotracheal tube": _endotracheal,
    "central venous catheter": _central,
    "enteric tube": _enteric,
    "pacemaker": _pacemaker,
    "chest tube": _chest_tube,
    "sternal wires": _wires,
}
