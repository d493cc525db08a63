"""The pictures of a phantom study, with the true mask of every finding in every view."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from vlp.ingest.phantom import scanner
from vlp.ingest.phantom.anatomy import AIRY, SIDES, SOFT, Anatomy, Lung, build
from vlp.ingest.phantom.lesions import Lesion, changes, place
from vlp.ingest.phantom.projection import Bodies, Loft, Part, View, length, subtract
from vlp.ingest.phantom.truth import Exposure, Projection, Side, StudyTruth

FIELD_MM = 372.0
"""Side of the picture at the detector for an average adult."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RenderedView:
    """One picture and what is where in it."""

    view: Projection
    pixels: UInt8[np.ndarray, "rows columns"]
    """Bone bright; in frontal views the patient's left is on the right."""
    masks: Mapping[int, Bool[np.ndarray, "rows columns"]]
    """By index into `StudyTruth.findings`; all False where the view does not show the finding."""
    lungs: Mapping[Side, Bool[np.ndarray, "rows columns"]]
    """Lung fields, fluid and free air included, heart and diaphragm not."""
    spacing_mm: float
    """Distance of pixel centres at the detector."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RenderedStudy:
    """All pictures of one study."""

    views: tuple[RenderedView, ...]
    """The frontal view first, then the lateral if one was taken."""


def render(truth: StudyTruth, *, size_px: int = 256) -> RenderedStudy:
    """Draws the study.  The same truth and size give the same bytes.

    Args:
        truth: What is to be seen.
        size_px: Side of the square pictures, at least 32.

    Returns:
        The frontal view, and the lateral one if `truth.exposure.lateral`, each with a mask per finding.
    """
    anatomy = build(truth.body, truth.exposure, changes(truth.findings))
    lesions = [place(finding, anatomy) for finding in truth.findings]
    names: list[Projection] = [truth.exposure.frontal, *(("lateral",) if truth.exposure.lateral else ())]
    views = [
        _draw(camera(name, truth.exposure, person=truth.body.size, size_px=size_px), anatomy, lesions, truth)
        for name in names
    ]
    return RenderedStudy(views=tuple(views))


def camera(name: Projection, exposure: Exposure, *, person: float, size_px: int) -> View:
    """Where source, person and detector stand, in the millimetres of an average adult.

    PA and lateral pictures are taken from 1.8 m; in an AP picture the source is at 1.1 m and the detector behind.
    A larger or smaller person is the average one seen on a coarser or finer scale.
    """
    rng = np.random.Generator(np.random.PCG64([exposure.seed, 7, len(name)]))
    right, up = rng.normal(scale=4.0, size=2)
    field = FIELD_MM * person ** (-0.55) * {"PA": 1.0, "AP": 1.06, "lateral": 0.98}[name]
    turn, tilt = np.radians(exposure.rotation_deg), np.radians(exposure.tilt_deg)
    if name == "lateral":
        return View(name=name, size=size_px, spacing=field / size_px, azimuth=turn - np.pi / 2, source=1800 / person,
                    detector=190.0, shift=(right, up - 8))  # fmt: skip
    source, detector = (1800.0, 130.0) if name == "PA" else (1100.0, -130.0)
    return View(name=name, size=size_px, spacing=field / size_px, azimuth=turn, tilt=tilt, source=source / person,
                detector=detector, shift=(right, up - 6))  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Lengths:
    """Path lengths (mm) through one lung and what may surround it, over the whole picture."""

    cavity: np.ndarray
    surface: np.ndarray
    aerated: np.ndarray


def _draw(view: View, anatomy: Anatomy, lesions: Sequence[Lesion], truth: StudyTruth) -> RenderedView:
    lengths = {side: _lengths(anatomy.lungs[side], view) for side in SIDES}
    integrals = _healthy(view, anatomy, lengths)
    masks = {}
    for index, lesion in enumerate(lesions):
        added, mask = _lesion(view, anatomy, lengths, lesion)
        integrals += added
        masks[index] = mask
    integrals = np.maximum(integrals, 0) * np.float32(truth.body.size)
    pixels = scanner.expose(integrals, truth.exposure, view=view.name)
    lungs = {side: lengths[side].cavity > 4.0 for side in SIDES}
    spacing = view.spacing * truth.body.size
    return RenderedView(view=view.name, pixels=pixels, masks=masks, lungs=lungs, spacing_mm=float(spacing))


def _lengths(lung: Lung, view: View) -> _Lengths:
    cavity = _within(lung, lung.cavity, view)
    surface = cavity if lung.surface is lung.cavity else _within(lung, lung.surface, view)
    aerated = surface if lung.aerated is lung.surface else _within(lung, lung.aerated, view)
    return _Lengths(cavity=cavity, surface=surface, aerated=aerated)


def _within(lung: Lung, solid: Loft, view: View) -> np.ndarray:
    """Path length through `solid` less the holes of the lung, evaluated only in the window around it."""
    window = _window(solid, view)
    whole = np.zeros((view.size, view.size), dtype=np.float32)
    if window[0].stop > window[0].start and window[1].stop > window[1].start:
        whole[window] = lung.path(solid, view, window)
    return whole


def saturated(path: np.ndarray, *, ceiling: float) -> np.ndarray:
    """Path lengths (mm) that cannot exceed `ceiling`: soft things that overlap share the room there is."""
    return ceiling * (1 - np.exp(-path / np.float32(ceiling)))


def _window(solid: Loft, view: View) -> tuple[slice, slice]:
    """Pixels that can see the solid."""
    low = np.stack((solid.x - solid.a, solid.y - solid.b, solid.z), axis=1)
    high = np.stack((solid.x + solid.a, solid.y + solid.b, solid.z), axis=1)
    mixed = np.stack((solid.x - solid.a, solid.y + solid.b, solid.z), axis=1)
    other = np.stack((solid.x + solid.a, solid.y - solid.b, solid.z), axis=1)
    at = view.pixels(np.concatenate((low, high, mixed, other)))
    first = np.clip(np.floor(at.min(axis=0)) - 2, 0, view.size).astype(int)
    last = np.clip(np.ceil(at.max(axis=0)) + 2, 0, view.size).astype(int)
    return slice(first[1], last[1]), slice(first[0], last[0])


def _healthy(view: View, anatomy: Anatomy, lengths: Mapping[Side, _Lengths]) -> np.ndarray:
    """Line integrals of attenuation through everything but the lesions' own parts."""
    trunk = anatomy.trunk.interval(view, view.window)
    thickness = trunk[1] - trunk[0]
    arms = () if view.name == "lateral" else anatomy.arms
    for solid in arms:
        thickness += length(subtract([solid.interval(view, view.window)], trunk), shape=thickness.shape)
    folds = np.zeros_like(thickness)
    for solid in anatomy.outgrowths:
        folds += length(subtract([solid.interval(view, view.window)], trunk), shape=thickness.shape)
    thickness += cv2.GaussianBlur(folds, (0, 0), 4.0 / view.spacing)
    integrals = SOFT * thickness
    for side in SIDES:
        lung, paths = anatomy.lungs[side], lengths[side]
        integrals -= SOFT * (paths.cavity - paths.surface + paths.aerated)
        integrals += np.float32(lung.density) * paths.aerated
        if lung.surface is not lung.cavity:
            inner = _within(lung, lung.surface.shrunk(1.6, 1.6), view)
            integrals += np.float32(1.2 * SOFT) * np.maximum(paths.surface - inner, 0)
        vessels = sum((tubes.path(view) for tubes in anatomy.vessels[side]), np.zeros_like(integrals))
        integrals += np.float32(SOFT - AIRY) * saturated(vessels, ceiling=36.0)
    for part, excess in anatomy.additions:
        integrals += np.float32(excess) * part.path(view)
    return integrals


def _lesion(
    view: View, anatomy: Anatomy, lengths: Mapping[Side, _Lengths], lesion: Lesion
) -> tuple[np.ndarray, np.ndarray]:
    """What one finding adds to the line integrals, and its mask."""
    added = np.zeros((view.size, view.size), dtype=np.float32)
    paths: dict[int, np.ndarray] = {}
    bound = _bound(lesion, lengths)
    for part, excess in lesion.parts:
        path = part.path(view)
        paths[id(part)] = (saturated(path, ceiling=lesion.ceiling) if lesion.ceiling else path) * bound
        added += np.float32(excess) * paths[id(part)]
    if lesion.region == "parts":
        shown: Sequence[Part] = lesion.mask or [part for part, _ in lesion.parts]
        depth = sum((paths[id(part)] if id(part) in paths else part.path(view) for part in shown), 0 * added)
    else:
        depth = _anatomical(view, anatomy, lengths, lesion)
        if lesion.region == "layer":
            added += np.float32(SOFT - AIRY) * depth
    mask = depth > lesion.threshold
    if lesion.grow:
        reach = max(round(lesion.grow / view.spacing), 1)
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
        mask = cv2.dilate(mask.astype(np.uint8), kernel).astype(bool)
    return added, mask


def _bound(lesion: Lesion, lengths: Mapping[Side, _Lengths]) -> np.ndarray | float:
    """1 where there is lung for the lesion to lie in, falling to 0 at its edge."""
    if not lesion.within:
        return 1.0
    room = sum((lengths[side].aerated for side in lesion.within[1:]), lengths[lesion.within[0]].aerated)
    return np.minimum(room / np.float32(25.0), 1)


def _anatomical(view: View, anatomy: Anatomy, lengths: Mapping[Side, _Lengths], lesion: Lesion) -> np.ndarray:
    """Path length through the piece of anatomy a lesion's mask is."""
    if lesion.region == "heart":
        return np.maximum.reduce([Bodies(solids=(part,)).path(view) for part in anatomy.heart])
    total = np.zeros((view.size, view.size), dtype=np.float32)
    for side in lesion.sides:
        paths = lengths[side]
        if lesion.region == "fluid":
            total += paths.surface - paths.aerated
        elif lesion.region == "air":
            # Beyond the visceral line: where the lung is in front of or behind the air, one does not see the air.
            total += np.where(paths.surface < 3.0, paths.cavity - paths.surface, 0)
        elif lesion.region == "layer" and lesion.layer is not None:
            total += np.maximum(paths.cavity - _within(anatomy.lungs[side], lesion.layer, view), 0)
        else:
            total += paths.cavity
    return total
