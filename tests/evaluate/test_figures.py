import re
from xml.etree import ElementTree

import pytest

from vlp.evaluate.figures import Scale, axis, curve, interval, reliability, risk_coverage, running_mean, scale_for
from vlp.evaluate.results import Result


def row(value: float | None, low: float | None = None, high: float | None = None) -> Result:
    return Result(
        task="t", metric="m", finding="f", value=value, low=low, high=high, n_patients=1, n_positive=1, method=""
    )


def test_interval_is_drawn_where_the_numbers_are() -> None:
    scale = Scale(0.0, 1.0)
    root = ElementTree.fromstring(interval(row(0.75, 0.5, 1.0), scale, reference=0.5))
    whisker = next(line for line in root.iter("line") if line.get("class") == "whisker")
    assert float(whisker.get("x1")) == pytest.approx(scale.x(0.5), abs=0.1)
    assert float(whisker.get("x2")) == pytest.approx(scale.x(1.0), abs=0.1)
    assert float(next(root.iter("circle")).get("cx")) == pytest.approx(scale.x(0.75), abs=0.1)
    assert "0.750 [0.500, 1.000]" in root.get("aria-label")


def test_undefined_has_no_point_and_no_interval_no_whisker() -> None:
    assert "point" not in interval(row(None), Scale(0.0, 1.0))
    alone = interval(row(0.5), Scale(0.0, 1.0), macro=True)
    assert "polygon" in alone
    assert "whisker" not in alone


def test_scale_reaches_down_to_the_lowest_interval() -> None:
    assert scale_for([row(0.8, 0.7, 0.9)], low=0.4).low == 0.4
    assert scale_for([row(0.5, 0.23, 0.9)], low=0.4).low == pytest.approx(0.2)
    assert scale_for([], low=0.4).low == 0.4
    assert Scale(0.4, 1.0).ticks() == pytest.approx([0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]) or Scale(
        0.4, 1.0
    ).ticks() == pytest.approx([0.4, 0.6, 0.8, 1.0])
    assert "0.6" in axis(Scale(0.4, 1.0))


def test_curve_goes_down_where_values_do() -> None:
    svg = curve([(1, 4.0), (2, 2.0), (3, 1.0)], title="loss & <more>")
    root = ElementTree.fromstring(svg)
    assert next(root.iter("text")).text == "loss & <more>"
    points = re.findall(r"[\d.]+", next(root.iter("polyline")).get("points"))
    heights = [float(y) for y in points[1::2]]
    assert heights == sorted(heights)


@pytest.mark.parametrize("values", [[0.0, 0.0], [1e-9, 2e-9], [1e6, 2e7], [-3.0, 2.0]])
def test_curves_of_any_size_stay_inside(values: list[float]) -> None:
    root = ElementTree.fromstring(curve(list(enumerate(values)), title="x"))
    points = [float(number) for number in re.findall(r"-?[\d.]+", next(root.iter("polyline")).get("points"))]
    assert all(0 <= x <= 420 for x in points[0::2])
    assert all(0 <= y <= 210 for y in points[1::2])


def test_running_mean_looks_back_only() -> None:
    assert running_mean([(0, 1.0), (1, 3.0), (2, 5.0)], 2) == [(0, 1.0), (1, 2.0), (2, 4.0)]


def test_points_of_a_reliability_plot_lie_where_they_should() -> None:
    drawn = reliability([(0.5, 0.25, 10)], [(0.0, 0.0, 90), (1.0, 1.0, 10)])
    dots = re.findall(r'<circle class="dot (\w+)" cx="([\d.]+)" cy="([\d.]+)" r="([\d.]+)"', drawn)
    before, low, high = (tuple(map(float, dot[1:])) for dot in dots[:3])
    assert [dot[0] for dot in dots[:3]] == ["before", "after", "after"]
    assert low[0] < before[0] < high[0]
    assert before[0] == pytest.approx((low[0] + high[0]) / 2)
    assert before[1] == pytest.approx(low[1] + (high[1] - low[1]) / 4)
    assert low[2] > high[2], "more studies, larger point"
    assert "NaN" not in reliability([], [])


def test_a_risk_curve_falls_to_the_right_of_nothing() -> None:
    drawn = risk_coverage([(0.5, 0.0), (1.0, 0.2)])
    path = re.search(r'<polyline class="line" points="([^"]+)"', drawn)
    assert path is not None
    (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in path.group(1).split())
    assert x0 < x1
    assert y1 < y0, "a higher risk is drawn higher up"
    assert risk_coverage([]).startswith("<svg")
