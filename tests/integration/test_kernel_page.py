"""The page of measurements is written from result lines alone, and only between its markers."""

import json
from dataclasses import asdict

from PIL import Image

from benchmarks.kernel_page import BEGIN, END, NOTHING, PAGE, write_page
from benchmarks.line import Line

WHERE = {"device": "a machine", "commit": "abc", "date": "2026-01-01"}


def _write(folder, lines):
    for line in lines:
        with (folder / f"{line.benchmark}.jsonl").open("a") as file:
            file.write(json.dumps(asdict(line) | WHERE) + "\n")


def _saved(images, metric, value):
    case = f"{images}x{7 * images}x196x768 bf16 unit"
    return Line(benchmark="memory", case=case, metric=metric, value=value, unit="GiB")


def _timed(metric, value, ratio):
    return Line(
        benchmark="kernel",
        case="64x512x196x768 fp32 cpu",
        metric=metric,
        value=value,
        low=value / 2,
        high=value * 2,
        unit="s",
        baseline="published",
        ratio=ratio,
        threads=2,
    )


def _page(folder):
    page = folder / "kernel.md"
    page.write_text(f"before\n\n{BEGIN}\nold\n{END}\nafter\n")
    return page


def test_tables_and_pictures_come_from_the_newest_lines(tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    names = ("published saved", "chunked saved", "patches themselves")
    _write(results, [_saved(64 * step, name, step * 2.5) for step in (1, 4) for name in names])
    _write(results, [_timed("published time", 8.0, 1.0), _timed("chunked time", 4.0, 0.5)])
    _write(results, [_timed("chunked time", 2.0, 0.25)])
    page = _page(tmp_path)
    written = write_page(page, results)
    text = page.read_text()
    assert text.startswith("before\n\n" + BEGIN)
    assert text.endswith(END + "\nafter\n")
    assert "old" not in text
    assert "| 256x1792x196x768 | bf16 unit | 10 | 10 | 10 |" in text
    assert "| 64x512x196x768 | chunked | 2 (1 - 4) | 0.25 |" in text
    assert "4 (2 - 8)" not in text
    for name in ("memory", "time"):
        assert Image.open(written[name]).width > 500
        assert f"kernel-{name}.png" in text


def test_nothing_measured_is_said(tmp_path):
    page = _page(tmp_path)
    write_page(page, tmp_path)
    assert NOTHING in page.read_text()
    again = page.read_text()
    write_page(page, tmp_path)
    assert page.read_text() == again


def test_the_page_has_its_markers():
    text = PAGE.read_text()
    assert text.count(BEGIN) == text.count(END) == 1
    assert text.index(BEGIN) < text.index(END)
