from pathlib import Path

import cv2
import numpy as np
import pytest

from vlp.errors import DataError
from vlp.inference.picture import pixels_of


def test_a_file_and_its_pixels_are_the_same(tmp_path: Path) -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    cv2.imwrite(str(tmp_path / "chest.png"), pixels)
    for given in (tmp_path / "chest.png", str(tmp_path / "chest.png"), pixels):
        np.testing.assert_array_equal(pixels_of(given), pixels)


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4)), np.zeros((4, 4, 3), np.uint8), np.zeros((0, 4), np.uint8), np.zeros((4, 4), np.uint16)]
)
def test_other_arrays_are_refused(array: np.ndarray) -> None:
    with pytest.raises(DataError, match="uint8"):
        pixels_of(array)
