import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.inference.calibrated import made_calibration, made_gate
from tests.inference.conftest import save_tiny
from vlp.errors import CheckpointError, DataError
from vlp.inference import gate as gates
from vlp.inference.classify import weigh
from vlp.inference.diagnose import Request, calibrated, diagnose
from vlp.inference.engine import Engine, load
from vlp.inference.pooling import GeometricMean, LogOdds
from vlp.inference.statement import unmatched
from vlp.prompts.protocols import protocol

FINDINGS = ("nodule", "pleural effusion", "fracture")
FLAT = np.full((64, 64), 90, dtype=np.uint8)


def ask(engine: Engine, images: list[np.ndarray], **options: object):
    return diagnose(engine, images, Request(findings=FINDINGS, **options))


def test_without_anything_it_is_the_plain_evidence(engine: Engine, pictures: list[np.ndarray]) -> None:
    answer = ask(engine, pictures[:2])
    expected = weigh(engine, engine.features(pictures[:2])[0], FINDINGS).fused([0, 0]).diagnoses()[0]
    assert answer.findings == expected.findings
    assert len(answer.warnings) == 2
    assert "not calibrated" in answer.warnings[0]
    assert "no gate" in answer.warnings[1]
    assert answer.digests.model == engine.fingerprint
    assert answer.digests.calibration is None
    assert set(answer.timings_s) == {"images", "sentences", "total"}
    assert answer.timings_s["total"] >= answer.timings_s["images"] > 0


def test_a_calibration_gives_probabilities_sets_and_states(engine: Engine, pictures: list[np.ndarray]) -> None:
    calibration = made_calibration(engine)
    answer = ask(engine, pictures[:1], calibration=calibration, gate=None)
    nodule, effusion, fracture = answer.findings
    assert nodule.probability == pytest.approx(nodule.score, abs=1e-9)  # made so
    assert effusion.probability == pytest.approx(0.2, abs=1e-9)
    assert effusion.conformal == ("absent",)
    assert effusion.state == "negative"
    assert fracture.probability is None
    assert fracture.state == "uncalibrated"
    assert answer.digests.calibration == calibration.digest
    content = json.loads(json.dumps(answer.to_json()))
    for entry in content["findings"]:
        assert unmatched(entry) == ()
    assert "%" in content["findings"][1]["statement"]["text"]
    assert "%" not in content["findings"][2]["statement"]["text"]


def test_the_contrast_of_a_calibrated_finding_is_about_its_state(engine: Engine, pictures: list[np.ndarray]) -> None:
    calibration = made_calibration(engine)
    answer = ask(engine, pictures[:1], calibration=None, gate=None)
    # Nothing changes a probability that does not depend on the score.
    effusion = calibrated(answer.findings[1], calibration).contrast
    assert effusion is not None
    assert effusion.decision == "negative"
    assert effusion.descriptor is None
    assert effusion.num_together is None


def test_log_odds_of_the_calibration_are_used(engine: Engine, pictures: list[np.ndarray]) -> None:
    ids = [item.id for item in weigh(engine, engine.features(pictures[:1])[0], ["nodule"]).descriptors]
    fitted = {"kind": "log_odds", "weights": dict.fromkeys(ids, 0.5), "bias": {"nodule": -1.0}}
    calibration = made_calibration(engine, pooled_by=fitted)
    answer = ask(engine, pictures[:1], calibration=calibration)
    expected = weigh(
        engine,
        engine.features(pictures[:1])[0],
        FINDINGS,
        pooling=LogOdds(weights=dict.fromkeys(ids, 0.5), bias={"nodule": -1.0}),
    )
    assert list(answer.scores.values()) == pytest.approx(list(expected.scores[0]))
    assert answer.pooling["kind"] == "log_odds"
    with pytest.raises(DataError, match="another pooling"):
        ask(engine, pictures[:1], calibration=calibration, pooling=GeometricMean())


def test_the_gate_answers_instead(engine: Engine, pictures: list[np.ndarray]) -> None:
    answer = ask(engine, [FLAT], gate=made_gate(engine))
    assert answer.refused
    assert answer.findings == ()
    assert answer.not_assessable == FINDINGS
    assert answer.gate is not None
    assert answer.gate.images[0]["reason"] == "no_contrast"
    assert {entry["state"] for entry in answer.to_json()["findings"]} == {"not assessable"}
    assert not ask(engine, [FLAT], gate=None).refused
    assert ask(engine, pictures[:1], gate=made_gate(engine)).gate is not None


def test_an_image_that_is_refused_is_left_out_of_its_study(engine: Engine, pictures: list[np.ndarray]) -> None:
    answer = ask(engine, [FLAT, pictures[0]], gate=made_gate(engine))
    alone = ask(engine, [pictures[0]], gate=None)
    assert answer.num_images == 1
    assert list(answer.scores.values()) == pytest.approx(list(alone.scores.values()), abs=1e-6)
    assert any(warning.startswith("image 1 was left out") for warning in answer.warnings)


def test_views(engine: Engine, pictures: list[np.ndarray]) -> None:
    views = ("lateral", "PA")
    frontal = ask(engine, pictures[:2], fusion="frontal", views=views)
    assert frontal.num_images == 1
    alone = ask(engine, pictures[1:2])
    assert list(frontal.scores.values()) == pytest.approx(list(alone.scores.values()), abs=1e-6)
    both = [ask(engine, [picture]) for picture in pictures[:2]]
    strongest = ask(engine, pictures[:2], fusion="max", views=views)
    for column, evidence in enumerate(strongest.findings):
        for row, item in enumerate(evidence.descriptors):
            expected = max(answer.findings[column].descriptors[row].probability for answer in both)
            assert item.probability == pytest.approx(expected, abs=1e-6)


def test_a_protocol(engine: Engine, pictures: list[np.ndarray]) -> None:
    answer = ask(engine, pictures[:1], protocol=protocol("chexzero"))
    assert answer.prompts == "chexzero"
    assert answer.temperature == 1.0
    assert all(len(evidence.descriptors) == 1 for evidence in answer.findings)
    with pytest.raises(DataError, match="its own pooling"):
        ask(engine, pictures[:1], protocol=protocol("chexzero"), pooling=GeometricMean())
    with pytest.raises(DataError, match="for protocol 'vlp'"):
        ask(engine, pictures[:1], protocol=protocol("chexzero"), calibration=made_calibration(engine))


@pytest.fixture
def run(tiny: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny, tmp_path / "checkpoints" / "final")
    (tmp_path / "calibration").mkdir()
    return tmp_path


def test_what_lies_beside_the_checkpoint_is_found(run: Path, pictures: list[np.ndarray]) -> None:
    engine = load(run, device="cpu")
    (run / "calibration" / "calibration.json").write_text(made_calibration(engine).to_json())
    gates.save(made_gate(engine), run / "calibration" / "gate.json")
    answer = ask(engine, pictures[:1])
    assert answer.calibrated
    assert answer.gate is not None
    assert answer.warnings == ()
    assert ask(engine, [FLAT]).refused
    plain = ask(engine, [FLAT], calibration=None, gate=None)
    assert not plain.calibrated
    assert not plain.refused


def test_a_calibration_of_another_model(run: Path, pictures: list[np.ndarray]) -> None:
    engine = load(run, device="cpu")
    other = made_calibration(engine, model_fingerprint="f" * 64)
    (run / "calibration" / "calibration.json").write_text(other.to_json())
    # Found by itself it is said to be of no use; handed in, it is refused.
    answer = ask(engine, pictures[:1])
    assert not answer.calibrated
    assert any("another model" in warning for warning in answer.warnings)
    with pytest.raises(CheckpointError, match="another model"):
        ask(engine, pictures[:1], calibration=other)
    with pytest.raises(DataError, match="no calibration to take the weights"):
        ask(engine, pictures[:1], pooling="calibrated")


def test_doubts_are_told(engine: Engine, pictures: list[np.ndarray]) -> None:
    fitted_on = {**made_calibration(engine).fitted_on.model_dump(), "synthetic": True}
    answer = ask(engine, pictures[:2], calibration=made_calibration(engine, fitted_on=fitted_on), gate=None)
    assert any("drawn images" in warning for warning in answer.warnings)
    assert any("several views" in warning for warning in answer.warnings)


def test_a_model_in_memory(engine: Engine, pictures: list[np.ndarray]) -> None:
    answer = ask(Engine(engine.model), pictures[:1])
    assert answer.digests.model is None
    assert answer.digests.prompts


def test_an_unknown_finding_is_told_before_any_image_is_read(engine: Engine) -> None:
    with pytest.raises(DataError, match="unknown finding"):
        diagnose(engine, [Path("nowhere.png")], Request(findings=("happiness",)))


def test_a_gate_of_another_model_ends_it(engine: Engine, pictures: list[np.ndarray], tmp_path: Path) -> None:
    other = load(save_tiny(tmp_path / "other", "cosine", seed=9), device="cpu")
    with pytest.raises(CheckpointError, match="another model"):
        ask(engine, pictures[:1], gate=made_gate(other))
