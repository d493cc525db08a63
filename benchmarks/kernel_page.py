"""Draws the pictures of docs/explanation/kernel.md and writes its tables, from the appended result lines.

    python -m benchmarks.kernel_page [--results benchmarks/results] [--page docs/explanation/kernel.md]

`benchmarks.memory --append` and `benchmarks.kernel --append` make the lines; the newest of every case is shown.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from benchmarks.line import RESULTS, newest
from benchmarks.turns import ROOT
from benchmarks.variants import Size
from vlp.cli.console import print_facts

PAGE = ROOT / "docs" / "explanation" / "kernel.md"
BEGIN = "<!-- measured: written by `python -m benchmarks.kernel_page` -->"
END = "<!-- end of what was measured -->"
NOTHING = (
    "Nothing has been measured yet: `python -m benchmarks.memory --append`, `python -m benchmarks.kernel --append`."
)

_COLOURS = {"published": "#D55E00", "chunked": "#0072B2", "fused": "#009E73", "reference": "#CC79A7"}
"""Okabe and Ito's, told apart by people who see fewer colours."""
_NAMES = {"published": "as published", "chunked": "chunked", "fused": "fused", "reference": "reference"}
_QUIET = "#666666"
_ON_WHITE = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
_CARD_GIB = 141e9 / 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One result line, its case taken apart."""

    size: Size
    setting: str
    """Type of numbers, device, and where the problem begins, as in the line."""
    metric: str
    line: dict[str, Any]

    @classmethod
    def read(cls, line: dict[str, Any]) -> Self:
        """The entry of a line of `benchmarks.kernel` or `benchmarks.memory`."""
        size, _, setting = line["case"].partition(" ")
        return cls(size=Size.parse(size), setting=setting, metric=line["metric"], line=line)

    @property
    def value(self) -> float:
        """The figure."""
        return float(self.line["value"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of result lines")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page; pictures go beside it")
    options = parser.parse_args()
    print_facts("written", write_page(options.page, options.results))


def write_page(page: Path, results: Path) -> dict[str, str]:
    """Rewrites what stands between the markers of the page and draws its pictures; returns what was written where."""
    saved = [Entry.read(line) for line in newest(results, benchmark="memory")]
    timed = [Entry.read(line) for line in newest(results, benchmark="kernel")]
    written, parts = {}, []
    if saved:
        written["memory"] = str(draw_saved(saved, page.with_name("kernel-memory.png")))
        parts += ["![Bytes kept against images](kernel-memory.png)", "\n".join(saved_table(saved))]
    if timed:
        written["time"] = str(draw_ratios(timed, page.with_name("kernel-time.png")))
        parts += ["![Time and memory against published](kernel-time.png)", "\n".join(timed_table(timed))]
    head, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    tail = rest.partition(END)[2]
    body = "\n\n".join(parts or [NOTHING])
    page.write_text(f"{head}{BEGIN}\n\n{body}\n\n{END}{tail}", encoding="utf-8")
    return written | {"page": str(page)}


def saved_table(entries: list[Entry]) -> Iterator[str]:
    """Markdown: GiB kept for the backward pass."""
    yield "| images x texts x patches x width | numbers | as published, GiB | ours, GiB | the patches themselves, GiB |"
    yield "| --- | --- | ---: | ---: | ---: |"
    for (size, setting), row in _by_case(entries).items():
        cells = (_shown(row.get(name)) for name in ("published saved", "chunked saved", "patches themselves"))
        yield f"| {size} | {setting} | " + " | ".join(cells) + " |"


def timed_table(entries: list[Entry]) -> Iterator[str]:
    """Markdown: seconds and megabytes of forward and backward."""
    yield ("| images x texts x patches x width | way | s (range) | / published | MB beyond inputs | / published | "
           "of GEMM rate | products | where |")  # fmt: skip
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |"
    for (size, setting), row in _by_case(entries).items():
        for variant in _NAMES:
            time = row.get(f"{variant} time")
            if time is None:
                continue
            peak, share = row.get(f"{variant} peak beyond inputs"), row.get(f"{variant} share of GEMM rate")
            cells = (
                f"{size}", _NAMES[variant], _with_range(time),
                _ratio(time), _shown(peak), _ratio(peak), _shown(share),
                _shown(row.get(f"{variant} products")),
                f"{setting}; {time.line['device']}, {time.line['threads']} threads, {time.line['date']}",
            )  # fmt: skip
            yield "| " + " | ".join(cells) + " |"


def draw_saved(entries: list[Entry], path: Path) -> Path:
    """Bytes kept against images: a panel for every kind of grid, a row for every setting."""
    grids = sorted({(entry.size.patches, entry.size.width) for entry in entries})
    settings = sorted({entry.setting for entry in entries})
    figure, panels = _figure(rows=len(settings), columns=len(grids), height=3.6 * len(settings))
    for row, setting in zip(panels, settings, strict=True):
        for axes, (patches, width) in zip(row, grids, strict=True):
            _draw_panel(axes, [e for e in entries if (e.size.patches, e.size.width) == (patches, width)
                               and e.setting == setting])  # fmt: skip
            axes.set_title(f"{patches:,} patches of width {width:,} an image, {setting}", fontsize=10)
        row[0].set_ylabel("kept for the backward pass, GiB")
    panels[0][0].legend(frameon=False, fontsize=8, loc="lower right")
    return _save(figure, path)


def _draw_panel(axes: Axes, entries: list[Entry]) -> None:
    axes.set(xscale="log", yscale="log", xlabel="images in the batch")
    axes.margins(x=0.1, y=0.1)
    axes.axhline(_CARD_GIB, color=_QUIET, linewidth=0.8, linestyle=":")
    axes.annotate("a card of 141 GB", (0.02, _CARD_GIB), xycoords=("axes fraction", "data"), xytext=(0, 3),
                  textcoords="offset points", fontsize=8, color=_QUIET)  # fmt: skip
    _draw_line(axes, entries, "patches themselves", "the patches themselves", _QUIET, marker="")
    _draw_line(axes, entries, "chunked saved", "ours", _COLOURS["chunked"], marker="s")
    _draw_line(axes, entries, "published saved", "as published", _COLOURS["published"], marker="o")
    images = sorted({entry.size.images for entry in entries})
    axes.set_xticks(images, [f"{count:,}" for count in images])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(base=10))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))


def _draw_line(axes: Axes, entries: list[Entry], metric: str, name: str, colour: str, *, marker: str) -> None:
    points = sorted((entry.size.images, entry.value) for entry in entries if entry.metric == metric)
    if not points:
        return
    style = "-" if marker else "--"
    axes.plot(*zip(*points, strict=True), marker=marker, linestyle=style, color=colour, label=name, markersize=5)
    for images, value in points if marker else ():
        axes.annotate(_figures(value), (images, value), xytext=(0, 7), textcoords="offset points",
                      ha="center", fontsize=8, color=colour, bbox=_ON_WHITE)  # fmt: skip


def draw_ratios(entries: list[Entry], path: Path) -> Path:
    """Time and peak memory of our ways over the published one, a bar for every size that has both."""
    bars = [
        (size, setting, variant, row[f"{variant} time"], row.get(f"{variant} peak beyond inputs"))
        for (size, setting), row in _by_case(entries).items()
        for variant in ("chunked", "fused")
        if f"{variant} time" in row and "published time" in row
    ]
    figure, ((left, right),) = _figure(rows=1, columns=2, height=1.3 + 0.34 * len(bars))
    for number, (_, _, variant, time, peak) in enumerate(bars):
        for axes, entry in ((left, time), (right, peak)):
            if entry is not None and entry.line["ratio"] is not None:
                ratio = entry.line["ratio"]
                axes.barh(number, ratio, height=0.65, color=_COLOURS[variant])
                text = f"{ratio:.2f}  ({_shown(entry)} {entry.line['unit']})"
                axes.annotate(text, (ratio, number), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8,
                              bbox=_ON_WHITE)  # fmt: skip
    labels = [f"{size}\n{_NAMES[variant]}, {setting}" for size, setting, variant, _, _ in bars]
    left.set_yticks(range(len(bars)), labels, fontsize=7)
    left.set_title("time, published = 1", fontsize=10)
    right.set_title("peak memory beyond inputs, published = 1", fontsize=10)
    for axes in (left, right):
        axes.axvline(1.0, color=_COLOURS["published"], linewidth=1.2)
        axes.set_xlim(0, max(1.6, 1.5 * max((t.line["ratio"] or 0.0 for _, _, _, t, _ in bars), default=1.0)))
        axes.tick_params(axis="y", length=0)
    if bars:
        left.set_ylim(len(bars) - 0.4, -0.6)
    return _save(figure, path)


def _by_case(entries: list[Entry]) -> dict[tuple[Size, str], dict[str, Entry]]:
    cases: dict[tuple[Size, str], dict[str, Entry]] = {}
    for entry in entries:
        cases.setdefault((entry.size, entry.setting), {})[entry.metric] = entry
    return cases


def _figure(*, rows: int, columns: int, height: float) -> tuple[Figure, list[list[Axes]]]:
    figure = Figure(figsize=(9.0, height), layout="constrained", facecolor="white")
    panels = [list(row) for row in figure.subplots(rows, columns, sharey=True, squeeze=False)]
    for axes in (axes for row in panels for axes in row):
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=110, metadata={"Software": None})
    return path


def _shown(entry: Entry | None) -> str:
    return "" if entry is None else _figures(entry.value)


def _with_range(entry: Entry) -> str:
    return f"{_shown(entry)} ({_figures(entry.line['low'])} - {_figures(entry.line['high'])})"


def _figures(value: float) -> str:
    """Three figures, large numbers in full."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _ratio(entry: Entry | None) -> str:
    return "" if entry is None or entry.line["ratio"] is None else f"{entry.line['ratio']:.2f}"


if __name__ == "__main__":
    main()
