"""Pictures of answers: maps laid over the radiograph they belong to, with their scale, mask, box and peak.

The files hold no metadata and no identifiers; the texts are drawn as they are, never interpreted.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vlp.errors import DataError
from vlp.inference.ground import Grounding, strongest_text
from vlp.inference.lungs import LungField

_OPACITY = 0.45
_PANEL_INCHES = 4.6
_NOTE = "AI output, research use, not a medical device"
_LUNGS_COLOUR = "#56b4e9"
_LABELS = {"cosine": "cosine similarity", "segmentation score": "segmentation score, not a probability"}
_COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#cc79a7", "#d55e00", "#0072b2")
"""Distinguishable with any colour vision (Okabe and Ito)."""


def write_overlay(
    path: Path,
    pixels: UInt8[np.ndarray, "rows columns"],
    answers: Sequence[Grounding],
    *,
    combined: bool = False,
    lungs: LungField | None = None,
) -> None:
    """Draws the image and beside it one panel per answer; written whole or not at all.

    A panel shows the map with a bar in its units, the mask's outline, its boxes, that of the peak in full lines, and
    the peak; where nothing reaches the threshold it shows the bare image and says so.

    Args:
        path: the PNG.
        pixels: the image the answers are about.
        answers: at least one.
        combined: adds a panel that gives each pixel to the text with the highest cosine there.
        lungs: drawn as a dotted outline.

    Raises:
        DataError: if the file cannot be written.
    """
    # An own figure with its own canvas: no global state of pyplot, no display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = 1 + len(answers) + int(combined)
    height = _PANEL_INCHES * min(2.0, max(0.5, pixels.shape[0] / pixels.shape[1])) + 0.9
    figure = Figure(figsize=(_PANEL_INCHES * panels, height), dpi=110, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels)
    for axis in axes:
        axis.imshow(pixels, cmap="gray", vmin=0, vmax=255, extent=_extent(pixels), interpolation="nearest")
        axis.set_xticks([])
        axis.set_yticks([])
    axes[0].set_title("image", fontsize=9)
    for axis, answer in zip(axes[1:], answers, strict=False):
        _draw_answer(figure, axis, answer)
    if lungs is not None:
        for axis in axes[: 1 + len(answers)]:
            _draw_outline(axis, lungs.mask, color=_LUNGS_COLOUR, style="dotted")
    if combined:
        _draw_combined(axes[-1], tuple(answers))
    figure.supxlabel(_NOTE, fontsize=8)
    _save(figure, path)


def _draw_answer(figure: Any, axis: Any, answer: Grounding) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    scale = ScalarMappable(Normalize(np.nanmin(answer.map), np.nanmax(answer.map)), cmap="viridis")
    bar = figure.colorbar(scale, ax=axis, shrink=0.75, pad=0.02, alpha=_OPACITY)
    bar.set_label(_LABELS[answer.quantity], fontsize=8)
    bar.ax.tick_params(labelsize=7)
    bar.ax.axhline(answer.threshold, color="red", linewidth=1.2)
    axis.set_title(f"{_wrapped(answer.text)}\n{_place(answer)}", fontsize=9, parse_math=False)
    if not answer.mask.any():
        return
    axis.imshow(
        answer.map,
        norm=scale.norm,
        cmap=scale.cmap,
        alpha=_OPACITY,
        extent=_extent(answer.map),
        interpolation="nearest",
    )
    _draw_outline(axis, answer.mask, color="white", style="solid")
    for box in answer.boxes:
        _draw_box(axis, box, style="solid" if box == answer.box else "dashed")
    if answer.peak is not None:
        axis.plot(*answer.peak, marker="+", color="red", markersize=11, markeredgewidth=1.6)


def _draw_outline(axis: Any, mask: np.ndarray, *, color: str, style: str) -> None:
    if mask.any() and not mask.all():
        xs, ys = np.arange(mask.shape[1]) + 0.5, np.arange(mask.shape[0]) + 0.5
        axis.contour(xs, ys, mask.astype(float), levels=[0.5], colors=color, linestyles=style, linewidths=0.9)


def _draw_box(axis: Any, box: tuple[float, float, float, float], *, style: str) -> None:
    from matplotlib.patches import Rectangle

    left, top, right, bottom = box
    axis.add_patch(
        Rectangle((left, top), right - left, bottom - top, fill=False, color="red", linewidth=1.4, linestyle=style)
    )


def _draw_combined(axis: Any, answers: tuple[Grounding, ...]) -> None:
    from matplotlib.colors import to_rgba
    from matplotlib.patches import Patch

    chosen = strongest_text(answers)
    colours = [_COLOURS[index % len(_COLOURS)] for index in range(len(answers))]
    picture = np.zeros((*chosen.shape, 4))
    for index, colour in enumerate(colours):
        picture[chosen == index] = to_rgba(colour, _OPACITY)
    axis.imshow(picture, extent=_extent(chosen), interpolation="nearest")
    axis.set_title("text with the highest cosine", fontsize=9)
    patches = [Patch(color=colour) for colour in colours]
    legend = axis.legend(patches, [_wrapped(answer.text) for answer in answers], loc="lower left", fontsize=7)
    for entry in legend.get_texts():
        entry.set_parse_math(False)


def _extent(values: np.ndarray) -> tuple[float, float, float, float]:
    # Pixel edges at whole numbers, so that boxes and peaks lie where their numbers say.
    return (0.0, float(values.shape[1]), float(values.shape[0]), 0.0)


def _place(answer: Grounding) -> str:
    if not answer.mask.any():
        return "no region above the threshold"
    inside = answer.where.lung_share
    parts = [answer.where.words or "no one side or zone", f"{answer.where.area_share:.1%} of the image"]
    return ", ".join(parts if inside is None else [*parts, f"{inside:.0%} of it in the lungs"])


def _wrapped(text: str) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, width=44)[:4])


def _save(figure: Any, path: Path) -> None:
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        figure.savefig(partial, format="png", metadata={"Software": None})
        os.replace(partial, path)
    except OSError as error:
        raise DataError(f"{path}: cannot write the picture: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)


def save_maps(path: Path, answers: Sequence[Grounding]) -> None:
    """Writes the maps as one float32 array [text rows columns] in numpy's own format, whole or not at all.

    Raises:
        DataError: if the file cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        with partial.open("wb") as file:
            np.save(file, np.stack([answer.map for answer in answers]), allow_pickle=False)
        os.replace(partial, path)
    except OSError as error:
        raise DataError(f"{path}: cannot write the maps: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)
