from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.evaluate.conftest import GREYS, SIDE, draw
from tests.heads.conftest import CLASSES
from vlp.data import ShardReader, open_shards
from vlp.data.transforms import Preprocess
from vlp.data.writer import ShardWriter
from vlp.heads.targets import Item, Targets, classes_of, coverage, prompt_of, read_items
from vlp.prompts.descriptors import load_descriptors
from vlp.records import Certainty, LoadedStudy, Mask, Region
from vlp.tensors import Placement


def place(rows: int, columns: int, *, size: int = 32, fit: str = "letterbox") -> Placement:
    return Preprocess(size=size, fit=fit).apply(np.zeros((rows, columns), dtype=np.uint8)).placement


@pytest.mark.parametrize("fit", ["letterbox", "stretch", "crop"])
@pytest.mark.parametrize("shape", [(32, 32), (64, 64), (96, 48), (50, 80)])
def test_coverage_and_the_way_back_agree(shape: tuple[int, int], fit: str) -> None:
    placement = place(*shape, fit=fit)
    rng = np.random.default_rng(0)
    top, left = rng.integers(0, shape[0] // 3), rng.integers(0, shape[1] // 3)
    mask = np.zeros(shape, dtype=bool)
    mask[top : top + shape[0] // 2, left : left + shape[1] // 2] = True
    cells = coverage(mask, placement, size=(32, 32))
    assert cells.dtype == np.float32
    back = placement.map_to_original(cells)
    seen = ~np.isnan(back)
    wrong = (back[seen] >= 0.5) != mask[seen]
    # Only pixels at the outline may differ, by less than one model pixel.
    outline = (shape[0] + shape[1]) * max(1.0, shape[0] / 32, shape[1] / 32)
    assert wrong.sum() <= outline * 0.8


def test_coverage_keeps_area_and_place_exactly_where_pixels_fit() -> None:
    mask = np.zeros((64, 64), dtype=bool)
    mask[16:32, 8:40] = True
    cells = coverage(mask, place(64, 64), size=(8, 8))
    expected = mask.reshape(8, 8, 8, 8).mean(axis=(1, 3))
    assert np.allclose(cells, expected, atol=1e-6)


def test_bars_are_covered_by_nothing() -> None:
    cells = coverage(np.ones((32, 64), dtype=bool), place(32, 64), size=(8, 8))
    assert not cells[:2].any()
    assert not cells[-2:].any()
    assert np.allclose(cells[2:6], 1.0, atol=0.2)
    assert np.allclose(cells[3:5], 1.0)


def test_a_region_is_a_mask_absence_is_known_and_silence_is_not(reader: ShardReader) -> None:
    for item in read_items(reader, reader.keys("train"), classes=CLASSES, views="frontal", boxes=True):
        study = reader.study(item.key)
        for name in CLASSES:
            label = study.labels[name]
            assert (name in item.masks) == (label is Certainty.PRESENT)
            assert (name in item.absent) == (label is Certainty.ABSENT)
            if name in item.masks:
                grey = GREYS[name]
                assert np.array_equal(item.masks[name], reader.image(item.key) == grey)
                assert item.kinds[name] == ("mask" if name == "pleural effusion" else "box")


def test_without_boxes_a_boxed_finding_is_not_known(reader: ShardReader) -> None:
    items = read_items(reader, reader.keys("train"), classes=None, views="frontal", boxes=False)
    assert classes_of(items) == ("pleural effusion",)
    for item in items:
        labels = reader.study(item.key).labels
        assert item.absent == {name for name, label in labels.items() if label is Certainty.ABSENT}


def test_present_without_a_region_and_what_no_label_names_take_no_part(tmp_path: Path) -> None:
    loaded = draw(1, "train", rng=np.random.default_rng(0))
    lungs = Region(finding="lungs", image="image-1", geometry=Mask.encode(np.ones((SIDE, SIDE), dtype=bool)))
    study = replace(loaded.study, labels={"mass": Certainty.PRESENT, "edema": Certainty.ABSENT}, regions=(lungs,))
    with ShardWriter(tmp_path / "shards", image_format="png") as writer:
        writer.write(LoadedStudy(study=study, pixels=loaded.pixels))
    reader = open_shards(tmp_path / "shards")
    (item,) = read_items(reader, reader.keys("train"), classes=None, views="all", boxes=True)
    assert set(item.masks) == {"lungs"}
    assert item.absent == {"edema"}
    assert not read_items(reader, reader.keys("train"), classes=("mass",), views="all", boxes=True)


def test_targets_are_the_coverage_of_every_class(reader: ShardReader) -> None:
    items = read_items(reader, reader.keys("train")[:8], classes=CLASSES, views="frontal", boxes=True)
    placement = place(SIDE, SIDE, size=SIDE)
    targets = Targets(items, [placement] * len(items), CLASSES, size=(16, 16))
    truth, known, valid = targets.of([3, 1])
    assert (truth.shape, known.shape, valid.shape) == ((2, 3, 16, 16), (2, 3), (2, 16, 16))
    assert valid.min() == 1.0
    for row, item in enumerate((items[3], items[1])):
        for column, name in enumerate(CLASSES):
            assert bool(known[row, column]) == (name in item.masks or name in item.absent)
            expected = coverage(item.masks[name], placement, size=(16, 16)) if name in item.masks else 0.0
            assert np.allclose(truth[row, column].numpy(), expected, atol=1 / 255)
    assert targets.num_masks == sum(len(item.masks) for item in items)


def test_padding_is_not_valid() -> None:
    item = Item(key="a", index=0, patient="p", masks={}, kinds={}, absent=frozenset({"mass"}))
    _, known, valid = Targets([item], [place(32, 64)], ("mass",), size=(8, 8)).of([0])
    assert known.all()
    assert valid[0, 0].max() == 0.0
    assert valid[0, 4].min() == 1.0


def test_prompts_are_those_of_zero_shot() -> None:
    descriptors = load_descriptors()
    assert prompt_of("pleural effusion", descriptors) == "There is pleural effusion."
    assert prompt_of("lungs", descriptors) == "There are lungs."
    assert prompt_of("ribs", descriptors) == "There are ribs."
    assert prompt_of("carina", descriptors) == "There is the carina."
