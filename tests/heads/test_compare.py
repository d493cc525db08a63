from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.heads.conftest import CLASSES
from tests.heads.test_head import write
from vlp.data import ShardReader
from vlp.heads import Head, load_head
from vlp.heads.compare import HEAD, MAP, Row, choose_thresholds, estimate, evaluate_head, write_rows
from vlp.heads.targets import read_items
from vlp.inference.engine import Engine
from vlp.metrics.segmentation import dice
from vlp.records import Certainty


@pytest.fixture(scope="module")
def head(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Head:
    return load_head(write(tmp_path_factory.mktemp("compared"), engine), engine)


@pytest.fixture(scope="module")
def rows(head: Head, reader: ShardReader) -> dict[str, list[Row]]:
    return {split: evaluate_head(head, reader, split) for split in ("val", "test")}  # type: ignore[arg-type]


def test_there_is_a_row_for_all_that_is_known(rows: dict[str, list[Row]], reader: ShardReader) -> None:
    expected = {
        (key, name): label is Certainty.PRESENT
        for key in reader.keys("test")
        for name, label in reader.study(key).labels.items()
        if label is not Certainty.UNCERTAIN
    }
    assert {(row["study_id"], row["finding"]): row["present"] for row in rows["test"]} == expected
    assert {row["region_kind"] for row in rows["test"]} == {"", "mask", "box"}


def test_figures_are_what_masks_of_each_image_give(
    head: Head, engine: Engine, reader: ShardReader, rows: dict[str, list[Row]]
) -> None:
    cuts = choose_thresholds(rows["val"], CLASSES)
    results = estimate(rows["test"], cuts, classes=CLASSES, resamples=100)
    found = {(row.metric, row.finding): row for row in results}
    items = {
        item.key: item for item in read_items(reader, reader.keys("test"), classes=CLASSES, views="frontal", boxes=True)
    }
    macro = []
    for name, prompt in zip(head.classes, head.card.prompts, strict=True):
        pairs, silent = [], []
        for key, item in items.items():
            image = engine.see(reader, key)
            own = head.segment([image], classes=[name])[0][name]
            grid, placement = engine.maps([prompt], image)
            if name in item.masks:
                truth = item.masks[name]
                zero = placement.map_to_original(grid[0]) >= cuts[MAP][name] - 1e-12
                pairs.append((dice(own >= cuts[HEAD][name], truth), dice(zero, truth)))
            elif name in item.absent:
                silent.append(head.on_grid([image], [name]).max() < cuts[HEAD][name])
        mine, zero_shot = np.mean(pairs, axis=0)
        assert found["dice", name].value == pytest.approx(mine, abs=1e-5)
        assert found["dice_zero_shot", name].value == pytest.approx(zero_shot, abs=1e-5)
        assert found["dice_difference", name].value == pytest.approx(mine - zero_shot, abs=1e-5)
        assert found["silent_when_absent", name].value == pytest.approx(np.mean(silent), abs=1e-6)
        macro.append(mine - zero_shot)
    assert found["dice_difference", "macro"].value == pytest.approx(np.mean(macro), abs=1e-5)


def test_the_difference_is_paired_and_its_interval_knows_it(rows: dict[str, list[Row]]) -> None:
    """Head and map that are equal on every image differ by nothing, whatever the spread between images."""
    same = [
        row | {f"{HEAD}_predicted_px": [0] * 50 + row[f"{MAP}_predicted_px"][100:149],
               f"{HEAD}_shared_px": [0] * 50 + row[f"{MAP}_shared_px"][100:149]}
        for row in rows["test"] if row["present"]
    ]  # fmt: skip
    cuts = {HEAD: dict.fromkeys(CLASSES, 0.61), MAP: dict.fromkeys(CLASSES, 0.10)}
    found = {(row.metric, row.finding): row for row in estimate(same, cuts, classes=CLASSES, resamples=100)}
    assert found["dice", "macro"].value == found["dice_zero_shot", "macro"].value
    assert found["dice_difference", "macro"].value == 0.0
    assert found["dice_difference", "macro"].low in (None, 0.0)


def test_thresholds_come_from_the_rows_and_a_class_without_any_has_that_of_all(
    rows: dict[str, list[Row]],
) -> None:
    without = [row for row in rows["val"] if row["finding"] != "mass"]
    cuts = choose_thresholds(without, CLASSES)
    assert cuts[HEAD]["mass"] == cuts[HEAD][""]
    best = choose_thresholds(rows["val"], CLASSES)
    own = [row for row in rows["val"] if row["finding"] == "mass" and row["present"]]
    at = {
        cut: estimate(own, {HEAD: {"mass": cut}, MAP: {"mass": 0.0}}, classes=("mass",), resamples=100)[1].value
        for cut in (0.05, 0.2, 0.4, best[HEAD]["mass"])
    }
    assert max(at, key=lambda cut: (at[cut], cut)) == best[HEAD]["mass"]


def test_sides_are_asked_for_where_the_configuration_says_so(
    head: Head, engine: Engine, reader: ShardReader, rows: dict[str, list[Row]]
) -> None:
    sided = evaluate_head(head, reader, "test", map_prompts="sides")
    for plain, both in zip(rows["test"], sided, strict=True):
        if not plain["present"]:
            assert both[f"{MAP}_highest"] >= plain[f"{MAP}_highest"] - 1e-6
            assert both[f"{HEAD}_highest"] == pytest.approx(plain[f"{HEAD}_highest"], abs=1e-6)
    assert any(a != b for a, b in zip(rows["test"], sided, strict=True))


def test_rows_survive_in_a_file(rows: dict[str, list[Row]], tmp_path: Path) -> None:
    path = tmp_path / "predictions" / "segmentation.parquet"
    write_rows(path, rows["test"])
    table = pd.read_parquet(path)
    assert len(table) == len(rows["test"])
    first = next(row for row in rows["test"] if row["present"])
    same = table[(table["study_id"] == first["study_id"]) & (table["finding"] == first["finding"])].iloc[0]
    assert list(same["head_predicted_px"]) == first["head_predicted_px"]
    assert [each.name for each in path.parent.iterdir()] == [path.name]
