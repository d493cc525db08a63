"""Pictures of the tests that are curves: patches in and out, and maps while weights are shuffled."""

from pathlib import Path
from typing import Any

import numpy as np

from vlp.evaluate.explain.deletion import FILLS, SHARES, WAYS, Curves
from vlp.evaluate.explain.randomisation import Randomised

DELETION_FILE, RANDOMISATION_FILE = "deletion.png", "randomisation.png"
_STYLES = {"map": ("#0b6e99", "-"), "random": ("#8a8a8a", "--"), "moved": ("#c06c00", ":")}
_NAMES = {"map": "map's order", "random": "random order", "moved": "map moved elsewhere"}
_DPI = 120


def draw_deletion(curves: Curves, path: Path) -> None:
    """Mean similarity over cases, by share of patches: deletion above, insertion below, one column per fill."""
    figure, axes = _figure(len(WAYS), len(FILLS), height=5.6)
    for row, way in enumerate(WAYS):
        for column, fill in enumerate(FILLS):
            plot = axes[row, column]
            for order, (color, line) in _STYLES.items():
                values = curves.values[way, fill, order]  # type: ignore[index]
                plot.plot(100 * SHARES, values.mean(axis=0), line, color=color, label=_NAMES[order])
            plot.set_title(f"{way}, {'mean of the image' if fill == 'mean' else 'blurred image'}", fontsize=10)
            plot.set_xlabel("patches replaced, %" if way == "deletion" else "patches brought in, %")
            plot.set_ylabel("similarity")
    axes[0, 0].legend(fontsize=8, frameon=False)
    cases = len(curves.patients)
    figure.suptitle(f"Similarity while patches go and come, mean of {cases} images", fontsize=11)
    figure.savefig(path, dpi=_DPI)


def draw_randomisation(found: Randomised, path: Path) -> None:
    """Mean likeness to the trained model's map, level by level, and what two images' maps have in common."""
    figure, axes = _figure(1, len(found.likeness), height=3.6)
    for plot, (name, values) in zip(axes[0], found.likeness.items(), strict=True):
        places = np.arange(len(found.levels))
        plot.plot(places, values.mean(axis=1), "o-", color=_STYLES["map"][0], label="weights shuffled")
        plot.axhline(
            found.baseline[name].mean(), color=_STYLES["random"][0], linestyle="--", label="two images, trained model"
        )
        plot.set_xticks(places, [_short(level) for level in found.levels], fontsize=8)
        plot.set_ylim(min(-0.1, plot.get_ylim()[0]), 1.0)
        plot.set_title(f"{name} with the trained model's map", fontsize=10)
        plot.set_xlabel("shuffled, from the top down")
    axes[0, 0].legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=_DPI)


def _figure(rows: int, columns: int, *, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * columns, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for plot in axes.flat:
        plot.spines[["top", "right"]].set_visible(False)
        plot.grid(visible=True, color="#e6e6e6", linewidth=0.7)
    return figure, axes


def _short(level: str) -> str:
    """The name of a level in few letters: "+2 of 4" for the heads and the top 2 of 4 layers."""
    if level.startswith("heads and"):
        words = level.split()
        return f"+{words[4]} of {words[6]}"
    return "all" if level == "everything" else level
