import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ingest.annotations.replicas.chexlocalize import FULL, SMALL, build, filled, study
from vlp.errors import DataError
from vlp.ingest.annotations.chexlocalize import CheXlocalizeAnnotation, outlines
from vlp.ingest.geometry import fitted
from vlp.records import ImageFile, Mask


def _image(rows, columns):
    return ImageFile(id="i", path=None, view="AP", rows=rows, columns=columns)


def _compressed(counts):
    """COCO's compressed run lengths, written the other way round: from the definition."""
    text = ""
    for place, count in enumerate(counts):
        value = count - counts[place - 2] if place > 2 else count
        while True:
            bits, value = value & 31, value >> 5
            more = not (value == -1 if bits & 16 else value == 0)
            text += chr(48 + bits + (32 if more else 0))
            if not more:
                break
    return text


def test_polygons_and_run_lengths_say_the_same(tmp_path):
    build(tmp_path)
    polygons = CheXlocalizeAnnotation(path=tmp_path / "gt_annotations_val.json")
    whole = study(FULL, rows=232, columns=282)
    expected = polygons.apply(whole).regions
    empty = Mask.encode(np.zeros((232, 282), dtype=bool))
    mask = expected[0].geometry
    for counts in (_compressed(mask.counts), list(mask.counts)):
        content = {
            FULL: {
                "Airspace Opacity": {"size": [232, 282], "counts": counts},
                "Edema": {"size": [232, 282], "counts": list(empty.counts)},
            }
        }
        path = tmp_path / "gt_segmentations_val.json"
        path.write_text(json.dumps(content))
        assert CheXlocalizeAnnotation(path=path).apply(whole).regions == expected
        path.unlink()


def test_a_study_the_set_does_not_know_stays_the_same_object(tmp_path):
    build(tmp_path)
    other = study("patient00009_study1_view1_frontal", rows=10, columns=10)
    assert CheXlocalizeAnnotation(path=tmp_path / "gt_annotations_val.json").apply(other) is other


def test_outlines_on_chexpert_small_are_brought_down(tmp_path):
    build(tmp_path)
    annotation = CheXlocalizeAnnotation(path=tmp_path / "gt_annotations_val.json")
    # 320 rows of 2320 x 2828 are 390.07 columns, which the release rounds
    region = annotation.apply(study(SMALL, rows=320, columns=389)).regions[0]
    box = region.geometry.box()
    scale = 320 / 232
    assert np.allclose(box, (100 * scale, 100 * scale, 200 * scale, 200 * scale), atol=1.0)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**31 - 1))
def test_a_smaller_copy_takes_what_is_at_least_half_inside(rows, columns, seed):
    pixels = np.random.default_rng(seed).random((rows * 2, columns * 2)) < 0.5
    small = fitted(Mask.encode(pixels), _image(rows, columns)).decode()
    for row in range(rows):
        for column in range(columns):
            share = pixels[2 * row : 2 * row + 2, 2 * column : 2 * column + 2].mean()
            assert small[row, column] == (share >= 0.5)


def test_the_same_size_is_not_touched_and_another_shape_is_refused():
    mask = filled(20, 10, (1, 1, 2, 2))
    assert fitted(mask, _image(20, 10)) is mask
    with pytest.raises(DataError, match="another shape"):
        fitted(mask, _image(20, 20))


@pytest.mark.parametrize(
    ("entry", "word"),
    [
        ({"Edema": [[[0, 0], [1, 0], [1, 1]]]}, "size of an image is not two whole numbers"),
        ({"img_size": [0, 10], "Edema": []}, "size of an image cannot be"),
        ({"img_size": [10, 99_999], "Edema": []}, "size of an image cannot be"),
        ({"img_size": [10.5, 10], "Edema": []}, "not two whole numbers"),
        ({"img_size": [10, 10], "Edema": 7}, "not a list of polygons"),
        ({"img_size": [10, 10], "Edema": [[[0, 0], [1, 0], ["a", 1]]]}, "not a list of"),
        ({"Edema": {"size": [4, 4]}}, "run lengths of a mask are missing"),
        ({"Edema": {"size": [4, 4], "counts": [3]}}, "do not fill"),
        ({"Edema": {"size": [4, 4], "counts": "\u00e9"}}, "character"),
    ],
)
def test_outlines_that_are_none(entry, word):
    with pytest.raises(DataError, match=word):
        list(outlines(entry))


@pytest.mark.parametrize(
    ("content", "word"), [("[]", "not a file of CheXlocalize"), ('{"a": 1}', "not a file"), ("{", "not JSON")]
)
def test_files_that_are_none(tmp_path, content, word):
    path = tmp_path / "gt.json"
    path.write_text(content)
    with pytest.raises(DataError, match=word):
        CheXlocalizeAnnotation(path=path).apply(study(FULL, rows=2, columns=2))
    path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        CheXlocalizeAnnotation(path=path).apply(study(FULL, rows=2, columns=2))


def test_a_changed_file_is_read_again(tmp_path):
    path = tmp_path / "gt.json"
    path.write_text("{}")
    annotation = CheXlocalizeAnnotation(path=path)
    whole = study(FULL, rows=10, columns=10)
    assert annotation.apply(whole) is whole
    path.write_text(json.dumps({FULL: {"img_size": [10, 10], "Edema": [[[0, 0], [5, 0], [5, 5]]]}}))
    assert [region.finding for region in annotation.apply(whole).regions] == ["edema"]
