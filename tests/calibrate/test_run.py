from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.evaluate.conftest import GREYS, GreyModel, draw, write_shards
from vlp.calibrate import run
from vlp.calibrate.config import CalibrateConfig
from vlp.data import ShardReader, open_shards
from vlp.data.manifest import Manifest
from vlp.data.writer import ShardWriter
from vlp.errors import ConfigError, DataError
from vlp.inference.calibration import Calibration, Isotonic, Platt, possible
from vlp.inference.engine import Engine
from vlp.inference.pooling import GeometricMean, LogOdds
from vlp.metrics.calibration import expected_calibration_error
from vlp.metrics.policy import LEFT_OUT
from vlp.prompts.descriptors import load_descriptors
from vlp.records import Certainty

FINDINGS = tuple(sorted(GREYS))


@pytest.fixture(scope="module")
def engine() -> Engine:
    made = Engine(GreyModel())  # type: ignore[arg-type]
    made.fingerprint = "5a" * 32
    return made


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive") / "shards"
    write_shards(folder, tests=60, validations=80)
    return folder


def config(shards: Path, output: Path, **values: Any) -> CalibrateConfig:
    settings: dict[str, Any] = {"gate": False, "batch_images": 16, **values}
    return CalibrateConfig(checkpoint=Path("grey"), shards=shards, output=output, **settings)


def calibrated(engine: Engine, reader: ShardReader, settings: CalibrateConfig) -> Calibration:
    descriptors = load_descriptors()
    findings = run.resolve_findings(reader, settings, descriptors)
    return run.calibrate_model(engine, reader, settings, findings=findings, descriptors=descriptors)


@pytest.fixture(scope="module", params=["geometric_mean", "log_odds"])
def artefact(
    request: pytest.FixtureRequest, engine: Engine, shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    settings = config(shards, tmp_path_factory.mktemp(request.param), pooling=request.param)
    calibrated(engine, open_shards(shards), settings)
    return settings.folder


def test_the_artefact_says_what_it_was_learned_from(artefact: Path, engine: Engine, shards: Path) -> None:
    calibration = Calibration.load(artefact)
    assert {path.name for path in artefact.iterdir()} == {"calibration.json"}
    assert set(calibration.findings) == set(FINDINGS)
    assert calibration.fitted_on.split == "val"
    assert (calibration.fitted_on.studies, calibration.fitted_on.patients) == (80, 40)
    assert calibration.fitted_on.shards_sha256 == open_shards(shards).digest()
    assert calibration.fitted_on.synthetic
    calibration.refuse_other(engine, load_descriptors(), prompts="both", protocol="vlp")
    labelled = calibration.findings["mass"]
    labels = [study.labels["mass"] for study in open_shards(shards).studies("val")]
    assert labelled.positives == labels.count(Certainty.PRESENT)
    assert labelled.studies == 80 - labels.count(Certainty.UNCERTAIN)


def test_probabilities_hold_on_patients_of_another_split(artefact: Path, engine: Engine, shards: Path) -> None:
    calibration = Calibration.load(artefact)
    reader = open_shards(shards)
    settings = config(shards, artefact, split="test")
    looked = run.look(engine, reader, settings, findings=FINDINGS, descriptors=load_descriptors())
    scores = replace(looked.evidence, pooling=calibration.pooling).scores
    for column, finding in enumerate(FINDINGS):
        kept = looked.labels[:, column] != LEFT_OUT
        labels = looked.labels[kept, column]
        probabilities = calibration.probability(finding, scores[kept, column])
        before = expected_calibration_error(labels, looked.evidence.scores[kept, column])
        assert expected_calibration_error(labels, probabilities) < min(0.1, before)
        present, absent = possible(calibration.findings[finding].conformal, probabilities)
        assert np.where(labels == 1, present, absent).mean() > 0.8


def test_pooling_travels_in_the_artefact(artefact: Path) -> None:
    pooling = Calibration.load(artefact).pooling
    if artefact.name.startswith("geometric_mean"):
        assert pooling == GeometricMean()
    else:
        assert isinstance(pooling, LogOdds)
        assert set(pooling.bias) == set(FINDINGS)
        ids = {pair.id for finding in FINDINGS for pair in load_descriptors().of(finding)}
        assert set(pooling.weights) == ids
        assert min(pooling.weights.values()) >= 0.0


def test_map_thresholds_find_the_drawn_blocks(artefact: Path) -> None:
    calibration = Calibration.load(artefact)
    threshold = calibration.map_threshold("mass")
    assert threshold is not None
    assert 0.2 < threshold < 1.0
    assert calibration.maps["mass"].dice > 0.7
    assert calibration.map_threshold("There is a mass.") == threshold


def test_batches_of_another_size_change_nothing(engine: Engine, shards: Path, tmp_path: Path, artefact: Path) -> None:
    pooling = Calibration.load(artefact).pooled_by.kind
    again = config(shards, tmp_path / "again", pooling=pooling, batch_images=5)
    calibrated(engine, open_shards(shards), again)
    one, other = Calibration.load(artefact), Calibration.load(again.folder)
    assert one.maps == other.maps
    for finding in FINDINGS:
        assert one.findings[finding].map.slope == pytest.approx(other.findings[finding].map.slope, rel=1e-3)


def test_findings_with_few_studies_are_left_out_with_the_reason(
    engine: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reader = write_shards(tmp_path / "few", tests=2, validations=12, laterals=0)
    settings = config(tmp_path / "few", tmp_path / "out")
    calibration = calibrated(engine, reader, settings)
    assert calibration.findings == {}
    assert "fewer than 10" in calibration.left_out["mass"]
    assert "mass is not calibrated" in caplog.text
    assert calibration.maps, "thresholds need no negatives"


def test_where_nothing_can_be_learned_nothing_is_written(engine: Engine, tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "none", image_format="png") as writer:
        for number in range(4):
            loaded = draw(number, "val", rng=np.random.default_rng(number))
            writer.write(replace(loaded, study=replace(loaded.study, regions=())))
    settings = config(tmp_path / "none", tmp_path / "out")
    with pytest.raises(DataError, match="too few labels"):
        calibrated(engine, open_shards(tmp_path / "none"), settings)
    assert list((tmp_path / "out").iterdir()) == []


def test_methods_are_named_per_finding(engine: Engine, shards: Path, tmp_path: Path) -> None:
    temperature = calibrated(engine, open_shards(shards), config(shards, tmp_path, method="temperature"))
    assert len({one.map.temperature for one in temperature.findings.values()}) == 1
    isotonic = calibrated(engine, open_shards(shards), config(shards, tmp_path, method="isotonic"))
    assert all(isinstance(one.map, Platt) for one in isotonic.findings.values()), "too few studies"
    assert not any(isinstance(one.map, Isotonic) for one in isotonic.findings.values())


def test_uncertain_labels_count_as_the_policy_says(engine: Engine, shards: Path, tmp_path: Path) -> None:
    labels = [study.labels["mass"] for study in open_shards(shards).studies("val")]
    uncertain = labels.count(Certainty.UNCERTAIN)
    assert uncertain
    found = calibrated(engine, open_shards(shards), config(shards, tmp_path, uncertain="positive")).findings["mass"]
    assert (found.studies, found.positives) == (80, labels.count(Certainty.PRESENT) + uncertain)


def test_a_published_protocol_is_calibrated_by_its_own_scores(engine: Engine, shards: Path, tmp_path: Path) -> None:
    from vlp.inference.scoring import score
    from vlp.prompts.protocols import protocol

    reader = open_shards(shards)
    settings = config(shards, tmp_path, protocol="chexzero")
    looked = run.look(engine, reader, settings, findings=FINDINGS, descriptors=load_descriptors())
    seen = [engine.see(reader, key) for key in reader.keys("val")]
    expected = score(engine, engine.features(seen)[0], FINDINGS, protocol("chexzero"))
    assert looked.evidence.scores == pytest.approx(expected, abs=1e-6)
    assert calibrated(engine, reader, settings).protocol == "chexzero"


def test_laterals_are_left_out_or_averaged(engine: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with ShardWriter(tmp_path / "mixed", image_format="png") as writer:
        for number in range(6):
            view = "lateral" if number < 2 else "PA"
            writer.write(draw(number, "val", rng=np.random.default_rng(number), view=view))
    reader, descriptors = open_shards(tmp_path / "mixed"), load_descriptors()
    settings = config(tmp_path / "mixed", tmp_path / "out")
    looked = run.look(engine, reader, settings, findings=FINDINGS, descriptors=descriptors)
    assert len(looked.patients) == 4
    assert "2 studies of val have no frontal view" in caplog.text
    every = settings.model_copy(update={"views": "mean"})
    assert len(run.look(engine, reader, every, findings=FINDINGS, descriptors=descriptors).patients) == 6


def test_patients_are_never_torn_apart() -> None:
    patients = tuple(f"p{number // 3}" for number in range(90))
    folds = run.partition(patients, folds=4, seed=1)
    owners = {
        patient: {fold for one, fold in zip(patients, folds, strict=True) if one == patient} for patient in patients
    }
    assert all(len(found) == 1 for found in owners.values())
    sizes = np.bincount(folds) // 3
    assert sizes.max() - sizes.min() <= 1
    assert not np.array_equal(folds, run.partition(patients, folds=4, seed=2))
    shuffled = np.random.default_rng(0).permutation(90)
    assert np.array_equal(run.partition(tuple(patients[one] for one in shuffled), folds=4, seed=1), folds[shuffled])


def test_dishonest_splits_are_refused(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="surer of studies it was trained on"):
        run.calibrate(config(shards, tmp_path, split="train"))
    write_shards(tmp_path / "tested", tests=2, validations=0)
    with pytest.raises(DataError, match="no study in the split 'val'"):
        run.calibrate(config(tmp_path / "tested", tmp_path / "out"))
    # The writer of shards lets nobody into two splits; a manifest may come from elsewhere.
    people = {"train": frozenset("ab"), "val": frozenset("cde"), "test": frozenset("efd")}
    monkeypatch.setattr(Manifest, "patients", lambda manifest, split: people[split])
    with pytest.raises(DataError, match="2 patients are in both val and test"):
        run.calibrate(config(shards, tmp_path))


def test_wrong_names_are_told_before_a_model_is_loaded(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown protocol 'xplaner'; did you mean xplainer"):
        run.calibrate(config(shards, tmp_path, protocol="xplaner"))
    with pytest.raises(DataError, match="unknown finding 'mas'; did you mean 'mass'"):
        run.calibrate(config(shards, tmp_path, findings=("mas",)))
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot make the folder"):
        run.calibrate_model(
            Engine(GreyModel()),  # type: ignore[arg-type]
            open_shards(shards),
            config(shards, tmp_path / "file"),
            findings=FINDINGS,
            descriptors=load_descriptors(),
        )


def test_the_gate_is_learned_from_the_same_split(
    engine: Engine, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def fit_gate(engine: Engine, reader: ShardReader, **wanted: Any) -> str:
        asked.update(wanted)
        return "gate"

    monkeypatch.setattr("vlp.calibrate.gate.fit_gate", fit_gate)
    monkeypatch.setattr("vlp.inference.gate.save", lambda gate, path: path.write_text(gate))
    calibrated(engine, open_shards(shards), config(shards, tmp_path, gate=True, gate_views="any", seed=3))
    assert asked == {"split": "val", "seed": 3, "views": "any"}
    assert (tmp_path / "gate.json").read_text() == "gate"
