"""Small figures as inline SVG that take their colours from the page, so that they work in light and in dark."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from vlp.evaluate.results import Result

WIDTH = 220
_PAD = 8
_ROW = 22


class Scale(NamedTuple):
    """From values to horizontal pixels of an interval figure."""

    low: float
    high: float

    def x(self, value: float) -> float:
        """Pixel of a value; what lies outside is drawn at the edge."""
        share = (value - self.low) / (self.high - self.low)
        return _PAD + min(1.0, max(0.0, share)) * (WIDTH - 2 * _PAD)

    def ticks(self) -> list[float]:
        """Round values to draw lines at."""
        span = self.high - self.low
        step = next(size for size in (0.05, 0.1, 0.2, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 1e9) if span / size <= 6)
        first = int(self.low / step + 0.999999)
        return [round(index * step, 6) for index in range(first, int(self.high / step + 1e-9) + 1)]


def scale_for(results: Sequence[Result], *, low: float, high: float = 1.0) -> Scale:
    """A scale from `low`, or further down in steps of a tenth if an interval starts below it, to `high`."""
    lowest = min(
        (row.low if row.low is not None else row.value for row in results if row.value is not None), default=low
    )
    assert lowest is not None
    while low > lowest and low > 0.05:
        low = round(low - 0.1, 6)
    return Scale(max(low, 0.0), high)


def axis(scale: Scale) -> str:
    """The numbers that stand above a column of interval figures."""
    labels = "".join(
        f'<text x="{scale.x(tick):.1f}" y="12" text-anchor="middle">{tick:g}</text>' for tick in scale.ticks()
    )
    return f'<svg class="axis" width="{WIDTH}" height="16" viewBox="0 0 {WIDTH} 16" aria-hidden="true">{labels}</svg>'


def interval(row: Result | None, scale: Scale, *, reference: float | None = None, macro: bool = False) -> str:
    """One line of a forest plot: grid, reference, interval and value; only the grid where the value is undefined.

    Args:
        row: what is drawn.
        scale: shared by all lines of the plot.
        reference: where a dashed line stands: the value of chance.
        macro: draws a diamond instead of a dot.
    """
    middle = _ROW / 2
    parts = [_upright(scale.x(tick), "grid") for tick in scale.ticks()]
    if reference is not None:
        parts.append(_upright(scale.x(reference), "reference"))
    label = "undefined"
    if row is not None and row.value is not None:
        label = row.text
        x = scale.x(row.value)
        if row.low is not None and row.high is not None:
            ends = f'x1="{scale.x(row.low):.1f}" x2="{scale.x(row.high):.1f}" y1="{middle}" y2="{middle}"'
            parts.append(f'<line class="whisker" {ends}/>')
        if macro:
            points = f"{x - 6:.1f},{middle} {x:.1f},{middle - 6} {x + 6:.1f},{middle} {x:.1f},{middle + 6}"
            parts.append(f'<polygon class="point" points="{points}"/>')
        else:
            parts.append(f'<circle class="point" cx="{x:.1f}" cy="{middle}" r="4"/>')
    return _svg("forest", WIDTH, _ROW, label, parts)


def curve(points: Sequence[tuple[float, float]], *, title: str, smooth: int = 1) -> str:
    """A line over training steps; with `smooth` > 1 the raw values stay faint behind their running mean."""
    width, height, left, bottom, top, right = 420, 210, 52, 28, 30, 14
    xs, ys = [x for x, _ in points], [y for _, y in points]
    x_low, x_high = min(xs), max(max(xs), min(xs) + 1)
    ticks = _nice_ticks(min(ys), max(ys))
    y_low, y_high = min(ticks[0], min(ys)), max(ticks[-1], max(ys))

    def place(x: float, y: float) -> str:
        across = left + (x - x_low) / (x_high - x_low) * (width - left - right)
        down = height - bottom - (y - y_low) / (y_high - y_low) * (height - bottom - top)
        return f"{across:.1f},{down:.1f}"

    parts = [f'<text class="title" x="{left}" y="16">{escape(title)}</text>']
    for tick in ticks:
        down = place(x_low, tick).split(",")[1]
        parts.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{down}" y2="{down}"/>')
        parts.append(f'<text x="{left - 7}" y="{float(down) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for x in (x_low, x_high):
        across = place(x, y_low).split(",")[0]
        anchor = "start" if x == x_low else "end"
        parts.append(f'<text x="{across}" y="{height - 9}" text-anchor="{anchor}">step {x:g}</text>')
    raw = " ".join(place(x, y) for x, y in points)
    if smooth > 1:
        parts.append(f'<polyline class="raw" points="{raw}"/>')
        raw = " ".join(place(x, y) for x, y in running_mean(points, smooth))
    parts.append(f'<polyline class="line" points="{raw}"/>')
    return _svg("curve", width, height, title, parts)


def reliability(before: Sequence[tuple[float, float, int]], after: Sequence[tuple[float, float, int]]) -> str:
    """Share of positives over mean probability; points by number of rows, of the raw score behind the calibrated one.

    Args:
        before: (predicted, observed, rows) of every bin of the uncalibrated score.
        after: the same of the probability.
    """
    frame = _Frame(height=300, bottom=40)
    parts = frame.parts("reliability", across="predicted", down="observed", ticks=(0.0, 0.25, 0.5, 0.75, 1.0))
    parts.append(f'<polyline class="reference" fill="none" points="{frame.place(0, 0)} {frame.place(1, 1)}"/>')
    for name, points in (("before", before), ("after", after)):
        total = sum(rows for _, _, rows in points) or 1
        path = " ".join(frame.place(x, y) for x, y, _ in points)
        parts.append(f'<polyline class="line {name}" points="{path}"/>')
        for x, y, rows in points:
            across, down = frame.place(x, y).split(",")
            parts.append(
                f'<circle class="dot {name}" cx="{across}" cy="{down}" r="{2 + 14 * (rows / total) ** 0.5:.1f}"/>'
            )
    for offset, (name, words) in enumerate(
        (("before", "similarity, uncalibrated"), ("after", "probability, calibrated"))
    ):
        y = frame.top + 14 + 16 * offset
        parts.append(f'<circle class="dot {name}" cx="{frame.left + 12}" cy="{y}" r="5"/>')
        parts.append(f'<text x="{frame.left + 24}" y="{y + 4}">{words}</text>')
    return _svg("curve", frame.width, frame.height, "reliability plot", parts)


def risk_coverage(points: Sequence[tuple[float, float]]) -> str:
    """Error rate over the share of rows that is answered, the most confident first."""
    highest = max((risk for _, risk in points), default=0.0)
    ticks = _nice_ticks(0.0, max(highest, 0.01))
    frame = _Frame(height=300, bottom=40, y_high=max(ticks[-1], highest))
    parts = frame.parts("risk and coverage", across="share answered", down="share wrong", ticks=ticks)
    parts.append(f'<polyline class="line" points="{" ".join(frame.place(x, y) for x, y in points)}"/>')
    return _svg("curve", frame.width, frame.height, "risk-coverage curve", parts)


class _Frame(NamedTuple):
    """A plot from 0 to 1 across and from 0 to `y_high` up."""

    height: int
    bottom: int
    y_high: float = 1.0
    width: int = 420
    left: int = 52
    right: int = 14
    top: int = 30

    def place(self, x: float, y: float) -> str:
        """Where a point is drawn, as "x,y" in pixels."""
        across = self.left + x * (self.width - self.left - self.right)
        down = self.height - self.bottom - y / self.y_high * (self.height - self.bottom - self.top)
        return f"{across:.1f},{down:.1f}"

    def parts(self, title: str, *, across: str, down: str, ticks: Sequence[float]) -> list[str]:
        """Title, grid, ticks and the names of the axes."""
        parts = [f'<text class="title" x="{self.left}" y="16">{escape(title)}</text>']
        for tick in ticks:
            y = self.place(0, tick).split(",")[1]
            parts.append(f'<line class="grid" x1="{self.left}" x2="{self.width - self.right}" y1="{y}" y2="{y}"/>')
            parts.append(f'<text x="{self.left - 7}" y="{float(y) + 4:.1f}" text-anchor="end">{tick:g}</text>')
        for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
            x = self.place(tick, 0).split(",")[0]
            parts.append(f'<text x="{x}" y="{self.height - self.bottom + 15}" text-anchor="middle">{tick:g}</text>')
        middle = (self.left + self.width - self.right) / 2
        parts.append(f'<text x="{middle:.0f}" y="{self.height - 7}" text-anchor="middle">{escape(across)}</text>')
        upright = (self.top + self.height - self.bottom) / 2
        turned = f'transform="rotate(-90 12 {upright:.0f})"'
        parts.append(f'<text x="12" y="{upright:.0f}" text-anchor="middle" {turned}>{escape(down)}</text>')
        return parts


def running_mean(points: Sequence[tuple[float, float]], width: int) -> list[tuple[float, float]]:
    """Each value replaced by the mean of itself and up to `width` - 1 values before it."""
    means = []
    for index, (x, _) in enumerate(points):
        window = [y for _, y in points[max(0, index - width + 1) : index + 1]]
        means.append((x, sum(window) / len(window)))
    return means


def _nice_ticks(low: float, high: float) -> list[float]:
    span = max(high - low, 1e-9)
    magnitude: float = 10.0 ** int(f"{span:e}".split("e")[1])
    step = next(magnitude * part for part in (0.1, 0.2, 0.25, 0.5, 1.0, 2.0, 5.0) if span / (magnitude * part) <= 5)
    first = int(low // step)
    count = int(-(-(high - first * step) // step)) + 1
    return [round((first + index) * step, 10) for index in range(max(2, count))]


def _upright(x: float, name: str) -> str:
    return f'<line class="{name}" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{_ROW}"/>'


def _svg(name: str, width: int, height: int, label: str, parts: Sequence[str]) -> str:
    return (
        f'<svg class="{name}" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(label, quote=True)}">{"".join(parts)}</svg>'
    )
