import json

import numpy as np
import pytest

from tests.ingest.archives.replicas.coco import CATEGORIES, SIDE, compress, mark, square_counts
from vlp.errors import DataError
from vlp.ingest.coco_file import check_categories, drawn_in, finding_of, read_coco
from vlp.records import ImageFile, Mask

IMAGES = ({"id": 1, "file_name": "folder/a.png", "width": SIDE, "height": SIDE},)


def _write(folder, marks=(), **parts):
    content = {"images": IMAGES, "annotations": list(marks), "categories": CATEGORIES} | parts
    path = folder / "coco.json"
    path.write_text(json.dumps(content))
    return path


def _drawn(folder, *marks, rows=SIDE, columns=SIDE, shapes="masks", categories=None, **parts):
    coco = read_coco(_write(folder, marks, **parts))
    file = ImageFile(id="a", path=None, view="other", rows=rows, columns=columns)
    return list(drawn_in(coco, coco.images["a"], file, categories=categories or {}, shapes=shapes))


def _square(x0, y0, x1, y1, side=SIDE):
    pixels = np.zeros((side, side), dtype=bool)
    pixels[y0:y1, x0:x1] = True
    return Mask.encode(pixels)


def test_boxes_outlines_and_run_lengths_of_both_kinds(tmp_path):
    counts = square_counts(5, 6, 20, 30)
    drawn = _drawn(
        tmp_path,
        mark(1, 3, bbox=[1.5, 2, 3, 4]),
        mark(1, 3, segmentation=[[1, 2, 9, 2, 9, 7, 1, 7], [20, 20, 22, 20, 22, 22, 20, 22]]),
        mark(1, 3, segmentation={"size": [SIDE, SIDE], "counts": counts}),
        mark(1, 3, iscrowd=1, segmentation={"size": [SIDE, SIDE], "counts": compress(counts)}),
    )
    both = _square(1, 2, 9, 7).decode() | _square(20, 20, 22, 22).decode()
    assert [each.geometry for each in drawn] == [
        (1.5, 2.0, 4.5, 6.0),
        Mask.encode(both),
        _square(5, 6, 20, 30),
        _square(5, 6, 20, 30),
    ]
    assert [each.crowd for each in drawn] == [False, False, False, True]
    assert {each.finding for each in drawn} == {"pleural effusion"}


def test_of_an_outline_and_a_box_the_one_asked_for_is_taken(tmp_path):
    both = mark(1, 3, bbox=[0, 0, 9, 9], segmentation=[[1, 1, 5, 1, 5, 5, 1, 5]])
    outline = mark(1, 3, segmentation=[[1, 1, 5, 1, 5, 5, 1, 5]])
    empty = mark(1, 3, bbox=[0, 0, 9, 9], segmentation=[])
    masks = [each.geometry for each in _drawn(tmp_path, both, outline, empty)]
    assert masks == [_square(1, 1, 5, 5), _square(1, 1, 5, 5), (0.0, 0.0, 9.0, 9.0)]
    boxes = [each.geometry for each in _drawn(tmp_path, both, outline, empty, shapes="boxes")]
    assert boxes == [(0.0, 0.0, 9.0, 9.0), _square(1, 1, 5, 5), (0.0, 0.0, 9.0, 9.0)]


def test_everything_is_scaled_to_the_image_as_read(tmp_path):
    drawn = _drawn(
        tmp_path,
        mark(1, 3, bbox=[8, 16, 16, 32]),
        mark(1, 3, segmentation=[[8, 16, 24, 16, 24, 48, 8, 48]]),
        mark(1, 3, segmentation={"size": [SIDE, SIDE], "counts": square_counts(8, 16, 24, 48)}),
        rows=32,
        columns=32,
    )
    assert drawn[0].geometry == (4.0, 8.0, 12.0, 24.0)
    assert drawn[1].geometry == drawn[2].geometry == _square(4, 8, 12, 24, side=32)


def test_categories_are_called_as_the_configuration_says(tmp_path):
    categories = {"ActiveTuberculosis": "Pneumonia", "Marker": None}
    drawn = _drawn(
        tmp_path,
        mark(1, 1, bbox=[1, 1, 2, 2]),
        mark(1, 7, bbox=[1, 1, 2, 2]),
        mark(1, 3, bbox=[1, 1, 2, 2]),
        categories=categories,
    )
    assert [each.finding for each in drawn] == ["pneumonia", "pleural effusion"]
    assert finding_of("Some  Thing", {}) == "some thing"
    coco = read_coco(_write(tmp_path))
    check_categories(coco, categories)
    with pytest.raises(DataError, match=r"no category 'Tuberculosis'.*'ActiveTuberculosis', 'Effusion', 'Marker'"):
        check_categories(coco, {"Tuberculosis": "pneumonia"})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (mark(1, 99, bbox=[1, 1, 2, 2]), "does not name"),
        (mark(1, 3), "neither a box nor an outline"),
        (mark(1, 3, bbox=[1, 1, 2]), "bbox"),
        (mark(1, 3, bbox=[1, 1, -2, 2]), "no area"),
        (mark(1, 3, bbox=[60, 1, 20, 2]), "outside"),
        (mark(1, 3, bbox=[1, 1, float("nan"), 2]), "bbox"),
        (mark(1, 3, bbox=["1", 1, 2, 2]), "bbox"),
        (mark(1, "3", bbox=[1, 1, 2, 2]), "category_id"),
        (mark(1, 3, iscrowd=2, bbox=[1, 1, 2, 2]), "iscrowd"),
        (mark(1, 3, segmentation=[[1, 1, 2]]), "odd number"),
        (mark(1, 3, segmentation=[[1, 1, 2, 2]]), "fewer than three"),
        (mark(1, 3, segmentation={"size": [1, 1], "counts": [1]}), "another size"),
        (mark(1, 3, segmentation={"size": [SIDE, SIDE], "counts": [1, 2]}), "do not fill"),
        (mark(1, 3, segmentation={"size": [SIDE, SIDE], "counts": [SIDE * SIDE]}), "without a pixel"),
        (mark(1, 3, segmentation={"size": [SIDE, SIDE], "counts": "\x01"}), "does not belong"),
    ],
)
def test_what_is_no_annotation_is_refused_with_its_image(tmp_path, values, message):
    with pytest.raises(DataError, match=message) as error:
        _drawn(tmp_path, values)
    assert f"{tmp_path / 'coco.json'}: images: number 1: " in str(error.value)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"images": None}, "images: not a list"),
        ({"annotations": [1]}, "annotations: not a list of objects"),
        ({"categories": {}}, "categories: not a list"),
        ({"categories": [{"id": "1", "name": "x"}]}, "categories: id"),
        ({"categories": [{"id": 1, "name": "x"}, {"id": 1, "name": "y"}]}, "two have the same id"),
        ({"images": [*IMAGES, {**IMAGES[0], "id": 2}]}, "the same file name"),
        ({"images": [*IMAGES, {**IMAGES[0], "file_name": "b"}]}, "the same id"),
        ({"images": [{"id": 1, "file_name": "a", "width": "x", "height": 1}]}, "images: width"),
    ],
)
def test_another_kind_of_json_is_refused(tmp_path, parts, message):
    with pytest.raises(DataError, match=message):
        read_coco(_write(tmp_path, **parts))


def test_files_that_are_missing_or_lists_are_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_coco(tmp_path / "absent.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(DataError, match="not an object"):
        read_coco(tmp_path / "list.json")


def test_strays_are_counted_and_a_changed_file_is_read_again(tmp_path):
    coco = read_coco(_write(tmp_path, [mark(9, 3), mark(1, 3), {"image_id": []}]))
    assert (coco.strays, dict(coco.used())) == (2, {"Effusion": 1})
    assert read_coco(_write(tmp_path, [mark(1, 3), mark(1, 1), mark(1, 1)])).used()["ActiveTuberculosis"] == 2


def test_an_image_without_a_size_is_refused_alone(tmp_path):
    images = ({"id": 1, "file_name": "a.png", "width": 0, "height": SIDE},)
    with pytest.raises(DataError, match="not a size"):
        _drawn(tmp_path, images=images)
