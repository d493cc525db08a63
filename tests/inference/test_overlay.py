from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlp.errors import DataError
from vlp.inference.ground import outline
from vlp.inference.lungs import LungField
from vlp.inference.overlay import save_maps, write_overlay

ROWS, COLUMNS = 60, 90


def answer(text: str = "There is a nodule.", *, threshold: float = 0.5):
    ys, xs = np.mgrid[:ROWS, :COLUMNS]
    values = np.exp(-((xs - 60) ** 2 + (ys - 20) ** 2) / 100).astype(np.float32)
    return outline(text, values, threshold=threshold, source="given")


def drawn(path: Path, answers, **options) -> np.ndarray:
    pixels = np.full((ROWS, COLUMNS), 90, np.uint8)
    write_overlay(path, pixels, answers, **options)
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def red(picture: np.ndarray) -> int:
    return int(((picture[..., 0] > 220) & (picture[..., 1] < 60) & (picture[..., 2] < 60)).sum())


def test_box_and_peak_are_drawn_only_where_something_reaches_the_threshold(tmp_path: Path) -> None:
    with_region = drawn(tmp_path / "a.png", [answer()])
    without = drawn(tmp_path / "b.png", [answer(threshold=2.0)])
    assert red(with_region) > red(without) + 100


def test_one_panel_per_text_and_one_for_all(tmp_path: Path) -> None:
    one = drawn(tmp_path / "a.png", [answer()])
    two = drawn(tmp_path / "b.png", [answer(), answer("There is a mass.")])
    combined = drawn(tmp_path / "c.png", [answer(), answer("There is a mass.")], combined=True)
    assert one.shape[1] / 2 == pytest.approx(two.shape[1] / 3, abs=2) == pytest.approx(combined.shape[1] / 4, abs=2)


def test_texts_are_drawn_as_they_are(tmp_path: Path) -> None:
    """Dollar signs would be formulae, and an unbalanced one an error."""
    for text in ("costs $5 and $x_{", "<b>&", "a" * 500, "\\frac{1}{2}"):
        drawn(tmp_path / "a.png", [answer(text), answer(text)], combined=True)


def test_the_file_says_nothing_of_its_maker_or_its_place(tmp_path: Path) -> None:
    drawn(tmp_path / "a.png", [answer()])
    with Image.open(tmp_path / "a.png") as image:
        assert not [name for name in image.info if name != "dpi"]


def test_nothing_is_left_half_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot write"):
        drawn(tmp_path / "nowhere" / "a.png", [answer()])
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(DataError, match="cannot write"):
        drawn(tmp_path / "folder.png", [answer()])
    with pytest.raises(DataError, match="cannot write"):
        save_maps(tmp_path / "folder.png", [answer()])
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


def test_a_map_that_was_partly_not_seen_and_a_full_mask_are_drawn(tmp_path: Path) -> None:
    values = np.full((ROWS, COLUMNS), 0.4, np.float32)
    values[:, :20] = np.nan
    drawn(tmp_path / "a.png", [outline("x", values, threshold=0.1, source="given")])
    drawn(tmp_path / "b.png", [outline("x", np.nan_to_num(values) + 0.1, threshold=0.0, source="given")])


def test_maps_are_saved_as_plain_numbers(tmp_path: Path) -> None:
    save_maps(tmp_path / "map.npy", [answer(), answer()])
    values = np.load(tmp_path / "map.npy", allow_pickle=False)
    assert (values.shape, values.dtype) == ((2, ROWS, COLUMNS), np.float32)
    np.testing.assert_array_equal(values[0], answer().map)


def test_the_lung_field_is_drawn_on_the_image_and_on_every_answer(tmp_path: Path) -> None:
    mask = np.zeros((ROWS, COLUMNS), bool)
    mask[10:50, 5:40] = True
    lungs = LungField(mask=mask, source="given")
    without, with_lungs = (drawn(tmp_path / "a.png", [answer()], lungs=field) for field in (None, lungs))
    blue = [((picture[..., 2] > 200) & (picture[..., 0] < 140)).sum() for picture in (without, with_lungs)]
    assert blue[1] > blue[0] + 50


def test_further_parts_have_boxes_of_their_own(tmp_path: Path) -> None:
    values = answer().map.copy()
    alone = drawn(tmp_path / "a.png", [outline("x", values, threshold=0.5, source="given")])
    values[40:55, 5:30] = 0.7
    both = drawn(tmp_path / "b.png", [outline("x", values, threshold=0.5, source="given")])
    assert red(both) > red(alone) + 30
