from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from vlp.calibrate.maps import Curves, Prompted
from vlp.inference.lungs import ANATOMY
from vlp.metrics.segmentation import COSINES, dice
from vlp.prompts.descriptors import load_descriptors
from vlp.records import Region
from vlp.tensors import ImageFeatures, Placement

GRID, SIDE = 8, 32
PLACEMENT = Placement(original=(SIDE, SIDE), model=(SIDE, SIDE), matrix=((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)))
FEATURES = ImageFeatures(pooled=torch.zeros(1, 2), patches=torch.zeros(1, GRID * GRID, 2), grid=(GRID, GRID))


class Drawn:
    """Answers every text with a map of its own."""

    def __init__(self, maps: dict[str, np.ndarray]) -> None:
        self.maps = maps

    def maps_of(self, texts: tuple[str, ...], features: ImageFeatures) -> np.ndarray:
        return np.stack([self.maps[text] for text in texts])[:, None]


def grid(value: float, rows: slice, columns: slice, *, elsewhere: float = 0.0) -> np.ndarray:
    values = np.full((GRID, GRID), elsewhere, dtype=np.float32)
    values[rows, columns] = value
    return values


def region(finding: str, geometry: Any) -> Region:
    return Region(finding=finding, image="i", geometry=geometry)


def test_the_threshold_is_the_one_with_the_best_mean_dice() -> None:
    rng = np.random.default_rng(0)
    prompted = Prompted(texts={"mass": ("There is a mass.",)})
    curves = Curves(prompted=prompted)
    pairs = []
    for number in range(4):
        values = rng.normal(0.0, 0.1, size=(GRID, GRID)).astype(np.float32)
        values[2:5, 1:4] += 0.3 + 0.1 * number
        engine = Drawn({"There is a mass.": values})
        box = (4.0, 8.0, 16.0, 20.0)
        curves.look(engine, FEATURES, PLACEMENT, [region("mass", box), region("hernia", box)])  # type: ignore[arg-type]
        truth = np.zeros((SIDE, SIDE), dtype=bool)
        truth[8:20, 4:16] = True
        pairs.append((PLACEMENT.map_to_original(values), truth))
    found = curves.thresholds()
    assert set(found) == {"mass"}
    means = [np.mean([dice(values >= cosine, truth) for values, truth in pairs]) for cosine in COSINES]
    assert found["mass"].dice == pytest.approx(max(means))
    assert np.mean([dice(v >= found["mass"].threshold, t) for v, t in pairs]) == pytest.approx(max(means))
    assert (found["mass"].images, found["mass"].texts) == (4, ("There is a mass.",))
    assert 0.0 < found["mass"].threshold < 0.7


def test_what_has_no_sentence_is_not_looked_for() -> None:
    descriptors = load_descriptors()
    prompted = Prompted.of(("mass", "lungs", "knee"), descriptors, sides=False)
    assert dict(prompted.texts) == {"mass": ("There is a mass.",), "lungs": ANATOMY["lungs"]}
    sided = Prompted.of(("mass",), descriptors, sides=True).texts["mass"]
    assert len(sided) == 3
    assert "left" in sided[1]
    assert "right" in sided[2]


def test_a_finding_of_a_persons_own_file_has_no_sided_template() -> None:
    own: Any = SimpleNamespace(
        findings=("tin soldier",), of=lambda name, prompts: (SimpleNamespace(positive="There is a tin soldier."),)
    )
    assert Prompted.of(("tin soldier",), own, sides=True).texts["tin soldier"] == ("There is a tin soldier.",)
