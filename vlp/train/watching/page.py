"""A training run as a page and a picture, from the files of its folder; needs no torch and disturbs no running run."""

import base64
import io
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from jinja2 import Environment, StrictUndefined

from vlp.config import read_values
from vlp.errors import DataError
from vlp.train.folder import RunFolder, write_text
from vlp.train.watching.logbook import read_metrics, summary

TEMPLATE = Path(__file__).with_name("page.html")
PICTURE = "training.png"
_SMOOTH_FROM = 120
"""With more points than so many, the running mean stands before the values."""
_COLUMNS = 2
_WARNINGS = 20
"""Warnings of the log that the page repeats: the last ones."""
_LIGHT = {"page": "#ffffff", "ink": "#19202a", "soft": "#5b6775", "grid": "#e8ecf0", "mark": "#b45309"}
_DARK = {"page": "#171d24", "ink": "#e7ebf0", "soft": "#98a4b3", "grid": "#2b343f", "mark": "#fbbf24"}
_LIGHT_LINES = ("#0f766e", "#4f46e5", "#be185d", "#a16207", "#0369a1", "#4d7c0f")
_DARK_LINES = ("#2dd4bf", "#a5b4fc", "#f9a8d4", "#fde047", "#7dd3fc", "#bef264")


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One small plot over the steps of a run."""

    title: str
    columns: str
    """Which columns of `metrics.csv` it shows, as a regular expression."""
    scale: float = 1.0
    from_zero: bool = False
    logarithmic: bool = False
    reference: float | None = None
    """Where a dashed line stands: the value of chance."""
    smooth: bool = True
    """Whether single steps differ by chance, so that their mean says more."""
    summed: bool = False
    """Counts of single steps, shown as their sum so far; and not shown while that is 0."""


PANELS = (
    Panel(title="Loss", columns=r"loss(_.*)?"),
    Panel(title="Zero-shot AUROC, macro", columns="zero_shot_auroc", reference=0.5),
    Panel(title="Learning rate", columns="lr", from_zero=True, smooth=False),
    Panel(title="Gradient norm before clipping", columns="gradient_norm", logarithmic=True),
    Panel(title="Temperature", columns=r"(.*_)?temperature.*", smooth=False),
    Panel(title="Images per second", columns="images_per_s", from_zero=True),
    Panel(title="Waiting for data, % of the step", columns="data_wait", scale=100.0, from_zero=True),
    Panel(title="Memory, GB", columns="memory_gb", from_zero=True, smooth=False),
    Panel(
        title="Special pairs, %",
        columns=r"collisions|ignored|contradictions|shared_pairs",
        scale=100.0,
        from_zero=True,
    ),
    Panel(title="Steps left out, studies replaced", columns=r"skipped|replaced", smooth=False, summed=True),
)
"""What is drawn, in this order; a column that fits none gets a plot of its own."""
_NOT_DRAWN = ("step", "epoch")


@dataclass(frozen=True, slots=True)
class Line:
    """A column of `metrics.csv` where it has finite values."""

    name: str
    steps: Float[np.ndarray, " point"]
    values: Float[np.ndarray, " point"]


def draw(run: Path, *, name: str = "report") -> dict[str, Any]:
    """Draws the run: training.png, and the page `name`.html with everything inside.

    Args:
        run: the folder of a run, finished or not.
        name: of the page, where another page has the usual name.

    Returns:
        The facts of `summary`, and where page and picture lie.

    Raises:
        DataError: if the folder holds no training run, or one without a step, or cannot be written.
    """
    folder = RunFolder(run)
    rows = read_metrics(folder.metrics)
    if not rows:
        raise DataError(f"{run}: holds no training run with a step in it (metrics.csv); run `vlp train` first")
    starts = read_metrics(folder.run / "starts.csv")
    plots = arrange(lines_of(rows))
    restarts = sorted({int(start["step"]) for start in starts if int(start["step"]) > 0})
    light, dark = (_picture(plots, restarts, dark=dark) for dark in (False, True))
    page, picture = run / f"{name}.html", run / PICTURE
    facts = summary(run)
    settings = read_values(folder.config) if folder.config.is_file() else {}
    text = _html(
        title=f"{run.name or 'vlp'}: training",
        cards=_cards(facts, settings),
        facts=_facts(facts, settings),
        starts=starts,
        restarts=restarts,
        warnings=_warnings(run / "log.txt"),
        light=base64.b64encode(light).decode("ascii"),
        dark=base64.b64encode(dark).decode("ascii"),
        drawn=", ".join(panel.title for panel, _ in plots),
        updates=rows[-1]["step"],
    )
    try:
        temporary = picture.with_name(f".{picture.name}.partial")
        temporary.write_bytes(light)
        os.replace(temporary, picture)
        write_text(page, text)
    except OSError as error:
        raise DataError(f"{run}: the page cannot be written: {error.strerror or error}") from None
    return {**facts, "page": str(page), "picture": str(picture)}


def lines_of(rows: Sequence[Mapping[str, str]]) -> list[Line]:
    """The columns of `metrics.csv` that have a finite number somewhere, in order."""
    steps = np.array([float(row["step"]) for row in rows])
    lines = []
    for name in rows[0]:
        values = np.array([_number(row[name]) for row in rows])
        known = np.isfinite(values)
        if name not in _NOT_DRAWN and known.any():
            lines.append(Line(name, steps[known], values[known]))
    return lines


def arrange(lines: Sequence[Line]) -> list[tuple[Panel, list[Line]]]:
    """Which lines stand in which plot; plots without a line are left out."""
    left = list(lines)
    plots = []
    for panel in PANELS:
        chosen = [line for line in left if re.fullmatch(panel.columns, line.name)]
        left = [line for line in left if line not in chosen]
        if panel.summed:
            summed = [Line(line.name, line.steps, np.cumsum(line.values)) for line in chosen]
            chosen = [line for line in summed if line.values[-1] > 0]
        if chosen:
            plots.append((panel, chosen))
    return plots + [(Panel(title=line.name.replace("_", " "), columns=line.name), [line]) for line in left]


def running_mean(values: Float[np.ndarray, " point"], reach: int) -> Float[np.ndarray, " point"]:
    """Each value replaced by the mean of itself and up to `reach` values on either side."""
    sums = np.concatenate(([0.0], np.cumsum(values)))
    places = np.arange(len(values))
    first, last = np.maximum(places - reach, 0), np.minimum(places + reach + 1, len(values))
    mean: np.ndarray = (sums[last] - sums[first]) / (last - first)
    return mean


def _picture(plots: Sequence[tuple[Panel, Sequence[Line]]], restarts: Sequence[int], *, dark: bool) -> bytes:
    """All plots as one PNG."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    colours, lines = (_DARK, _DARK_LINES) if dark else (_LIGHT, _LIGHT_LINES)
    height = -(-len(plots) // _COLUMNS)
    with rc_context({"agg.path.chunksize": 10_000, "font.size": 9.0}):
        figure = Figure(figsize=(11.0, 2.5 * height), layout="constrained", facecolor=colours["page"])
        axes = figure.subplots(height, _COLUMNS, squeeze=False).ravel()
        first = min(line.steps[0] for _, chosen in plots for line in chosen)
        last = max(line.steps[-1] for _, chosen in plots for line in chosen)
        for place, (panel, chosen) in zip(axes, plots, strict=False):
            _plot(place, panel, chosen, restarts=restarts, colours=colours, palette=lines)
            place.set_xlim(first - 0.01 * (last - first) - 0.5, last + 0.01 * (last - first) + 0.5)
        for place in axes[max(0, len(plots) - _COLUMNS) : len(plots)]:
            place.set_xlabel("step", color=colours["soft"])
        for place in axes[len(plots) :]:
            place.set_axis_off()
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=115, metadata={"Software": None})
    return content.getvalue()


def _plot(
    axes: Any,
    panel: Panel,
    lines: Sequence[Line],
    *,
    restarts: Sequence[int],
    colours: Mapping[str, str],
    palette: Sequence[str],
) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    for number, line in enumerate(lines):
        colour = palette[number % len(palette)]
        values = line.values * panel.scale
        if panel.smooth and len(values) > _SMOOTH_FROM:
            axes.plot(line.steps, values, color=colour, alpha=0.25, linewidth=0.7)
            values = running_mean(values, len(values) // 80)
        marker = "o" if len(values) <= _SMOOTH_FROM // 4 else None
        label = line.name.replace("_", " ")
        axes.plot(line.steps, values, color=colour, linewidth=1.6, marker=marker, markersize=3, label=label)
    for step in restarts:
        axes.axvline(step, color=colours["mark"], linewidth=1, linestyle=":")
    if panel.reference is not None:
        axes.axhline(panel.reference, color=colours["mark"], linewidth=1, linestyle="--")
    if panel.logarithmic and all((line.values > 0).all() for line in lines):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    if panel.from_zero:
        axes.set_ylim(bottom=0.0)
    _dress(axes, panel, colours)
    if len(lines) > 1:
        axes.legend(
            loc="lower right", bbox_to_anchor=(1.0, 0.99), ncols=3, fontsize=8, frameon=False, handlelength=1.2,
            columnspacing=1.0, labelcolor=colours["soft"],
        )  # fmt: skip


def _dress(axes: Any, panel: Panel, colours: Mapping[str, str]) -> None:
    axes.set_title(panel.title, loc="left", fontsize=10, fontweight="bold", color=colours["ink"])
    axes.set_facecolor(colours["page"])
    axes.grid(color=colours["grid"], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=colours["soft"], which="both", length=0)
    for side in axes.spines.values():
        side.set_visible(False)


def _html(**content: Any) -> str:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(**content)


def _cards(facts: Mapping[str, Any], settings: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The figures people look for first: name, value, and what goes with it."""
    of = f"of {settings['max_steps']}" if "max_steps" in settings else ""
    cards = [("Steps", str(facts["steps"]), f"{of}, {'finished' if facts['finished'] else 'not finished'}".strip(", "))]
    wanted = (
        ("Loss", "loss", "{:.3f}", "of the last step"),
        ("Zero-shot AUROC", "zero_shot_auroc", "{:.3f}", "macro over findings, last check; chance: 0.500"),
        ("Speed", "images_per_s", "{:.0f}", "images per second, median step"),
        ("Waiting for data", "data_wait", "{:.1%}", "mean share of a step"),
    )
    for title, name, form, note in wanted:
        if facts.get(name) is not None:
            cards.append((title, form.format(facts[name]), note))
    return cards


def _facts(facts: Mapping[str, Any], settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Everything else in words: what the run came to, and the settings that decide most."""
    wanted = ("model.image.name", "model.image.kind", "model.text.path", "model.text.kind", "model.preprocess.size",
              "model.scorer.kind", "objective.kind", "loader.batch_studies", "devices", "nodes", "optimizer.lr",
              "schedule.warmup_steps", "precision", "micro_batch", "seed", "shards")  # fmt: skip
    chosen = [(key, _at(settings, key)) for key in wanted]
    return [
        *((name.replace("_", " "), str(value)) for name, value in facts.items() if value is not None),
        *((key, str(value)) for key, value in chosen if value is not None),
    ]


def _warnings(path: Path) -> list[str]:
    """The last warnings and errors of the log."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line for line in lines if re.match(r"\S+ \S+ [WE] ", line)][-_WARNINGS:]


def _at(settings: Any, key: str) -> Any:
    for part in key.split("."):
        settings = settings.get(part) if isinstance(settings, Mapping) else None
    return settings


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return float("nan")
