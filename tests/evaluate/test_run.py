import json
from pathlib import Path

import pytest

from vlp.data import open_shards
from vlp.errors import CheckpointError, DataError
from vlp.evaluate.config import EvaluateConfig
from vlp.evaluate.predictions import read
from vlp.evaluate.results import read_results
from vlp.evaluate.run import check_splits, evaluate, evaluate_model
from vlp.prompts.descriptors import load_descriptors

FINDINGS = ("cardiomegaly", "mass", "pleural effusion")


def test_a_model_that_sees_everything_scores_perfectly(evaluated: Path) -> None:
    results = {(row.task, row.metric, row.finding): row for row in read_results(evaluated)}
    assert results["classification", "auroc", "macro"].value == 1.0
    assert results["grounding", "pointing_game", "macro"].value == 1.0
    assert results["grounding", "dice", "mass"].value > 0.7
    assert 0.0 < results["grounding", "pointing_game_random", "macro"].value < 0.2
    assert results["retrieval", "precision_at_1_over_random", "all"].value > 1.2
    for row in results.values():
        assert row.value is None or row.low is None or row.low <= row.value <= row.high


def test_the_output_folder_is_whole(evaluated: Path) -> None:
    names = {path.name for path in evaluated.iterdir()}
    assert names == {
        "evaluate.yaml", "examples", "predictions", "report.html", "report.md", "results.json", "results_meta.json"
    }  # fmt: skip
    assert list(json.loads((evaluated / "results.json").read_text())[0]) == [
        "task", "metric", "finding", "value", "low", "high", "n_patients", "n_positive", "method"
    ]  # fmt: skip


def test_studies_that_cannot_be_judged_are_counted(evaluated: Path) -> None:
    meta = json.loads((evaluated / "results_meta.json").read_text())
    assert meta["coverage"]["classification"]["refused_studies"] == {"no frontal view": 2}
    assert len({row["study_id"] for row in read(evaluated, "classification")}) == 30
    assert meta["synthetic"] is True
    assert any("synthetic" in note for note in meta["notes"])


def test_two_runs_give_the_same_bytes(evaluated: Path, engine, settings: EvaluateConfig, tmp_path: Path) -> None:
    again = settings.model_copy(update={"output": tmp_path / "again", "batch_images": 5})
    reader, descriptors = open_shards(settings.shards), load_descriptors()
    evaluate_model(engine, reader, again, findings=FINDINGS, descriptors=descriptors)
    assert (again.output / "results.json").read_bytes() == (evaluated / "results.json").read_bytes()


def test_tasks_that_have_nothing_to_score_are_left_out_aloud(
    engine, settings: EvaluateConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    alone = settings.model_copy(update={"output": tmp_path / "out", "tasks": ("classification", "grounding")})
    reader, descriptors = open_shards(settings.shards), load_descriptors()
    with caplog.at_level("WARNING", logger="vlp.evaluate"):
        results = evaluate_model(engine, reader, alone, findings=("nodule", "mass"), descriptors=descriptors)
    assert {row.task for row in results} == {"classification", "grounding"}
    with caplog.at_level("WARNING", logger="vlp.evaluate"):
        results = evaluate_model(engine, reader, alone, findings=("nodule",), descriptors=descriptors)
    assert {row.task for row in results} == {"classification"}
    assert "nothing to score" in caplog.text
    assert all(row.value is None for row in results)


def test_shared_patients_are_refused(settings: EvaluateConfig) -> None:
    reader = open_shards(settings.shards)
    train_like = reader.manifest.shards[0].model_copy(update={"split": "train"})
    manifest = reader.manifest.model_copy(update={"shards": (*reader.manifest.shards, train_like)})
    reader.manifest = manifest
    with pytest.raises(DataError, match=r"patients are in both (test and train|val and train)"):
        check_splits(
            reader, settings.model_copy(update={"split": train_like.split and reader.manifest.shards[0].split})
        )


def test_faults_of_the_input_are_named(settings: EvaluateConfig, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a folder of shards"):
        evaluate(settings.model_copy(update={"shards": tmp_path}))
    with pytest.raises(DataError, match="no study in the split 'train'"):
        evaluate(settings.model_copy(update={"split": "train"}))
    with pytest.raises(CheckpointError):
        evaluate(settings.model_copy(update={"checkpoint": tmp_path, "output": tmp_path / "out"}))
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_told_before_the_model_runs(
    engine, settings: EvaluateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("something else")
    monkeypatch.setattr("vlp.evaluate.run.predict", lambda *_, **__: pytest.fail("the model ran"))
    elsewhere = settings.model_copy(update={"output": tmp_path / "file"})
    with pytest.raises(DataError, match="cannot make the folder of the results"):
        evaluate_model(
            engine, open_shards(settings.shards), elsewhere, findings=("nodule",), descriptors=load_descriptors()
        )


def test_everything_asked_for_is_answered_from_one_look(trusted: Path) -> None:
    results = {(row.task, row.metric, row.finding): row for row in read_results(trusted)}
    assert {row.task for row in results.values()} == {
        "classification", "grounding", "retrieval", "negation", "anatomy", "calibration"
    }  # fmt: skip
    assert results["negation", "auroc_pnc", "macro"].value == 1.0
    assert results["negation", "polarity_accuracy_present", "macro"].value == 1.0
    assert results["classification", "auroc_difference", "macro"].value == 0.0
    assert results["grounding", "dice", "macro_large"].value > results["grounding", "dice_prior", "macro_large"].value
    assert results["anatomy", "dice", "lungs"].value > 0.8
    assert results["calibration", "brier", "mass"].value < 0.25
    assert results["calibration", "ece", "pleural effusion"].value is None, "it was not calibrated"
    assert "cosine >= 0.40" in results["grounding", "dice", "mass"].method, "the calibration's threshold"
    files = {path.stem for path in (trusted / "predictions").iterdir()}
    assert files == {
        "classification", "grounding", "retrieval", "negation", "anatomy", "calibration", "prior", "paraphrases"
    }  # fmt: skip


def test_training_studies_vote_and_neither_ask_nor_answer(trusted: Path) -> None:
    rows = {(row.metric, row.finding): row for row in read_results(trusted) if row.task == "retrieval"}
    assert "nearest of 12 studies (train), k chosen on the 12 studies of val" in rows["knn_auroc", "macro"].method
    assert 0.5 < rows["knn_auroc", "macro"].value <= 1.0
    cases = read(trusted, "retrieval")
    assert {row["split"] for row in cases} == {"train", "val", "test"}
    assert {row["split"] for row in cases if row["query"] or row["gallery"]} == {"test"}


def test_notes_say_what_probabilities_and_protocols_rest_on(trusted: Path) -> None:
    meta = json.loads((trusted / "results_meta.json").read_text())
    notes = " ".join(meta["notes"])
    assert "fitted on 12 studies of 6 patients (val split of drawn)" in notes
    assert "Not calibrated, and so without a probability: pleural effusion." in notes
    assert "No gate lies beside the calibration" in notes
    assert "Protocol radzero: " in notes
    assert "nominal coverage 90%" in notes
    assert set(meta["coverage"]) == {
        "classification", "grounding", "retrieval", "negation", "anatomy", "calibration"
    }  # fmt: skip


def test_a_calibration_of_the_scored_studies_is_refused_before_the_model_runs(
    engine, settings: EvaluateConfig, calibration_of, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlp.evaluate.run.predict", lambda *_, **__: pytest.fail("the model ran"))
    fitted = calibration_of(settings.shards)
    on_test = fitted.fitted_on.model_copy(update={"split": "test"})
    (tmp_path / "calibration.json").write_text(fitted.model_copy(update={"fitted_on": on_test}).to_json())
    asked = settings.model_copy(update={"calibration": tmp_path, "output": tmp_path / "out"})
    with pytest.raises(DataError, match="fitted on the test studies of these shards"):
        evaluate_model(engine, open_shards(settings.shards), asked, findings=FINDINGS, descriptors=load_descriptors())
