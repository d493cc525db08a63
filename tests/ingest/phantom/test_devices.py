"""Where devices end up."""

import numpy as np
import pytest

from vlp.ingest.phantom.anatomy import Changes, build
from vlp.ingest.phantom.devices import device
from vlp.ingest.phantom.projection import Tubes
from vlp.ingest.phantom.truth import DEVICES, Body, Exposure, PlacedFinding

ANATOMY = build(
    Body(age=60, sex="M", size=1.0, habitus=0.0, seed=1),
    Exposure(frontal="AP", lateral=False, rotation_deg=0, tilt_deg=0, inspiration=0.7, scanner=0, site="a",
             marker=False, site_marker=False, seed=2),
    Changes(),
)  # fmt: skip


def points(name: str, *, side: str | None = None, seed: int = 4) -> np.ndarray:
    finding = PlacedFinding(name="support device", side=side, device=name, seed=seed)  # type: ignore[arg-type]
    parts = device(finding, ANATOMY, np.random.default_rng(seed))
    return np.concatenate([part.points for part, _ in parts if isinstance(part, Tubes)])


@pytest.mark.parametrize("name", DEVICES)
def test_every_kind_has_parts_that_attenuate(name: str) -> None:
    parts = device(PlacedFinding(name="support device", device=name, seed=9), ANATOMY, np.random.default_rng(9))
    assert parts
    assert all(excess > 0 for _, excess in parts)


def test_endotracheal_tube_ends_above_the_carina_in_the_midline() -> None:
    line = points("endotracheal tube")
    assert 50 < line[:, 2].min() < 100
    assert np.abs(line[:, 0]).max() < 10


def test_enteric_tube_passes_the_left_dome() -> None:
    assert points("enteric tube")[:, 2].min() < ANATOMY.domes["left"]


@pytest.mark.parametrize("name", ["pacemaker", "chest tube", "central venous catheter"])
@pytest.mark.parametrize("seed", range(3))
def test_side_is_where_the_device_comes_from(name: str, seed: int) -> None:
    left, right = points(name, side="left", seed=seed), points(name, side="right", seed=seed)
    assert left[np.abs(left[:, 0]).argmax(), 0] > 30
    assert right[np.abs(right[:, 0]).argmax(), 0] < -30


def test_catheter_ends_in_the_superior_vena_cava() -> None:
    line = points("central venous catheter", side="left")
    lowest = line[line[:, 0] < 0][:, 2].min()
    assert -10 < lowest < 60
