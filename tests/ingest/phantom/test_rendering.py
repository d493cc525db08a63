"""The pictures: determinism, sides, visibility, growth, and agreement of the two views."""

from dataclasses import replace

import numpy as np
import pytest

from vlp.ingest.phantom.rendering import RenderedView, camera, render, saturated
from vlp.ingest.phantom.truth import DEVICES, FINDINGS, Body, Exposure, PlacedFinding, StudyTruth

BODY = Body(age=55, sex="M", size=1.0, habitus=0.1, seed=21)
EXPOSURE = Exposure(frontal="PA", lateral=True, rotation_deg=2, tilt_deg=1, inspiration=0.85, scanner=0, site="a",
                    marker=True, site_marker=False, seed=22)  # fmt: skip
MIDLINE = frozenset({"cardiomegaly", "hernia"})
NAMED = [(name, None) for name in FINDINGS if name != "support device"]
NAMED += [("support device", device) for device in DEVICES]  # type: ignore[misc]
SIDED = [
    (name, device)
    for name, device in NAMED
    if name not in MIDLINE and device not in ("endotracheal tube", "enteric tube", "sternal wires")
]


def study(*findings: PlacedFinding, body: Body = BODY, **exposure: object) -> StudyTruth:
    return StudyTruth(id="s", person="p", order=0, days=0, body=body, findings=findings,
                      exposure=replace(EXPOSURE, **exposure))  # fmt: skip


def found(
    name: str, *, side: str = "left", severity: float = 0.5, device: str | None = None, seed: int = 7
) -> PlacedFinding:
    return PlacedFinding(name=name, side=None if name in MIDLINE else side, zone="lower", severity=severity,
                         device=device, seed=seed)  # type: ignore[arg-type]  # fmt: skip


def centroid(mask: np.ndarray) -> tuple[float, float]:
    """(column, row)."""
    rows, columns = np.nonzero(mask)
    return float(columns.mean()), float(rows.mean())


def frontal(truth: StudyTruth, size: int = 128) -> RenderedView:
    return render(truth, size_px=size).views[0]


def test_same_truth_same_bytes() -> None:
    truth = study(found("mass"), found("pneumothorax", side="right"))
    for one, other in zip(render(truth, size_px=96).views, render(truth, size_px=96).views, strict=True):
        assert one.pixels.tobytes() == other.pixels.tobytes()
        assert all(np.array_equal(one.masks[index], other.masks[index]) for index in (0, 1))


def test_views_and_shapes() -> None:
    both = render(study(found("nodule")), size_px=80).views
    assert [view.view for view in both] == ["PA", "lateral"]
    assert all(view.pixels.shape == (80, 80) and view.pixels.dtype == np.uint8 for view in both)
    assert all(view.masks[0].shape == (80, 80) and view.masks[0].dtype == bool for view in both)
    assert [view.view for view in render(study(lateral=False, frontal="AP"), size_px=80).views] == ["AP"]


@pytest.mark.parametrize(("name", "device"), NAMED)
def test_every_finding_shows_where_its_mask_is(name: str, device: str | None) -> None:
    with_it = render(study(found(name, device=device)), size_px=128)
    without = render(study(), size_px=128)
    for index, (ill, well) in enumerate(zip(with_it.views, without.views, strict=True)):
        mask = ill.masks[0]
        change = np.abs(ill.pixels.astype(float) - well.pixels.astype(float))
        assert mask.any()
        assert change[mask].mean() > (1.15 if name == "emphysema" else 2.0) * change[~mask].mean()
        if index == 0:
            assert change[mask].mean() > 3.5


@pytest.mark.parametrize(("name", "device"), SIDED)
def test_left_is_on_the_right_of_the_picture(name: str, device: str | None) -> None:
    for side, sign in (("left", 1), ("right", -1)):
        truth = study(found(name, side=side, device=device, severity=0.6), lateral=False, rotation_deg=0)
        column, _ = centroid(frontal(truth).masks[0])
        assert sign * (column - 64) > 3


@pytest.mark.parametrize(
    "name", ["pleural effusion", "pneumothorax", "consolidation", "cardiomegaly", "nodule", "mass", "hernia", "edema",
             "fracture", "fibrosis", "pleural thickening", "atelectasis"]
)  # fmt: skip
def test_mask_grows_with_severity(name: str) -> None:
    areas = [
        int(frontal(study(found(name, severity=severity), lateral=False)).masks[0].sum()) for severity in (0.15, 0.5, 1)
    ]
    assert areas[0] < areas[1] < areas[2]


@pytest.mark.parametrize("name", ["nodule", "mass", "consolidation", "hernia", "fracture"])
@pytest.mark.parametrize("zone", ["lower", "middle", "upper"])
def test_both_views_agree_on_height(name: str, zone: str) -> None:
    finding = replace(found(name, severity=0.4), zone=zone)
    truth = study(finding, tilt_deg=0.0)
    heights = []
    for view in render(truth, size_px=128).views:
        seen = camera(view.view, truth.exposure, person=1.0, size_px=128)
        _, row = centroid(view.masks[0])
        heights.append((64 - row) * seen.spacing + seen.shift[1])
    assert heights[0] == pytest.approx(heights[1], abs=11.0)


def test_heart_is_wider_in_ap_than_in_pa() -> None:
    widths = {}
    for name in ("PA", "AP"):
        view = frontal(study(found("cardiomegaly"), frontal=name, lateral=False, rotation_deg=0))
        columns = np.flatnonzero(view.masks[0].any(axis=0))
        widths[name] = (columns[-1] - columns[0]) * view.spacing_mm
    assert widths["AP"] > 1.04 * widths["PA"]


def test_finding_persists_while_pose_and_severity_change() -> None:
    first = frontal(study(found("mass", severity=0.3), lateral=False), 128)
    later = frontal(study(found("mass", severity=0.6), lateral=False, inspiration=0.7, seed=99, scanner=3), 128)
    moved = np.subtract(centroid(first.masks[0]), centroid(later.masks[0]))
    assert np.linalg.norm(moved) * first.spacing_mm < 25


def test_lung_fields_are_apart_dark_and_on_their_sides() -> None:
    view = frontal(study(lateral=False, rotation_deg=0))
    left, right = view.lungs["left"], view.lungs["right"]
    assert centroid(left)[0] > 64 > centroid(right)[0]
    assert 0.08 < left.mean() < 0.3
    heart = view.pixels[80:90, 62:70].mean()
    assert view.pixels[left | right].mean() < heart - 40


def test_effusion_whitens_the_base_of_its_own_lung_only() -> None:
    ill = frontal(study(found("pleural effusion", severity=0.6), lateral=False))
    well = frontal(study(lateral=False))
    change = ill.pixels.astype(float) - well.pixels
    base = np.zeros_like(well.lungs["left"])
    base[75:] = True
    assert change[base & well.lungs["left"]].mean() > 30
    assert abs(change[base & well.lungs["right"]].mean()) < 12


def test_pneumothorax_is_darker_than_the_lung_it_replaces() -> None:
    ill = frontal(study(found("pneumothorax", severity=0.7), lateral=False))
    well = frontal(study(lateral=False))
    mask = ill.masks[0]
    rest = ill.lungs["right"]
    darkened = (well.pixels[mask].astype(float) - ill.pixels[mask]).mean()
    assert darkened > (well.pixels[rest].astype(float) - ill.pixels[rest]).mean() + 5


def test_larger_person_fills_more_of_the_picture() -> None:
    areas = []
    for size in (0.85, 1.15):
        view = frontal(study(lateral=False, body=replace(BODY, size=size)))
        areas.append((view.lungs["left"] | view.lungs["right"]).mean())
    assert areas[1] > 1.1 * areas[0]


def test_people_differ() -> None:
    one, other = (frontal(study(lateral=False, body=replace(BODY, seed=seed))).pixels for seed in (1, 2))
    assert np.abs(one.astype(float) - other).mean() > 2


def test_saturated_is_the_path_when_small_and_the_ceiling_when_large() -> None:
    path = np.array([0.1, 500.0], dtype=np.float32)
    np.testing.assert_allclose(saturated(path, ceiling=30.0), [0.1, 30.0], rtol=0.01)
