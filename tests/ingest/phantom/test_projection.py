"""Closed-form line integrals against marching along the ray, and the geometry of the views."""

import math

import numpy as np
import pytest

from vlp.ingest.phantom.projection import (
    Blobs,
    Ellipsoid,
    Loft,
    Tubes,
    View,
    chord,
    deposit,
    disc,
    length,
    polyline,
    smooth,
    subtract,
)

PARALLEL = 1e9
"""A source so far away that nothing is magnified."""


def view(*, azimuth: float = 0.0, tilt: float = 0.0, source: float = PARALLEL, detector: float = 130.0) -> View:
    return View(name="PA", size=64, spacing=2.0, azimuth=azimuth, tilt=tilt, source=source, detector=detector)


def marched(solid: Ellipsoid | Loft, seen: View, row: int, column: int) -> float:
    """Path length by testing points along the ray of one pixel, half a millimetre apart."""
    u = (column + 0.5 - seen.size / 2) * seen.spacing
    z = (seen.size / 2 - row - 0.5) * seen.spacing
    w = np.arange(-150, 150, 0.5)
    cosine, sine = math.cos(seen.azimuth), math.sin(seen.azimuth)
    points = np.stack((u * cosine - w * sine, u * sine + w * cosine, np.full_like(w, z)), axis=1)
    return 0.5 * float(solid.contains(points).sum())


def test_sphere_has_the_textbook_chord() -> None:
    radius, seen = 30.0, view(azimuth=0.4)
    path = chord(Ellipsoid(centre=np.zeros(3), radii=(radius,) * 3), seen)
    at = (np.arange(64) + 0.5 - 32) * 2.0
    distance = np.hypot(at[:, None], at[None, :])
    np.testing.assert_allclose(path, 2 * np.sqrt(np.maximum(radius**2 - distance**2, 0)), atol=1e-2)


@pytest.mark.parametrize("azimuth", [0.0, 0.3, -math.pi / 2, -1.2])
def test_turned_ellipsoid_agrees_with_marching(azimuth: float) -> None:
    axes = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    solid = Ellipsoid(centre=np.array([6.0, -9.0, 4.0]), radii=(40, 22, 30), axes=axes)
    seen = view(azimuth=azimuth)
    path = chord(solid, seen)
    for row, column in ((30, 33), (24, 30), (36, 40), (2, 2)):
        assert path[row, column] == pytest.approx(marched(solid, seen, row, column), abs=1.1)


@pytest.mark.parametrize("azimuth", [0.0, 0.3, -math.pi / 2])
def test_loft_agrees_with_marching(azimuth: float) -> None:
    z = np.array([-50.0, 0, 40])
    solid = Loft(z=z, x=np.array([0.0, 10, 5]), y=np.array([5.0, 0, -5]), a=np.array([40.0, 30, 5]), b=z * 0 + 25)
    seen = view(azimuth=azimuth)
    path = chord(solid, seen)
    for row, column in ((30, 33), (20, 36), (50, 30), (60, 32), (5, 32)):
        assert path[row, column] == pytest.approx(marched(solid, seen, row, column), abs=1.1)


def test_subtracting_overlapping_holes_counts_the_overlap_once() -> None:
    def constant(low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
        return np.full((1, 1), low), np.full((1, 1), high)

    pieces = [constant(0, 100)]
    for hole in (constant(20, 40), constant(30, 50), constant(90, 120), constant(5, 5), constant(-20, -10)):
        pieces = subtract(pieces, hole)
    assert length(pieces, shape=(1, 1))[0, 0] == pytest.approx(20 + 40)


def test_hole_covering_everything_leaves_nothing() -> None:
    low, high = np.zeros((2, 2)), np.full((2, 2), 10.0)
    assert length(subtract([(low, high)], (low - 1, high + 1)), shape=(2, 2)).max() == 0


def test_tube_has_the_chord_of_a_cylinder() -> None:
    line, weights = polyline(np.array([[-60.0, 0, 0], [60, 0, 0]]), step=0.5)
    path = Tubes(points=line, weights=weights, radius=10.0).path(view())
    height = (32 - np.arange(64) - 0.5) * 2.0
    expected = 2 * np.sqrt(np.maximum(100 - height**2, 0))
    assert np.abs(path[:, 32] - expected).max() < 0.08 * 20
    assert path[:, 32].sum() == pytest.approx(expected.sum(), rel=0.02)


def test_hollow_tube_is_brightest_near_its_edge() -> None:
    line, weights = polyline(np.array([[-60.0, 0, 0], [60, 0, 0]]), step=0.5)
    path = Tubes(points=line, weights=weights, radius=14.0, bore=10.0).path(view())[:, 32]
    assert path.max() > 1.3 * path[31]


def test_disc_has_the_area_of_a_disc() -> None:
    for radius in (0.5, 1.3, 4.75):
        assert disc(round(radius * 20)).sum() == pytest.approx(math.pi * radius**2, rel=1e-3)


def test_deposit_keeps_mass_and_centre() -> None:
    seen = view()
    point = np.array([[13.3, 5.0, -7.1]])
    picture = deposit(seen, point, np.array([2.5]))
    rows, columns = np.mgrid[:64, :64] + 0.5
    assert picture.sum() == pytest.approx(2.5)
    centre = ((columns * picture).sum() / 2.5, (rows * picture).sum() / 2.5)
    np.testing.assert_allclose(centre, seen.pixels(point)[0], atol=1e-4)


def test_blob_peaks_where_its_centre_projects() -> None:
    blob = Blobs(points=np.array([[20.0, 0, 10]]), sigmas=np.array([6.0]), peaks=np.array([9.0]))
    path = blob.path(view())
    row, column = np.unravel_index(path.argmax(), path.shape)
    assert path.max() == pytest.approx(9.0, rel=0.05)
    assert (abs(row - 26.5), abs(column - 41.5)) <= (1, 1)


def test_left_of_the_patient_is_right_in_a_frontal_view_and_front_is_left_in_a_lateral() -> None:
    left, front = np.array([50.0, 0, 0]), np.array([0, 50.0, 0])
    assert view().pixels(left)[0] > 32
    assert view(azimuth=-math.pi / 2).pixels(front)[0] < 32


def test_what_is_far_from_the_detector_casts_the_larger_shadow() -> None:
    heart = Ellipsoid(centre=np.array([0, 30.0, 0]), radii=(30, 30, 30))
    near = chord(heart, view(source=1800, detector=130.0))
    far = chord(heart, view(source=1100, detector=-130.0))
    assert (far > 0).sum() > 1.1 * (near > 0).sum()


def test_tilt_moves_front_and_back_apart() -> None:
    points = np.array([[0, 50.0, 0], [0, -50.0, 0]])
    front, back = view(tilt=0.1).pixels(points)[:, 1]
    assert front < back


def test_polyline_has_the_length_of_its_pieces() -> None:
    points, weights = polyline(np.array([[0.0, 0, 0], [30, 0, 0], [30, 40, 0]]), step=1.0)
    assert weights.sum() == pytest.approx(70)
    assert len(points) == 70


def test_smooth_passes_through_its_knots() -> None:
    knots = np.array([[0.0, 0, 0], [10, 5, 0], [20, -5, 3], [30, 0, 0]])
    curve = smooth(knots, count=301)
    for knot in knots:
        assert np.linalg.norm(curve - knot, axis=1).min() < 0.1
