import numpy as np
import pytest

from benchmarks.privacy import draw_line
from vlp.ingest.privacy.harmless import WORDS, likeness


def _drawn(
    text: str, *, font: int, style: str, height_px: int = 14
) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """A noisy grey image with the text, and the box of its letters."""
    pixels = np.random.default_rng(0).normal(90, 3, (120, 360)).astype(np.uint8)
    drawn = draw_line(pixels, text, height_px=height_px, style=style, font=font, place=(0.3, 0.4))
    rows, columns = np.nonzero(np.abs(drawn.astype(int) - pixels) > 60)
    return drawn, (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


@pytest.mark.parametrize("word", ["PORTABLE", "SUPINE", "ERECT", "UPRIGHT", "AP ERECT"])
@pytest.mark.parametrize("style", ["bright", "dark"])
def test_its_words_are_known(word, style):
    assert word in WORDS
    assert likeness(*_drawn(word, font=0, style=style)) > 0.7


@pytest.mark.parametrize("word", ["DOE^JANE", "MARTINEZ", "00482913", "SMITHSON", "WILLIAMS", "KOWALSKA", "02/03/61"])
@pytest.mark.parametrize("font", [0, 1, 2])
def test_others_are_not(word, font):
    assert likeness(*_drawn(word, font=font, style="bright")) < 0.6


def test_words_of_another_length_have_no_likeness():
    assert likeness(*_drawn("PORTABLE ADLER JANE 00482913", font=0, style="bright")) == 0.0


def test_nothing_at_all():
    assert likeness(np.full((50, 50), 7, dtype=np.uint8), (10, 10, 40, 18)) == 0.0
    assert likeness(np.zeros((50, 50), dtype=np.uint8), (0, 0, 2, 2)) == 0.0
