"""The thorax in three dimensions: body, lungs, heart, vessels, airways, gas and skeleton.

Lengths are millimetres of an average adult; `truth.Body.size` is applied by the view, which scales the whole person.
Axes as in `projection`.  Habit, age and sex are read from the body, the rest of the variation is drawn from its seed,
so a person keeps his anatomy from study to study while pose, inspiration and disease change it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np
from scipy.interpolate import PchipInterpolator

from vlp.ingest.phantom.projection import (
    Blobs,
    Bodies,
    Ellipsoid,
    Loft,
    Part,
    Solid,
    Tubes,
    View,
    Window,
    length,
    polyline,
    smooth,
    subtract,
)
from vlp.ingest.phantom.truth import Body, Exposure, Side

SIDES: tuple[Side, Side] = ("left", "right")
SIGN: Mapping[Side, float] = MappingProxyType({"left": 1.0, "right": -1.0})
"""Sign of x."""

SOFT = 0.0195
"""Attenuation of soft tissue and water, per mm, at an effective 70 keV or so."""
AIRY = 0.0048
"""Attenuation of healthy lung, per mm."""
BONE = 0.028
"""What cortical bone attenuates beyond soft tissue, per mm."""

LUNG_TOP, LUNG_BOTTOM = 126.0, -90.0
"""Apex and (at full inspiration) domes, mm; thirds of the lung are thirds of this height."""

_RIB_STEP = 1.1
_Z = np.array([-175.0, -120, -60, 0, 50, 80, 100, 112, 120, 124, 126])
_LATERAL = np.array([143.0, 142, 138, 131, 117, 102, 88, 77, 66, 57, 47])
_MEDIAL = np.array([4.0, 4, 4, 4, 6, 9, 13, 19, 27, 36, 46])
_DEPTH = np.array([92.0, 91, 87, 82, 70, 53, 38, 26, 15, 8, 1])
_FORWARD = np.array([0.0, 0, 0, -2, -7, -15, -23, -28, -31, -32, -32])
_TRUNK = np.array(
    # z, half width, half depth, y
    [[-280, 152, 112, 2], [-120, 160, 114, 2], [0, 161, 111, 0], [50, 169, 103, -5], [80, 186, 94, -12],
     [105, 200, 83, -18], [125, 190, 72, -22], [142, 150, 64, -22], [158, 96, 58, -18], [172, 64, 56, -12],
     [190, 58, 56, -8], [280, 57, 57, 0]]
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What disease does to the anatomy itself, rather than adds to it."""

    heart: float = 1.0
    """Factor on the radii of the heart."""
    raised: Mapping[Side, float] = field(default_factory=dict)
    """mm by which a diaphragm stands higher."""
    rarefied: Mapping[Side, float] = field(default_factory=dict)
    """0 ... 1: emphysema of a lung."""
    collapse: Mapping[Side, float] = field(default_factory=dict)
    """0 ... 1: pneumothorax, how far the lung has shrunk from the wall."""
    fluid: Mapping[Side, float] = field(default_factory=dict)
    """mm of height z up to which free fluid fills the pleural space."""
    pull: float = 0.0
    """mm by which heart and mediastinum move to the patient's left."""
    bulges: tuple[Solid, ...] = ()
    """Further solids that take room from the lungs."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lung:
    """One side of the chest: cavity >= lung surface (less after a pneumothorax) >= aerated lung (less above fluid)."""

    side: Side
    cavity: Loft
    surface: Loft
    aerated: Loft
    holes: tuple[Solid, ...]
    """What bulges into the cavity: the diaphragm, the heart, the mediastinum."""
    density: float
    """Attenuation per mm."""

    def path(self, solid: Loft, view: View, window: Window) -> np.ndarray:
        """Path length (mm) through the part of `solid` that no hole takes away."""
        whole = solid.interval(view, window)
        pieces = [whole]
        for hole in self.holes:
            pieces = subtract(pieces, hole.interval(view, window))
        return length(pieces, shape=whole[0].shape)

    def follow(self, points: np.ndarray) -> np.ndarray:
        """Where points of the full lung are when it has shrunk from `cavity` to `surface`."""
        if self.surface is self.cavity:
            return points
        x, y, a, b = self.cavity.at(points[:, 2])
        z = np.interp(points[:, 2], self.cavity.z, self.surface.z)
        new_x, new_y, new_a, new_b = self.surface.at(z)
        return np.stack((new_x + (points[:, 0] - x) * new_a / a, new_y + (points[:, 1] - y) * new_b / b, z), axis=1)

    def holds(self, points: np.ndarray, *, margin: float = 0.0) -> np.ndarray:
        """[points] bool: within aerated lung."""
        inside = self.aerated.contains(points, margin=margin)
        for hole in self.holes:
            inside &= ~hole.contains(points, margin=-margin)
        return inside


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Anatomy:
    """Everything in the thorax of one study."""

    trunk: Loft
    outgrowths: tuple[Solid, ...]
    """What soft tissue stands out of the trunk."""
    arms: tuple[Solid, ...]
    """Beside the trunk in frontal views; for the lateral one they are raised out of the field."""
    lungs: Mapping[Side, Lung]
    heart: tuple[Ellipsoid, ...]
    ribs: Mapping[tuple[Side, int], np.ndarray]
    """Axis of each rib [points 3] from spine to front, every mm or so."""
    additions: tuple[tuple[Part, float], ...]
    """Parts with what they attenuate beyond what they lie in, per mm."""
    domes: Mapping[Side, float]
    """Height of the diaphragms, mm."""
    vessels: Mapping[Side, tuple[Tubes, ...]]
    mineral: float
    """What cortical bone of this person attenuates beyond soft tissue, per mm."""


def build(body: Body, exposure: Exposure, changes: Changes) -> Anatomy:
    """The thorax of `body` as it stood during `exposure`, changed by disease."""
    rng = np.random.Generator(np.random.PCG64(body.seed))
    build_noise = rng.normal(size=11)
    shallow = 1.0 - exposure.inspiration
    low = -92.0 + 4 * float(build_noise[0])
    usual: dict[Side, float] = {"left": low, "right": low + 10 + float(np.clip(3 * build_noise[1], -6, 6))}
    domes = {
        side: usual[side] + 26 * shallow + 7 * body.habitus + changes.raised.get(side, 0.0)
        - 16 * changes.rarefied.get(side, 0.0)
        for side in SIDES
    }  # fmt: skip
    heart = _heart(body, changes, shallow=shallow, noise=build_noise[2:5])
    solids = _mediastinum(body, changes, noise=build_noise[5:8])
    lungs = {side: _lung(side, domes[side], (*heart, *solids[side], *changes.bulges), changes) for side in SIDES}
    spine = _spine(body, curve=3 * build_noise[8])
    ribs = {(side, number): _rib(side, number, spine) for side in SIDES for number in range(1, 12)}
    vessels = {side: _vessels(lungs[side], changes.rarefied.get(side, 0.0), rng) for side in SIDES}
    mineral = BONE * (1 - 0.25 * float(np.clip((body.age - 55) / 35, 0, 1)))
    skeleton = (*_ribcage(ribs, mineral), *_spine_parts(spine), *_shoulders(exposure))
    additions = (*skeleton, *_airways(), *_gas(domes, rng), *_hila(changes, build_noise[9:11]))
    return Anatomy(trunk=_trunk(body), outgrowths=_outgrowths(body), arms=_arms(body), lungs=lungs, heart=heart,
                   ribs=ribs, additions=additions, domes=domes, vessels=vessels, mineral=mineral)  # fmt: skip


def _trunk(body: Body) -> Loft:
    z = np.arange(-280.0, 281.0, 4.0)
    width, depth, forward = PchipInterpolator(_TRUNK[:, 0], _TRUNK[:, 1:])(z).T
    stout = max(body.habitus, -0.4)
    lower = 1 / (1 + np.exp((z - 120) / 15))
    return Loft(z=z, x=0 * z, y=forward, a=width + 16 * stout * lower, b=depth + (14 * stout + 2) * lower)


def _lung(side: Side, dome: float, solids: tuple[Solid, ...], changes: Changes) -> Lung:
    rarefied = changes.rarefied.get(side, 0.0)
    z = np.concatenate((np.arange(-175.0, 100, 3), np.arange(100.0, 126.1, 1)))
    lateral, medial, depth, forward = PchipInterpolator(_Z, np.stack((_LATERAL, _MEDIAL, _DEPTH, _FORWARD), 1))(z).T
    middle, half = SIGN[side] * (lateral + medial) / 2, (lateral - medial) / 2
    barrel = 1 + 0.09 * rarefied
    cavity = Loft(z=z, x=middle, y=forward, a=half * (1 + 0.03 * rarefied), b=depth * barrel)
    cavity = replace(cavity, root=cavity.middle())
    surface = _deflated(cavity, changes.collapse.get(side, 0.0), SIGN[side])
    aerated = surface
    if side in changes.fluid:
        rise = 34.0
        share = np.clip((surface.z - changes.fluid[side]) / rise, 0, 1) ** 0.25
        aerated = surface.scaled(share)
    curve = 56 * (1 - 0.6 * rarefied)
    below = np.linspace(-260, dome, 90)
    drop = np.sqrt((dome - below) / curve)
    level = Loft(z=below, x=np.full(90, SIGN[side] * 56), y=np.full(90, 14.0), a=84 * drop, b=86 * drop)
    collapse = changes.collapse.get(side, 0.0)
    density = AIRY * (1 - 0.42 * rarefied) / (1 - 0.62 * collapse)
    return Lung(side=side, cavity=cavity, surface=surface, aerated=aerated, holes=(level, *solids), density=density)


def _deflated(cavity: Loft, collapse: float, sign: float) -> Loft:
    """The lung after it has drawn back from wall and apex towards its root."""
    if collapse <= 0:
        return cavity
    root = -20.0
    z = np.where(cavity.z > root, root + (cavity.z - root) * (1 - 0.5 * collapse), cavity.z)
    factor = 1 - 0.6 * collapse
    inward = sign * cavity.a * (1 - factor) * 0.85
    return replace(cavity, z=z, x=cavity.x - inward, a=cavity.a * factor, b=cavity.b * (1 - 0.45 * collapse))


def _heart(body: Body, changes: Changes, *, shallow: float, noise: np.ndarray) -> tuple[Ellipsoid, ...]:
    factor = changes.heart * (1 + 0.04 * body.habitus + 0.03 * noise[0])
    wide = factor * (1 + 0.06 * shallow)
    lift = 10 * shallow + 4 * body.habitus
    long = np.array([0.80, 0.30, -0.52 + 0.1 * shallow + 0.06 * noise[1]])
    long /= np.linalg.norm(long)
    across = np.cross(long, [0.0, 1.0, 0.0])
    across /= np.linalg.norm(across)
    axes = np.stack((long, np.cross(across, long), across))
    grown = 60 * (factor - 1)
    centre = np.array([23 + 0.45 * grown + changes.pull, 16.0, -60 + lift - 0.1 * grown])
    left = Ellipsoid(centre=centre, radii=(65 * wide, 57 * factor, 46 * factor), axes=axes)
    right = Ellipsoid(
        centre=np.array([-16 - 0.25 * grown + changes.pull, 8.0, -52 + lift]),
        radii=(29 * wide, 54 * factor, 50 * factor),
    )
    return left, right


def _mediastinum(body: Body, changes: Changes, *, noise: np.ndarray) -> dict[Side, tuple[Solid, ...]]:
    z = np.array([-180.0, -60, 0, 45, 80, 105, 140])
    half = np.array([16.0, 16, 17, 19, 19, 18, 22]) + 1.5 * noise[0] + 2 * body.habitus
    middle = Loft(
        z=z, x=np.full(7, 0.8 * changes.pull), y=np.full(7, -24.0), a=half, b=np.array([74.0, 74, 72, 66, 56, 50, 50])
    )
    old = np.clip((body.age - 50) / 35, 0, 1)
    knob = Ellipsoid(
        centre=np.array([19 + 5 * old + changes.pull, -24.0, 56 + 3 * noise[1]]), radii=(15 + 4 * old, 30, 14 + 3 * old)
    )
    waist = Ellipsoid(centre=np.array([17 + changes.pull, 6.0, 10]), radii=(23 + noise[2], 42, 48))
    aorta = Loft(z=z, x=np.interp(z, [-180, 60], [8, 22]) + changes.pull, y=np.full(7, -52.0), a=np.full(7, 12.0),
                 b=np.full(7, 12.0)).resampled(np.array([-180.0, -60, 0, 40, 56]))  # fmt: skip
    cava = Ellipsoid(centre=np.array([-18 + changes.pull, 2.0, 45]), radii=(15 + 0.5 * noise[2], 30, 80))
    return {"left": (middle, knob, waist, aorta), "right": (middle, cava)}


def _spine(body: Body, *, curve: float) -> Loft:
    z = np.arange(-200.0, 201.0, 2.0)
    hunch = 18 + 14 * np.clip((body.age - 55) / 30, 0, 1)
    y = -78 + hunch * ((z + 10) / 140) ** 2 * np.where(z > -10, 1.0, 0.35)
    x = curve * np.sin((z + 120) / 90)
    return Loft(z=z, x=x, y=y, a=np.interp(z, [-200, 0, 150], [21, 16, 13]), b=np.interp(z, [-200, 150], [17, 11]))


def _spine_parts(spine: Loft) -> list[tuple[Part, float]]:
    """Vertebral bodies between discs, pedicles, spinous and transverse processes."""
    phase = ((spine.z + 190) % 22.0) / 22.0
    bodies = spine.scaled(np.where(phase < 0.2, 0.02, 1.0))
    low = np.arange(-190.0, 190.0, 22.0)
    x, y, a, b = spine.at(low + 13)
    back = np.stack((x, y - b, low), axis=1)
    pedicles = np.concatenate([back + np.stack((s * 0.72 * a, 0 * a, 0 * a + 15), 1) for s in (-1, 1)])
    spines = [np.add(root, ((0, -6, 10), (0, -24, -2))) for root in back]
    wings = [np.add(root, ((s * 15, -2, 14), (s * 32, -12, 16))) for root in back for s in (-1, 1)]
    return [
        (Bodies(solids=(bodies,)), 0.0045),
        (Tubes(points=pedicles, weights=np.full(len(pedicles), 6.0), radius=4.0), BONE * 0.5),
        (Tubes.along(spines, radius=3.5), BONE * 0.25),
        (Tubes.along(wings, radius=4.0), BONE * 0.2),
    ]


def _rib(side: Side, number: int, spine: Loft) -> np.ndarray:
    """Axis [points 3] of one rib: around the cavity from the spine, sinking as it goes."""
    start = 119.0 - 21.0 * (number - 1) + 1.2 * min(number - 1, 3)
    reach = np.interp(number, [1, 3, 7, 10, 11], [146, 146, 138, 112, 80])
    sink = np.interp(number, [1, 2, 5, 8, 11], [26, 40, 66, 80, 62])
    angle = np.radians(np.linspace(14, reach, 150))
    turn = angle / np.radians(140)
    z = start + 7 * np.sin(np.minimum(turn * 3.0, np.pi)) - sink * turn**1.35
    lateral = np.interp(z, _Z, _LATERAL) + 5
    depth, forward = np.interp(z, _Z, _DEPTH) + 6, np.interp(z, _Z, _FORWARD)
    points = np.stack((SIGN[side] * lateral * np.sin(angle) ** 0.92, forward - depth * np.cos(angle), z), axis=1)
    root = np.array([[np.interp(start, spine.z, spine.x) + SIGN[side] * 20, points[0, 1] + 4, start]])
    knots = np.concatenate((root, points))
    return polyline(knots, step=_RIB_STEP)[0]


def rib_tubes(points: np.ndarray, *, thick: bool) -> Tubes:
    """Ribs along axis points [points 3] spaced as in `Anatomy.ribs`; first, tenth and eleventh ribs are thinner."""
    radius, bore = (5.0, 3.8) if thick else (4.2, 3.1)
    return Tubes(points=points, weights=np.full(len(points), _RIB_STEP), radius=radius, bore=bore, inside=0.3)


def _ribcage(ribs: Mapping[tuple[Side, int], np.ndarray], mineral: float) -> list[tuple[Part, float]]:
    parts: list[tuple[Part, float]] = []
    for thick in (True, False):
        axes = [axis for (_, number), axis in ribs.items() if (1 < number < 10) == thick]
        parts.append((rib_tubes(np.concatenate(axes), thick=thick), mineral))
    return parts


def _shoulders(exposure: Exposure) -> list[tuple[Part, float]]:
    """Clavicles, scapulae (over the lungs in an AP picture), humeral heads and the sternum."""
    out = -14.0 if exposure.frontal == "AP" else 12.0
    clavicle = smooth(np.array([[14, 52, 98], [50, 48, 110], [95, 18, 117], [158, -18, 122.0]]))
    corners = np.array([[92 + out, -84, 104], [112 + out, -90, -20], [152 + out, -50, 96.0]])
    ridge = np.array([[98 + out, -92, 76], [160 + out, -40, 118.0]])
    first, second = (grid.ravel()[:, None] for grid in np.meshgrid(np.linspace(0, 1, 26), np.linspace(0, 1, 26)))
    blade = corners[0] + first * (corners[1] - corners[0]) + second * (1 - first) * (corners[2] - corners[0])
    mirrors = [np.array([sign, 1.0, 1.0]) for sign in (1, -1)]
    blades = np.concatenate([mirror * blade for mirror in mirrors])
    borders = [mirror * line for mirror in mirrors for line in (corners[[1, 2]], corners[[1, 0]], ridge)]
    heads = tuple(Ellipsoid(centre=mirror * [178.0, -22, 100], radii=(24, 24, 24)) for mirror in mirrors)
    sternum = ((np.array([0, 66.0, 74]), (21, 6, 24)), (np.array([0, 90.0, 2]), (15, 5, 56)))
    return [
        (Tubes.along([mirror * clavicle for mirror in mirrors], radius=5.6, bore=4.0), BONE * 1.3),
        (Tubes(points=blades, weights=np.full(len(blades), 0.16), radius=5.0), BONE * 0.5),
        (Tubes.along(borders, radius=2.6), BONE * 0.7),
        (Bodies(solids=heads), BONE * 0.22),
        (Bodies(solids=tuple(Ellipsoid(centre=centre, radii=radii) for centre, radii in sternum)), BONE * 0.3),
    ]


def _airways() -> list[tuple[Part, float]]:
    windpipe = smooth(np.array([[0, 2, 215.0], [0, -12, 120], [-2, -20, 80], [-1, -24, 46]]))
    right = smooth(np.array([[-1, -24, 46.0], [-18, -24, 36], [-36, -24, 18]]))
    left = smooth(np.array([[-1, -24, 46.0], [20, -24, 34], [46, -26, 22]]))
    return [(Tubes.along([windpipe], radius=8.5), -SOFT), (Tubes.along([right, left], radius=5.5), -SOFT * 0.8)]


def _gas(domes: Mapping[Side, float], rng: np.random.Generator) -> list[tuple[Part, float]]:
    """The stomach bubble under the left dome, and some gas in the colon."""
    size = rng.uniform(0.6, 1.1)
    top = domes["left"] - 9
    z = np.linspace(top - 21 * size, top, 24)
    share = np.sqrt(1 - np.linspace(rng.uniform(-0.5, 0.2), 1, 24) ** 2)
    bubble = Loft(z=z, x=np.full(24, 60.0), y=np.full(24, 6.0), a=30 * size * share, b=24 * size * share)
    count = 7
    at = np.stack((rng.uniform(30, 130, count), rng.uniform(20, 80, count), rng.uniform(-185, -150, count)), axis=1)
    colon = Blobs(points=at, sigmas=rng.uniform(5, 11, count), peaks=rng.uniform(10, 26, count))
    return [(Bodies(solids=(bubble,)), -SOFT * 0.75), (colon, -SOFT)]


def _outgrowths(body: Body) -> tuple[Solid, ...]:
    """Breasts, or the lower edge of the pectoral muscles: full below, running out upwards."""
    woman = body.sex == "F" and body.age >= 14
    full = (1 + 0.35 * body.habitus) if woman else 0.2
    bottom, high = (-78 - 8 * full, 125.0) if woman else (-25.0, 95.0)
    share = np.linspace(0, 1, 40)
    swell = np.sin(np.pi / 2 * np.minimum(share / 0.4, 1)) ** 0.8 * (1 - np.maximum(share - 0.4, 0) / 0.6)
    z, ones = bottom + high * share, np.ones(40)
    return tuple(
        Loft(z=z, x=sign * 74 * ones, y=84 * ones + 6 * swell, a=56 * swell**0.5, b=44 * full * swell)
        for sign in (1.0, -1.0)
    )


def _arms(body: Body) -> tuple[Solid, ...]:
    """Deltoids and upper arms hanging a little away from the trunk."""
    z = np.array([-200.0, -60, 40, 85, 110, 124, 134, 138])
    thick = np.array([34.0, 36, 40, 44, 40, 30, 17, 1]) * (1 + 0.15 * body.habitus)
    away = np.array([222.0, 214, 202, 188, 176, 168, 162, 160])
    return tuple(Loft(z=z, x=sign * away, y=np.full(8, -20.0), a=thick, b=thick) for sign in (1.0, -1.0))


def _hila(changes: Changes, noise: np.ndarray) -> list[tuple[Part, float]]:
    at = np.array([[36.0, -12, 26], [42, -10, 10], [-34, -10, 16], [-40, -8, -2], [38, -8, 20], [-36, -8, 8]])
    at[:, 0] += changes.pull
    peaks = np.array([14.0, 12, 15, 13, 15, 16]) * (1 + 0.1 * noise[0])
    return [(Blobs(points=at, sigmas=np.array([7.0, 7, 7, 7, 12, 12]), peaks=peaks), SOFT - AIRY)]


_LEVELS = ((30.0, 4.0), (27.0, 2.9), (25.0, 2.0), (21.0, 1.4), (17.0, 1.0))
"""Length and radius (mm) of the vessels from the root of the lung outwards."""


def _vessels(lung: Lung, rarefied: float, rng: np.random.Generator) -> tuple[Tubes, ...]:
    """Arteries and veins: branches that fork four times, thinner each time, clipped to aerated lung."""
    sign = SIGN[lung.side]
    aim = np.array([[0.35, -0.1, 1], [0.8, 0.3, 0.75], [1, -0.3, 0.2], [0.9, 0.5, -0.3], [0.7, -0.5, -0.7],
                    [0.35, 0.4, -1], [0.5, -0.2, -1], [0.2, -0.7, -0.9], [0.6, 0.7, 0.2],
                    [1, 0.1, -0.05], [0.6, -0.2, 0.9], [0.75, 0.1, -0.75]])  # fmt: skip
    way = aim * [sign, 1, 1] + rng.normal(scale=0.12, size=aim.shape)
    start = np.tile([sign * 30, -10.0, 22 if sign > 0 else 12], (len(aim), 1)) + rng.normal(scale=4, size=aim.shape)
    tubes = []
    for level, (reach, radius) in enumerate(_LEVELS):
        way /= np.linalg.norm(way, axis=1, keepdims=True)
        bend = rng.normal(scale=0.22, size=way.shape)
        stretch = reach * rng.uniform(0.75, 1.25, size=(len(way), 1))
        count = int(reach / 1.1)
        t = ((np.arange(count) + 0.5) / count)[None, :, None]
        axis = start[:, None] + stretch[:, None] * (way[:, None] * t + bend[:, None] * t * t)
        points = axis.reshape(-1, 3)
        weights = 1.3 * np.repeat(stretch[:, 0] / count, count) * (1 - rarefied * min(0.25 * level, 0.85))
        held = lung.cavity.contains(points, margin=5)
        points = lung.follow(points[held])
        kept = lung.holds(points, margin=1)
        tubes.append(Tubes(points=points[kept], weights=weights[held][kept], radius=radius))
        end = start + stretch * (way + bend)
        spread = rng.normal(scale=0.42, size=way.shape)
        start, way = np.concatenate((end, end)), np.concatenate((way + bend + spread, way + bend - spread))
    return tuple(tubes)
