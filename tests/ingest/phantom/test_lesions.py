"""Findings in three dimensions: side, zone, persistence, what they change."""

from dataclasses import replace

import numpy as np
import pytest

from vlp.ingest.phantom.anatomy import LUNG_TOP, SIGN, Anatomy, Changes, build
from vlp.ingest.phantom.lesions import Lesion, changes, place, sides_of
from vlp.ingest.phantom.projection import Blobs, Bodies, Ellipsoid
from vlp.ingest.phantom.truth import FINDINGS, Body, Exposure, PlacedFinding

BODY = Body(age=60, sex="M", size=1.0, habitus=0.0, seed=1)
EXPOSURE = Exposure(frontal="PA", lateral=False, rotation_deg=0, tilt_deg=0, inspiration=0.7, scanner=0, site="a",
                    marker=False, site_marker=False, seed=2)  # fmt: skip


def anatomy_with(*findings: PlacedFinding) -> Anatomy:
    return build(BODY, EXPOSURE, changes(findings))


def centre(lesion: Lesion) -> np.ndarray:
    """Middle of a lesion made of soft spheres or ellipsoids."""
    part = lesion.parts[0][0]
    if isinstance(part, Bodies):
        assert isinstance(part.solids[0], Ellipsoid)
        return part.solids[0].centre
    assert isinstance(part, Blobs)
    return part.points.mean(axis=0)


def test_every_finding_can_be_placed() -> None:
    for name in FINDINGS:
        finding = PlacedFinding(name=name, side="left", zone="lower", device="chest tube", seed=3)
        lesion = place(finding, anatomy_with(finding))
        assert lesion.parts or lesion.region != "parts"


@pytest.mark.parametrize("name", ["nodule", "mass", "consolidation"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("zone", ["lower", "middle", "upper"])
def test_focal_findings_lie_in_their_zone_and_side(name: str, side: str, zone: str) -> None:
    for seed in range(4):
        finding = PlacedFinding(name=name, side=side, zone=zone, seed=seed)  # type: ignore[arg-type]
        anatomy = anatomy_with(finding)
        at = centre(place(finding, anatomy))
        bottom = anatomy.domes[finding.side]  # type: ignore[index]
        third = int((at[2] - bottom) / (LUNG_TOP - bottom) * 3)
        assert third == ("lower", "middle", "upper").index(zone)
        assert at[0] * SIGN[finding.side] > 20  # type: ignore[index]


@pytest.mark.parametrize("name", ["nodule", "mass", "consolidation"])
def test_growing_finding_stays_where_it_was(name: str) -> None:
    small = PlacedFinding(name=name, side="right", zone="middle", severity=0.2, seed=11)
    anatomy = anatomy_with(small)
    first, later = place(small, anatomy), place(replace(small, severity=0.9), anatomy)
    assert np.linalg.norm(centre(first) - centre(later)) < 12


def test_nodules_are_below_and_masses_above_three_centimetres() -> None:
    for severity in (0.05, 1.0):
        for name, small in (("nodule", True), ("mass", False)):
            finding = PlacedFinding(name=name, side="left", zone="upper", severity=severity, seed=2)
            part = place(finding, anatomy_with(finding)).parts[0][0]
            assert isinstance(part, Bodies)
            assert isinstance(part.solids[0], Ellipsoid)
            assert (2 * max(part.solids[0].radii) < 30) == small


def test_changes_collect_all_findings() -> None:
    found = changes(
        [
            PlacedFinding(name="pleural effusion", side="left", severity=0.2),
            PlacedFinding(name="pleural effusion", side="right", severity=0.9),
            PlacedFinding(name="cardiomegaly", severity=0.5),
            PlacedFinding(name="emphysema", severity=0.5),
            PlacedFinding(name="hernia", severity=0.5, seed=1),
        ]
    )
    assert found.fluid["right"] > found.fluid["left"] + 50
    assert found.heart > 1.2
    assert set(found.rarefied) == {"left", "right"}
    assert len(found.bulges) == 1


def test_no_findings_change_nothing() -> None:
    assert changes([]) == Changes()


def test_midline_findings_are_on_both_sides() -> None:
    assert sides_of(PlacedFinding(name="edema")) == ("left", "right")
    assert sides_of(PlacedFinding(name="edema", side="right")) == ("right",)


def test_broken_ends_are_set_off() -> None:
    finding = PlacedFinding(name="fracture", side="left", zone="middle", severity=0.2, seed=4)
    gone, slipped = (part for part, _ in place(finding, anatomy_with(finding)).parts[:2])
    step = np.linalg.norm(gone.points[6] - slipped.points[0])  # type: ignore[union-attr]
    assert 6 < step < 14
