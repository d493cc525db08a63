from dataclasses import replace
from pathlib import Path

import numpy as np

from vlp.data import open_shards
from vlp.evaluate.prior import FRAME, mean_masks, measured
from vlp.metrics.segmentation import dice
from vlp.records import Mask, Study


def test_the_mean_is_over_training_studies_with_the_region(whole: Path) -> None:
    reader = open_shards(whole)
    total, count = np.zeros((64, 64)), 0
    for study in reader.studies("train"):
        for region in study.regions:
            if region.finding == "pleural effusion":
                mask = region.geometry
                assert isinstance(mask, Mask)
                total, count = total + mask.decode(), count + 1
    assert count > 1
    prior = mean_masks(reader, ("pleural effusion", "hernia"))
    assert set(prior) == {"pleural effusion"}
    found = prior["pleural effusion"]
    assert found.shape == (FRAME, FRAME)
    assert found.max() == 1.0
    assert np.abs(found.mean() - (total / total.max()).mean()) < 0.02
    # Effusions are drawn at the top of these images, and nowhere else.
    assert found[: FRAME // 4].mean() > 0.2
    assert found[FRAME // 2 :].max() == 0.0


def test_lateral_views_do_not_say_where_things_are_on_frontal_ones(whole: Path, monkeypatch) -> None:
    reader = open_shards(whole)
    plain = reader.study

    def lateral(key: str) -> Study:
        study = plain(key)
        return replace(study, images=tuple(replace(image, view="lateral") for image in study.images))

    monkeypatch.setattr(reader, "study", lateral)
    assert mean_masks(reader, ("pleural effusion",)) == {}


def test_a_split_without_training_studies_has_no_prior(shards: Path) -> None:
    assert mean_masks(open_shards(shards), ("mass",)) == {}


def test_a_prior_is_scaled_to_the_image_and_measured_like_a_map() -> None:
    prior = np.zeros((FRAME, FRAME), dtype=np.float32)
    prior[: FRAME // 2, FRAME // 2 :] = 1.0
    truth = np.zeros((30, 20), dtype=bool)
    truth[:15, 10:] = True
    row = measured({"study_id": "s", "text": "There is a mass.", "hit": False}, prior, truth)
    assert (row["study_id"], row["text"], row["hit"]) == ("s", "", True)
    assert (row["rows"], row["columns"], row["truth_px"]) == (30, 20, 150)
    half = 150  # cosine 0.50
    assert row["predicted_px"][half] == 150
    assert dice(truth, truth) == 2 * row["shared_px"][half] / (row["predicted_px"][half] + row["truth_px"])
    mirrored = measured({}, np.ascontiguousarray(prior[:, ::-1]), truth)
    assert mirrored["hit"] is False
