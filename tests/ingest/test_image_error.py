import copy
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import pytest

from vlp.errors import DataError
from vlp.ingest.image_error import CLINICAL_LIMITS, DEFAULT_LIMITS, ImageError, Limits

PATH = Path("a.png")


def test_an_error_keeps_code_and_message_on_its_way_between_processes():
    error = ImageError("cmyk", "a.png: made for print")
    for back in (copy.copy(error), ForkingPickler.loads(ForkingPickler.dumps(error))):
        assert isinstance(back, DataError)
        assert (back.code, str(back)) == ("cmyk", "a.png: made for print")
    with ThreadPoolExecutor() as pool, pytest.raises(ImageError, match="made for print"):
        pool.submit(_raise, error).result()


def _raise(error):
    raise error


@pytest.mark.parametrize(("rows", "columns", "good"), [(224, 672, True), (224, 673, False), (673, 224, False)])
def test_img_30_aspect_up_to_three(rows, columns, good):
    if good:
        CLINICAL_LIMITS.check(rows, columns, PATH)
        return
    with pytest.raises(ImageError, match="3 times the shorter") as caught:
        CLINICAL_LIMITS.check(rows, columns, PATH)
    assert caught.value.code == "bad_geometry"


def test_img_30_short_sides():
    DEFAULT_LIMITS.check(1, 1, PATH)
    Limits(min_side_px=16).check(16, 16, PATH)
    with pytest.raises(ImageError, match="at least 224"):
        CLINICAL_LIMITS.check(223, 400, PATH)
