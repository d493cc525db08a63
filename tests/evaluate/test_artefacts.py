from pathlib import Path
from typing import Any

import pytest

from vlp.data import open_shards
from vlp.errors import CheckpointError, DataError
from vlp.evaluate.artefacts import load_calibration, load_gate, map_thresholds
from vlp.evaluate.config import EvaluateConfig
from vlp.evaluate.questions import Questions
from vlp.inference.calibration import FILE, Calibration
from vlp.prompts.descriptors import load_descriptors


def written(calibration: Calibration, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text(calibration.to_json())
    return folder


def loaded(engine, settings: EvaluateConfig, folder: Path, **changes: Any) -> Calibration | None:
    asked = settings.model_copy(update={"calibration": folder, **changes})
    return load_calibration(engine, open_shards(settings.shards), asked, load_descriptors())


def test_file_and_folder_are_one(engine, settings: EvaluateConfig, tmp_path: Path, calibration_of) -> None:
    calibration = calibration_of(settings.shards)
    folder = written(calibration, tmp_path)
    assert loaded(engine, settings, folder) == calibration
    assert loaded(engine, settings, folder / FILE) == calibration
    assert loaded(engine, settings, folder, calibration=None) is None


def test_studies_that_were_fitted_on_are_never_scored(
    engine, settings: EvaluateConfig, tmp_path: Path, calibration_of
) -> None:
    folder = written(calibration_of(settings.shards), tmp_path)
    with pytest.raises(DataError, match="fitted on the val studies of these shards"):
        loaded(engine, settings, folder, split="val", threshold_split="test")


def test_the_same_split_of_another_archive_is_another_matter(
    engine, settings: EvaluateConfig, whole: Path, tmp_path: Path, calibration_of
) -> None:
    folder = written(calibration_of(whole), tmp_path)
    assert loaded(engine, settings, folder, split="val", threshold_split="test") is not None


def test_what_does_not_fit_is_refused(engine, settings: EvaluateConfig, tmp_path: Path, calibration_of) -> None:
    other = written(calibration_of(settings.shards, model_fingerprint="0" * 64), tmp_path / "other")
    with pytest.raises(CheckpointError, match="another model"):
        loaded(engine, settings, other)
    words = written(calibration_of(settings.shards, prompts_digest="0"), tmp_path / "words")
    with pytest.raises(DataError, match="other sentences"):
        loaded(engine, settings, words)
    plain = written(calibration_of(settings.shards), tmp_path / "plain")
    with pytest.raises(DataError, match="views: frontal, not mean"):
        loaded(engine, settings, plain, views="mean")
    with pytest.raises(DataError, match="no descriptor weights"):
        loaded(engine, settings, plain, pooling="calibrated")
    with pytest.raises(DataError, match="is for prompts 'both'"):
        loaded(engine, settings, plain, pooling="calibrated", prompts="descriptors")


def test_a_gate_is_looked_for_beside_the_calibration(
    engine, settings: EvaluateConfig, tmp_path: Path, calibration_of
) -> None:
    folder = written(calibration_of(settings.shards), tmp_path)
    asked = settings.model_copy(update={"calibration": folder / FILE})
    assert load_gate(engine, settings) is None
    assert load_gate(engine, asked) is None
    (folder / "gate.json").write_text("{}")
    with pytest.raises(DataError, match="not a gate"):
        load_gate(engine, asked)


def test_thresholds_serve_only_the_sentences_they_were_chosen_for(
    engine, settings: EvaluateConfig, questions: Questions, calibration_of
) -> None:
    calibration = calibration_of(settings.shards)
    assert map_thresholds(None, questions) is None
    assert map_thresholds(calibration, questions) == {"mass": 0.4}
    sided = calibration.maps["mass"].model_copy(update={"texts": ("There is a mass.", "There is a mass of the left.")})
    assert map_thresholds(calibration.model_copy(update={"maps": {"mass": sided}}), questions) is None
