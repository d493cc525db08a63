from pathlib import Path

import cv2
import numpy as np

from vlp.evaluate.pictures import outlined, overlaid, radiograph, write_png


def test_proportions_are_kept() -> None:
    assert radiograph(np.zeros((50, 100), dtype=np.uint8), side_px=200).shape == (100, 200, 3)
    assert radiograph(np.zeros((400, 100), dtype=np.uint8), side_px=200).shape == (200, 50, 3)


def test_outline_follows_the_region_and_leaves_the_rest() -> None:
    picture = np.full((100, 200, 3), 7, dtype=np.uint8)
    truth = np.zeros((50, 100), dtype=bool)
    truth[10:40, 60:90] = True
    drawn = outlined(picture, truth)
    changed = (drawn != picture).any(axis=2)
    assert changed[20:80, 117:123].all(axis=0).any()
    assert not changed[:, :110].any()
    assert not changed[30:70, 130:170].any()
    assert (outlined(picture, None) == picture).all()


def test_map_lights_its_high_end_and_spares_its_low_end_and_the_unseen() -> None:
    picture = np.full((80, 80, 3), 50, dtype=np.uint8)
    values = np.zeros((40, 40), dtype=np.float32)
    values[:, 30:] = 1.0
    values[:10, 30:] = np.nan
    drawn = overlaid(picture, values, None)
    assert (drawn[:, :40] == 50).all()
    assert (drawn[40:, 64:].astype(int).sum(axis=2) > 200).all()
    assert (drawn[:14, 64:] == 50).all()


def test_peak_is_marked_where_it_is() -> None:
    picture = np.full((80, 160, 3), 50, dtype=np.uint8)
    values = np.zeros((40, 80), dtype=np.float32)
    without = overlaid(picture, values, None)
    ys, xs = np.nonzero((overlaid(picture, values, (60.5, 10.5)) != without).any(axis=2))
    assert abs(xs.mean() - 121) < 1
    assert abs(ys.mean() - 21) < 1


def test_files_keep_colours(tmp_path: Path) -> None:
    picture = np.zeros((4, 4, 3), dtype=np.uint8)
    picture[..., 0] = 255
    write_png(picture, tmp_path / "red.png")
    assert cv2.imread(str(tmp_path / "red.png"))[0, 0].tolist() == [0, 0, 255]
    assert [path.name for path in tmp_path.iterdir()] == ["red.png"]
