from pathlib import Path

import numpy as np
from PIL import Image

from vlp.evaluate.explain import curves
from vlp.evaluate.explain.deletion import FILLS, SHARES, WAYS, Curves
from vlp.evaluate.explain.randomisation import Randomised


def _colors(path: Path) -> set[tuple[int, ...]]:
    with Image.open(path) as picture:
        assert min(picture.size) > 300
        return {color for _, color in picture.convert("RGB").getcolors(maxcolors=1 << 20)}


def test_every_order_has_its_line(tmp_path: Path) -> None:
    levels = {"map": 0.1, "random": 0.5, "moved": 0.9}
    values = {
        (way, fill, order): np.full((3, len(SHARES)), level)
        for way in WAYS
        for fill in FILLS
        for order, level in levels.items()
    }
    path = tmp_path / "deletion.png"
    curves.draw_deletion(Curves(values=values, patients=("a", "b", "c")), path)  # type: ignore[arg-type]
    assert {(0x0B, 0x6E, 0x99), (0x8A, 0x8A, 0x8A), (0xC0, 0x6C, 0x00)} <= _colors(path)


def test_levels_and_baseline_are_drawn(tmp_path: Path) -> None:
    names = ("heads", "heads and the top 1 of 2 layers", "everything")
    found = Randomised(
        levels=names,
        likeness={name: np.array([[0.9, 0.7], [0.4, 0.2], [-0.3, 0.1]]) for name in ("SSIM", "Spearman")},
        baseline={name: np.array([0.5, 0.6]) for name in ("SSIM", "Spearman")},
        patients=("a", "b"),
    )
    path = tmp_path / "randomisation.png"
    curves.draw_randomisation(found, path)
    assert {(0x0B, 0x6E, 0x99), (0x8A, 0x8A, 0x8A)} <= _colors(path)
