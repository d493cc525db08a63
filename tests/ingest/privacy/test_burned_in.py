import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.privacy import LINES, STYLES, draw_line, measure_images
from vlp.ingest.phantom.source import PhantomSource
from vlp.ingest.privacy.burned_in import find_text


@pytest.fixture(scope="module")
def phantoms() -> list[np.ndarray]:
    source = PhantomSource(patients=6, size_px=448)
    return [pixels for unit in source.units() for item in source.load(unit) for pixels in item.pixels][:8]


def test_images_without_text(phantoms):
    assert [find_text(pixels) for pixels in phantoms] == [()] * len(phantoms)


@pytest.mark.parametrize("style", STYLES[:3])
def test_drawn_lines_are_found_where_they_are(phantoms, style):
    found = 0
    for index, pixels in enumerate(phantoms):
        drawn = draw_line(
            pixels, LINES[index], height_px=8 + index, style=style, font=index % 4, place=(0.1 * index, 0.02)
        )
        changed_rows, changed_columns = np.nonzero(drawn != pixels)
        boxes = find_text(drawn)
        found += bool(boxes)
        for x0, y0, x1, y1 in boxes:
            assert changed_columns.min() - 4 <= x0 < x1 <= changed_columns.max() + 5
            assert changed_rows.min() - 4 <= y0 < y1 <= changed_rows.max() + 5
    assert found >= len(phantoms) - 1


@pytest.mark.parametrize("text", ["L", "R", "AP", "PA", "PORTABLE", "AP PORTABLE", "SUPINE", "UPRIGHT"])
def test_marks_that_name_nobody(phantoms, text):
    for pixels in phantoms[1:4]:
        assert not find_text(draw_line(pixels, text, height_px=12, style="bright", font=0, place=(0.9, 0.03)))


@pytest.mark.parametrize("text", ["PORTABLE ADLER", "ADLER, J PORTABLE", "WRIGHTSON", "STANDFORD"])
def test_names_beside_or_like_them_count(phantoms, text):
    assert find_text(draw_line(phantoms[0], text, height_px=12, style="bright", font=0, place=(0.5, 0.03)))


def test_the_middle_does_not_count(phantoms):
    line = {"height_px": 12, "style": "boxed", "font": 0}
    assert not find_text(draw_line(phantoms[0], "ADLER, J", place=(0.5, 0.5), **line))
    assert find_text(draw_line(phantoms[0], "ADLER, J", place=(0.5, 0.98), **line))


def test_large_images_are_looked_at_in_another_size(phantoms):
    large = cv2.resize(phantoms[0], (2240, 2240), interpolation=cv2.INTER_CUBIC)
    assert find_text(large) == ()
    drawn = draw_line(large, "MRN 00482913", height_px=50, style="bright", font=1, place=(0.0, 1.0))
    ((x0, y0, x1, y1),) = find_text(drawn)
    rows, columns = np.nonzero(np.abs(drawn.astype(int) - large) > 40)
    assert (x0, y0) == pytest.approx((columns.min(), rows.min()), abs=16)
    assert y1 == pytest.approx(rows.max(), abs=16)
    assert 0.8 * columns.max() < x1 < columns.max() + 16


@pytest.mark.parametrize("shape", [(1, 1), (5, 300), (30, 30)])
def test_tiny_and_plain_images(shape):
    assert find_text(np.zeros(shape, dtype=np.uint8)) == ()
    assert isinstance(find_text(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)), tuple)


@pytest.mark.real_data
def test_real_radiographs_that_no_limit_was_chosen_on():
    data = Path(os.environ.get("VLP_SHARED_DATA", "../shared/data"))
    if not (data / "manifest.jsonl").is_file():
        pytest.skip(f"no real radiographs under {data}: set VLP_SHARED_DATA to the folder of real data")
    result = measure_images(data, "held-out", every=4)
    flagged = {source: len(files) for source, files in result["flagged"].items()}
    assert result["images"].total() > 150
    assert flagged["nih-chestxray14"] / result["images"]["nih-chestxray14"] < 0.05
    assert result["found"].total() / result["drawn"].total() > 0.94
