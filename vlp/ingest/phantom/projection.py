"""Line integrals through solids in closed form, on the pixel grid of one view.

Patient space is in millimetres: x to the patient's left, y to the front, z up.  A view looks along w and has u to the
right and v up in the picture; turning the patient about z by the azimuth takes (x, y) to (u, w):

    u = x cos + y sin,   w = -x sin + y cos    (azimuth 0: frontal, w to the front; -90 degrees: lateral, w left)

The beam diverges mildly: every solid is magnified by source distance / (source distance - distance to the detector)
of its own centre, and every point of a tube by that of its own depth.  Within one solid the rays count as parallel,
which keeps the chords closed forms and each row of the picture one height z, and still gives the anterior heart its
larger shadow in an AP picture.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

import cv2
import numpy as np
from jaxtyping import Float32

from vlp.ingest.phantom.truth import Projection

Window = tuple[slice, slice]
Interval = tuple[np.ndarray, np.ndarray]
"""Depth w (mm) [rows columns] at which rays enter and leave a solid; equal where they miss it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Where source, patient and detector are in one exposure."""

    name: Projection
    size: int
    """Pixels per side."""
    spacing: float
    """Millimetres per pixel at the detector."""
    azimuth: float
    """Radians about z."""
    tilt: float = 0.0
    """Radians about the horizontal axis of the picture; positive lifts what is in front (for w to the front)."""
    source: float = 1800.0
    """Source to detector, mm."""
    detector: float = 130.0
    """w of the detector, mm; its sign says on which side of the patient it stands."""
    shift: tuple[float, float] = (0.0, 0.0)
    """(u, v) at the detector, mm, that falls on the centre of the picture."""

    @property
    def window(self) -> Window:
        """The whole picture."""
        return slice(0, self.size), slice(0, self.size)

    def turned(self, points: np.ndarray) -> np.ndarray:
        """[points 3] (x, y, z) as [points 3] (u, w, v), before magnification."""
        cosine, sine = math.cos(self.azimuth), math.sin(self.azimuth)
        x, y, z = points[..., 0], points[..., 1], points[..., 2]
        w = y * cosine - x * sine
        return np.stack((x * cosine + y * sine, w, z + math.tan(self.tilt) * w), axis=-1)

    def magnification(self, w: np.ndarray | float) -> np.ndarray | float:
        """Shadow size over true size at depth `w`."""
        return self.source / (self.source - (self.detector - w) * math.copysign(1.0, self.detector))

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """[points 2] (column, row) positions in the picture, the corner of the top left pixel being (0, 0)."""
        turned = self.turned(points)
        scale = self.magnification(turned[..., 1])
        column = (turned[..., 0] * scale - self.shift[0]) / self.spacing + self.size / 2
        row = self.size / 2 - (turned[..., 2] * scale - self.shift[1]) / self.spacing
        return np.stack((column, row), axis=-1)

    def grid(self, depth: float, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Turned coordinates u [columns] and height z [rows] of the pixel centres in a plane at `depth`."""
        scale = float(self.magnification(depth))
        columns = np.arange(window[1].start, window[1].stop, dtype=np.float32) + 0.5 - self.size / 2
        rows = self.size / 2 - 0.5 - np.arange(window[0].start, window[0].stop, dtype=np.float32)
        u = (columns * self.spacing + self.shift[0]) / scale
        v = (rows * self.spacing + self.shift[1]) / scale
        return u.astype(np.float32), (v - math.tan(self.tilt) * depth).astype(np.float32)


class Solid(Protocol):
    """A convex body with one entry and one exit on every ray."""

    def interval(self, view: View, window: Window) -> Interval:
        """Entry and exit depth (mm) on the pixels of `window`."""

    def contains(self, points: np.ndarray, *, margin: float = 0.0) -> np.ndarray:
        """[points] bool: inside by at least `margin` mm (negative: at most so far outside)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Loft:
    """Ellipses stacked along z: centre (x, y) and semi-axes (a, b) as functions of z, linear between knots."""

    z: np.ndarray
    """Knots, rising; there is nothing beyond the first and last."""
    x: np.ndarray
    y: np.ndarray
    a: np.ndarray
    b: np.ndarray
    root: tuple[float, float] | None = None
    """(x, y) whose depth sets the magnification; None: the middle of the solid.  Nested solids must share it."""

    def at(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(x, y, a, b) at each height; a and b are (nearly) zero beyond the ends."""
        inside = (z >= self.z[0]) & (z <= self.z[-1])
        x, y = np.interp(z, self.z, self.x), np.interp(z, self.z, self.y)
        a, b = np.interp(z, self.z, self.a) * inside, np.interp(z, self.z, self.b) * inside
        return x, y, np.maximum(a, 1e-3), np.maximum(b, 1e-3)

    def centre_depth(self, view: View) -> float:
        """Depth w of the root, or of the middle of the solid weighted by its sections."""
        x, y = self.middle() if self.root is None else self.root
        return y * math.cos(view.azimuth) - x * math.sin(view.azimuth)

    def middle(self) -> tuple[float, float]:
        """(x, y) of the centre of gravity."""
        weight = self.a * self.b + 1e-6
        return float(np.average(self.x, weights=weight)), float(np.average(self.y, weights=weight))

    def interval(self, view: View, window: Window) -> Interval:
        """See `Solid`.  The ellipse A du^2 + 2 B du dw + C dw^2 = 1 solved for dw."""
        u, z = view.grid(self.centre_depth(view), window)
        x, y, a, b = self.at(z)
        cosine, sine = math.cos(view.azimuth), math.sin(view.azimuth)
        inverse_a, inverse_b = 1 / (a * a), 1 / (b * b)
        cross = (cosine * sine * (inverse_b - inverse_a)).astype(np.float32)
        along = (sine * sine * inverse_a + cosine * cosine * inverse_b).astype(np.float32)
        du = u[None, :] - (x * cosine + y * sine).astype(np.float32)[:, None]
        slope = (cross / along)[:, None]
        reach = along[:, None] - du * du * (inverse_a * inverse_b).astype(np.float32)[:, None]
        half = np.sqrt(np.maximum(reach, 0)) / along[:, None]
        middle = (y * cosine - x * sine).astype(np.float32)[:, None] - slope * du
        return middle - half, middle + half

    def contains(self, points: np.ndarray, *, margin: float = 0.0) -> np.ndarray:
        """See `Solid`."""
        x, y, a, b = self.at(points[:, 2])
        a, b = np.maximum(a - margin, 1e-3), np.maximum(b - margin, 1e-3)
        return ((points[:, 0] - x) / a) ** 2 + ((points[:, 1] - y) / b) ** 2 < 1

    def scaled(self, factor: np.ndarray | float) -> "Loft":
        """The same centres with the semi-axes times `factor` (a number, or one per knot)."""
        return replace(self, a=self.a * factor, b=self.b * factor)

    def shrunk(self, a: np.ndarray | float, b: np.ndarray | float) -> "Loft":
        """The same centres with semi-axes less by `a` and `b` mm (a number, or one per knot)."""
        return replace(self, a=np.maximum(self.a - a, 0.1), b=np.maximum(self.b - b, 0.1))

    def resampled(self, z: np.ndarray) -> "Loft":
        """The same solid on other knots."""
        x, y, a, b = self.at(z)
        return replace(self, z=z, x=x, y=y, a=a, b=b)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ellipsoid:
    """An ellipsoid with any orientation."""

    centre: np.ndarray
    """[3] mm."""
    radii: tuple[float, float, float]
    axes: np.ndarray | None = None
    """[3 3], one axis a row; None: along x, y, z."""

    @property
    def form(self) -> np.ndarray:
        """The matrix Q [3 3] of p'Qp = 1 about the centre."""
        axes = np.eye(3) if self.axes is None else self.axes
        return axes.T @ np.diag(1 / np.square(self.radii)) @ axes

    def interval(self, view: View, window: Window) -> Interval:
        """See `Solid`.  The quadratic in dw; what is left under the root is the Schur complement of Q."""
        cosine, sine = math.cos(view.azimuth), math.sin(view.azimuth)
        turn = np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]])
        q = turn @ self.form @ turn.T
        u0, w0, _ = view.turned(self.centre)
        u, z = view.grid(float(w0), window)
        du, dv = (u - u0).astype(np.float32)[None, :], (z - self.centre[2]).astype(np.float32)[:, None]
        uu, uv, vv = (np.float32(q[i, j] - q[i, 1] * q[1, j] / q[1, 1]) for i, j in ((0, 0), (0, 2), (2, 2)))
        reach = 1 - (uu * du * du + 2 * uv * du * dv + vv * dv * dv)
        half = np.sqrt(np.maximum(reach, 0) / np.float32(q[1, 1]))
        middle = np.float32(w0) - np.float32(q[0, 1] / q[1, 1]) * du - np.float32(q[2, 1] / q[1, 1]) * dv
        return middle - half, middle + half

    def contains(self, points: np.ndarray, *, margin: float = 0.0) -> np.ndarray:
        """See `Solid`; every axis is shrunk in proportion."""
        shrink = 1 - margin / min(self.radii)
        offset = points - self.centre
        return np.einsum("ni,ij,nj->n", offset, self.form, offset) < shrink * abs(shrink)


def chord(solid: Solid, view: View, window: Window | None = None) -> Float32[np.ndarray, "rows columns"]:
    """Path length (mm) through `solid` on the pixels of `window` (the whole picture if None)."""
    low, high = solid.interval(view, view.window if window is None else window)
    return high - low


def subtract(pieces: list[Interval], hole: Interval) -> list[Interval]:
    """The parts of disjoint `pieces` outside `hole`, disjoint again; empty pieces are dropped."""
    rest: list[Interval] = []
    hollow = hole[1] > hole[0]
    if not hollow.any():
        return pieces
    for low, high in pieces:
        before = np.where(hollow, np.minimum(high, hole[0]), high)
        after = np.where(hollow, np.maximum(low, hole[1]), high)
        if (before > low).any():
            rest.append((low, np.maximum(before, low)))
        if (after < high).any():
            rest.append((np.minimum(after, high), high))
    return rest


def length(pieces: list[Interval], *, shape: tuple[int, int]) -> Float32[np.ndarray, "rows columns"]:
    """Total path length (mm) of disjoint pieces."""
    total = np.zeros(shape, dtype=np.float32)
    for low, high in pieces:
        total += high - low
    return total


@lru_cache(maxsize=512)
def disc(radius_twentieths: int) -> Float32[np.ndarray, "rows columns"]:
    """A disc of height 1 and the given radius in twentieths of a pixel, with its rim anti-aliased."""
    radius = radius_twentieths / 20
    half = math.ceil(radius + 0.5)
    fine = (np.arange((2 * half + 1) * 7, dtype=np.float32) + 0.5) / 7 - half - 0.5
    inside = (fine[:, None] ** 2 + fine[None, :] ** 2 <= radius * radius).astype(np.float32)
    kernel = inside.reshape(2 * half + 1, 7, 2 * half + 1, 7).mean(axis=(1, 3))
    return (kernel * (math.pi * radius * radius / max(float(kernel.sum()), 1e-6))).astype(np.float32)


def deposit(view: View, points: np.ndarray, weights: np.ndarray) -> Float32[np.ndarray, "rows columns"]:
    """Weights of 3-D points spread bilinearly over the nearest pixels; points outside the picture are dropped."""
    at = view.pixels(points) - 0.5
    corner = np.floor(at).astype(np.int64)
    keep = ((corner >= 0) & (corner < view.size - 1)).all(axis=1)
    corner, fraction, mass = corner[keep], (at - corner)[keep], weights[keep]
    right, down = fraction[:, 0], fraction[:, 1]
    start = corner[:, 1] * view.size + corner[:, 0]
    index = np.concatenate((start, start + 1, start + view.size, start + view.size + 1))
    left_mass, right_mass = mass * (1 - right), mass * right
    shares = (left_mass * (1 - down), right_mass * (1 - down), left_mass * down, right_mass * down)
    summed = np.bincount(index, weights=np.concatenate(shares), minlength=view.size * view.size)
    return summed.reshape(view.size, view.size).astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tubes:
    """Round tubes along polylines.

    The shadow of a solid tube is its axis convolved with a flat disc: at distance d from the axis the axis runs
    2 sqrt(r^2 - d^2) inside a disc of radius r, which is the chord of the tube.  So any number of tubes of one radius
    costs one filter, overlaps add up, and positions are exact below the pixel.
    """

    points: np.ndarray
    """[points 3] along the axes, at most about a pixel apart."""
    weights: np.ndarray
    """[points] mm of axis each point stands for."""
    radius: float
    """Outer radius, mm."""
    bore: float = 0.0
    """Radius of the inside, mm ..."""
    inside: float = 0.0
    """... and its density relative to the wall."""

    @classmethod
    def along(cls, lines: Iterable[np.ndarray], *, radius: float, bore: float = 0.0, inside: float = 0.3) -> "Tubes":
        """Tubes along straight pieces between the knots [knots 3] of each line."""
        points, weights = (np.concatenate(arrays) for arrays in zip(*map(polyline, lines), strict=True))
        return cls(points=points, weights=weights, radius=radius, bore=bore, inside=inside)

    def path(self, view: View) -> Float32[np.ndarray, "rows columns"]:
        """Path length (mm of wall material) over the whole picture."""
        if not len(self.points):
            return np.zeros((view.size, view.size), dtype=np.float32)
        scale = float(view.magnification(float(view.turned(self.points)[:, 1].mean()))) / view.spacing
        kernel = disc(max(round(self.radius * scale * 20), 5))
        if self.bore:
            hollow = disc(max(round(self.bore * scale * 20), 5))
            pad = (kernel.shape[0] - hollow.shape[0]) // 2
            kernel = kernel - (1 - self.inside) * np.pad(hollow, pad)
        return cv2.filter2D(deposit(view, self.points, self.weights), -1, kernel, borderType=cv2.BORDER_CONSTANT)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Blobs:
    """Soft spheres whose density falls off as a Gaussian."""

    points: np.ndarray
    """[blobs 3] centres."""
    sigmas: np.ndarray
    """[blobs] mm."""
    peaks: np.ndarray
    """[blobs] path length through the centre, mm of full material."""

    def path(self, view: View) -> Float32[np.ndarray, "rows columns"]:
        """Path length (mm) over the whole picture: Gaussians are separable, so the sum is one matrix product."""
        turned = view.turned(self.points)
        scale = np.asarray(view.magnification(turned[:, 1])) / view.spacing
        at, spread = view.pixels(self.points), self.sigmas * scale
        pixel = np.arange(view.size) + 0.5
        across = np.exp(-0.5 * ((pixel[None, :] - at[:, :1]) / spread[:, None]) ** 2)
        down = np.exp(-0.5 * ((pixel[None, :] - at[:, 1:]) / spread[:, None]) ** 2) * self.peaks[:, None]
        return (down.T.astype(np.float32) @ across.astype(np.float32)).astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bodies:
    """Solids with sharp borders, each counted on its own."""

    solids: tuple[Solid, ...]

    def path(self, view: View) -> Float32[np.ndarray, "rows columns"]:
        """Summed path length (mm) over the whole picture."""
        total = np.zeros((view.size, view.size), dtype=np.float32)
        for solid in self.solids:
            total += chord(solid, view)
        return total


Part = Tubes | Blobs | Bodies
"""Whatever has a path length in every view."""


def polyline(knots: np.ndarray, *, step: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Points [points 3] every `step` mm along straight pieces between knots [knots 3], and the mm each stands for."""
    pieces = np.linalg.norm(np.diff(knots, axis=0), axis=1)
    run = np.concatenate(([0.0], np.cumsum(pieces)))
    count = max(round(float(run[-1]) / step), 1)
    middle = (np.arange(count) + 0.5) * run[-1] / count
    points = np.stack([np.interp(middle, run, knots[:, axis]) for axis in range(3)], axis=1)
    return points, np.full(count, run[-1] / count)


def smooth(knots: np.ndarray, *, count: int = 24) -> np.ndarray:
    """A curve [count 3] through knots [knots 3]: Catmull-Rom, with the ends repeated."""
    padded = np.concatenate((2 * knots[:1] - knots[1:2], knots, 2 * knots[-1:] - knots[-2:-1]))
    position = np.linspace(0, len(knots) - 1 - 1e-9, count)
    piece = position.astype(int)
    t = (position - piece)[:, None]
    p0, p1, p2, p3 = (padded[piece + offset] for offset in range(4))
    return 0.5 * (2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3)
