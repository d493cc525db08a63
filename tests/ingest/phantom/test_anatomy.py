"""The thorax: sides, proportions, what disease does to it."""

from dataclasses import replace

import numpy as np

from vlp.ingest.phantom.anatomy import SIDES, SIGN, Changes, build
from vlp.ingest.phantom.projection import chord
from vlp.ingest.phantom.rendering import camera
from vlp.ingest.phantom.truth import Body, Exposure

BODY = Body(age=50, sex="F", size=1.0, habitus=0.0, seed=3)
EXPOSURE = Exposure(frontal="PA", lateral=True, rotation_deg=0, tilt_deg=0, inspiration=0.9, scanner=0, site="a",
                    marker=False, site_marker=False, seed=5)  # fmt: skip


def test_same_person_has_the_same_vessels() -> None:
    first, second = (build(BODY, EXPOSURE, Changes()).vessels["left"] for _ in range(2))
    assert all(np.array_equal(one.points, other.points) for one, other in zip(first, second, strict=True))


def test_lungs_lie_on_their_sides_and_the_right_dome_is_higher() -> None:
    anatomy = build(BODY, EXPOSURE, Changes())
    for side in SIDES:
        assert (anatomy.lungs[side].cavity.x * SIGN[side] > 0).all()
    assert anatomy.domes["right"] > anatomy.domes["left"]


def test_shallow_breath_raises_the_domes() -> None:
    deep = build(BODY, EXPOSURE, Changes())
    shallow = build(BODY, replace(EXPOSURE, inspiration=0.2), Changes())
    assert all(shallow.domes[side] > deep.domes[side] + 10 for side in SIDES)


def test_vessels_stay_within_the_aerated_lung_of_their_side() -> None:
    anatomy = build(BODY, EXPOSURE, Changes(fluid={"left": -20.0}, collapse={"right": 0.5}))
    for side in SIDES:
        lung = anatomy.lungs[side]
        points = np.concatenate([tubes.points for tubes in anatomy.vessels[side]])
        assert len(points) > 200
        assert lung.holds(points).all()


def test_collapse_draws_the_lung_from_wall_and_apex() -> None:
    lung = build(BODY, EXPOSURE, Changes(collapse={"left": 0.5})).lungs["left"]
    assert lung.surface.z.max() < lung.cavity.z.max() - 20
    rim = np.array([[0.0, 0.0, 0.0]])
    x, y, a, _ = lung.cavity.at(rim[:, 2])
    rim = np.stack((x + 0.95 * a, y, rim[:, 2]), axis=1)
    assert lung.follow(rim)[0, 0] < rim[0, 0] - 10


def test_fluid_takes_lung_from_below() -> None:
    lung = build(BODY, EXPOSURE, Changes(fluid={"right": -30.0})).lungs["right"]
    below, above = (lung.aerated.at(np.array([z]))[2][0] for z in (-40.0, 40.0))
    assert below < 1
    assert above > 40


def test_diaphragm_takes_no_lung_above_its_dome() -> None:
    anatomy = build(BODY, EXPOSURE, Changes())
    seen = camera("PA", replace(EXPOSURE, seed=0), person=1.0, size_px=64)
    lung = anatomy.lungs["right"]
    path = lung.path(lung.cavity, seen, seen.window)
    assert path.max() > 100
    assert (path >= 0).all()
    assert (path <= chord(lung.cavity, seen) + 1e-3).all()


def test_heart_grows_with_its_factor() -> None:
    usual, grown = (build(BODY, EXPOSURE, Changes(heart=factor)).heart for factor in (1.0, 1.4))
    assert grown[0].radii[0] > 1.3 * usual[0].radii[0]


def test_ribs_are_mirrored_and_run_to_the_front() -> None:
    ribs = build(replace(BODY, seed=8), EXPOSURE, Changes()).ribs
    for number in range(1, 12):
        left, right = ribs["left", number], ribs["right", number]
        assert left[5:, 0].min() > 0 > right[5:, 0].max()
        assert left[0, 1] < -40
    assert ribs["left", 5][-1, 1] > 20
