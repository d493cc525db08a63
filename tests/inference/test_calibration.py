import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlp.data.transforms import Preprocess
from vlp.errors import CheckpointError, DataError
from vlp.inference.calibration import (
    FILE,
    Calibration,
    Conformal,
    Isotonic,
    Platt,
    Temperature,
    find,
    folder_of,
    possible,
    preprocess_digest,
)
from vlp.inference.pooling import GeometricMean, LogOdds

FIGURES = dict.fromkeys(
    (
        "ece_before",
        "ece_cv",
        "brier_before",
        "brier_cv",
        "coverage_present_cv",
        "coverage_absent_cv",
        "indeterminate_cv",
    )
)


def made(**changes: Any) -> Calibration:
    """Effusion: positive from p = .7 on, negative up to .2, both possible between.  Mass: neither from .3 to .6."""

    def finding(q0: float, q1: float) -> dict[str, Any]:
        conformal = {"alpha": 0.1, "q0": q0, "q1": q1}
        score_map = {"kind": "platt", "slope": 1.0, "bias": 0.0}
        return {"map": score_map, "studies": 40, "positives": 12, "conformal": conformal, "figures": FIGURES}

    values: dict[str, Any] = {
        "vlp_version": "0",
        "model_fingerprint": "5a" * 32,
        "prompts_digest": "abc",
        "preprocess_digest": "d",
        "pooled_by": {},
        "fitted_on": {"archive": "x", "shards_sha256": "0", "split": "val", "studies": 40, "patients": 30},
        "findings": {"pleural effusion": finding(0.7, 0.8), "mass": finding(0.3, 0.4)},
        "maps": {"mass": {"threshold": 0.25, "texts": ["There is a mass."], "dice": 0.5, "images": 3}},
    }
    return Calibration.model_validate_json(json.dumps({**values, **changes}))


def engine(fingerprint: str = "5a" * 32) -> Any:
    return SimpleNamespace(fingerprint=fingerprint)


def test_maps_equal_their_formulae() -> None:
    logits = np.array([-3.0, 0.0, 1.5])
    assert Temperature(temperature=2.0).apply(logits)[2] == pytest.approx(1 / (1 + math.exp(-0.75)))
    platt = Platt(slope=2.0, bias=-1.0)
    assert platt.apply(logits)[2] == pytest.approx(1 / (1 + math.exp(-2.0)))
    steps = Isotonic(knots=(-1.0, 1.0), values=(0.1, 0.5), platt=platt, platt_share=0.1)
    flat, between, top = steps.apply(logits)
    assert flat == pytest.approx(0.9 * 0.1 + 0.1 * platt.apply(logits)[0])
    assert between == pytest.approx(0.9 * 0.3 + 0.1 * platt.apply(logits)[1])
    assert top == pytest.approx(0.9 * 0.5 + 0.1 * platt.apply(logits)[2])


@settings(max_examples=30, deadline=None)
@given(
    scores=st.lists(st.floats(0.001, 0.999), min_size=2, max_size=20, unique=True),
    values=st.lists(st.floats(0.0, 1.0), min_size=3, max_size=3).map(sorted),
)
def test_every_map_keeps_the_order_of_scores(scores: list[float], values: list[float]) -> None:
    rising = np.array(sorted({round(score, 3) for score in scores}))
    platt = Platt(slope=0.7, bias=0.2)
    isotonic = Isotonic(knots=(-1.0, 0.0, 2.0), values=tuple(values), platt=platt, platt_share=0.02)
    for score_map in (Temperature(temperature=3.0), platt, isotonic):
        finding = made().findings["mass"].model_copy(update={"map": score_map})
        calibration = made().model_copy(update={"findings": {"mass": finding}})
        probabilities = calibration.probability("mass", rising)
        assert (np.diff(probabilities) > 0).all()
        assert ((probabilities >= 0) & (probabilities <= 1)).all()


def test_probability_of_a_platt_of_slope_one_is_the_score() -> None:
    scores = np.array([[0.01, 0.3], [0.5, 0.99]])
    assert made().probability("pleural effusion", scores) == pytest.approx(scores)
    assert float(made().probability("Effusion", 0.3)) == pytest.approx(0.3), "NIH's name"
    assert np.isfinite(made().probability("mass", np.array([0.0, 1.0]))).all()


@pytest.mark.parametrize("bad", [-0.2, 1.2, float("nan")])
def test_cosines_and_not_a_number_are_refused(bad: float) -> None:
    with pytest.raises(DataError, match="pooled scores"):
        made().probability("mass", np.array([0.5, bad]))


@pytest.mark.parametrize(
    ("finding", "probability", "left", "state"),
    [
        ("pleural effusion", 0.71, {"present"}, "positive"),
        ("pleural effusion", 0.70, {"present", "absent"}, "indeterminate"),
        ("pleural effusion", 0.21, {"present", "absent"}, "indeterminate"),
        ("pleural effusion", 0.19, {"absent"}, "negative"),
        ("mass", 0.61, {"present"}, "positive"),
        ("mass", 0.45, set(), "indeterminate"),
        ("mass", 0.30, {"absent"}, "negative"),
    ],
)
def test_one_answer_left_is_a_decision(finding: str, probability: float, left: set[str], state: str) -> None:
    assert made().conformal_set(finding, probability) == left
    assert made().state(finding, probability) == state


def test_the_value_at_the_quantile_is_still_possible() -> None:
    present, absent = possible(Conformal(alpha=0.1, q0=0.25, q1=0.25), np.array([0.25, 0.75]))
    assert present.tolist() == [False, True]
    assert absent.tolist() == [True, False]


def test_unknown_findings_are_told_from_known_ones() -> None:
    calibration = made()
    assert calibration.knows("Pleural_Effusion")
    assert not calibration.knows("hernia")
    for ask in (calibration.probability, calibration.state, calibration.conformal_set):
        with pytest.raises(DataError, match="'hernia' was not calibrated"):
            ask("hernia", 0.5)


def test_map_thresholds_are_found_by_finding_and_by_sentence() -> None:
    calibration = made()
    assert calibration.map_threshold("Mass") == 0.25
    assert calibration.map_threshold("there is a  MASS") == 0.25
    assert calibration.map_threshold("There is no mass.") is None
    assert calibration.map_threshold("pleural effusion") is None


def test_pooling_is_rebuilt_from_its_numbers() -> None:
    assert made().pooling == GeometricMean()
    pooled_by = {"kind": "log_odds", "weights": {"a": 0.5}, "bias": {"mass": -1.0}}
    assert made(pooled_by=pooled_by).pooling == LogOdds(weights={"a": 0.5}, bias={"mass": -1.0})


def test_a_file_reads_back_to_the_same(tmp_path: Path) -> None:
    calibration = made()
    (tmp_path / FILE).write_text(calibration.to_json())
    assert Calibration.load(tmp_path) == Calibration.load(tmp_path / FILE) == calibration
    assert Calibration.load(tmp_path).digest == calibration.digest != made(prompts_digest="other").digest


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (None, "cannot read the calibration: No such file"),
        ("{", "the file: Invalid JSON"),
        ('{"schema_version": 2}', "schema_version: "),
        (made().to_json().replace('"q0": 0.7', '"q0": 7'), r"findings\.pleural effusion\.conformal\.q0"),
        (made().to_json().replace('"slope": 1.0', '"slope": NaN'), "Invalid JSON|finite"),
        (made().to_json().replace('"slope": 1.0', '"slope": -1.0'), "greater than or equal to 0"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path: Path, content: str | None, fault: str) -> None:
    path = tmp_path / FILE
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=fault) as caught:
        Calibration.load(path)
    assert len(str(caught.value).splitlines()) == 1


def test_knots_and_values_go_in_pairs() -> None:
    with pytest.raises(ValueError, match="one value per knot"):
        Isotonic(knots=(0.0, 1.0), values=(0.5,), platt=Platt(slope=1.0, bias=0.0), platt_share=0.1)
    with pytest.raises(ValueError, match="must rise"):
        Isotonic(knots=(1.0, 0.0), values=(0.1, 0.5), platt=Platt(slope=1.0, bias=0.0), platt_share=0.1)


def test_another_model_or_other_sentences_are_refused() -> None:
    calibration, same = made(), SimpleNamespace(digest="abc")
    calibration.refuse_other(engine(), same, prompts="both", protocol="vlp")
    calibration.refuse_other(engine())
    with pytest.raises(CheckpointError, match="made for another model"):
        calibration.refuse_other(engine("77" * 32), same)
    with pytest.raises(DataError, match="made with other sentences"):
        calibration.refuse_other(engine(), SimpleNamespace(digest="xyz"))
    with pytest.raises(DataError, match="for prompts 'both', not 'finding'"):
        calibration.refuse_other(engine(), same, prompts="finding")
    with pytest.raises(DataError, match="for protocol 'vlp', not 'xplainer'"):
        calibration.refuse_other(engine(), same, protocol="xplainer")
    assert calibration.misfit(engine(), same) is None


def test_the_artefact_lies_beside_the_checkpoints_of_a_run(tmp_path: Path) -> None:
    checkpoint = tmp_path / "run" / "checkpoints" / "final"
    checkpoint.mkdir(parents=True)
    assert find(checkpoint) is None
    folder = tmp_path / "run" / "calibration"
    folder.mkdir()
    (folder / FILE).write_text("{}")
    assert find(checkpoint) == find(tmp_path / "run") == folder / FILE
    alone = tmp_path / "copied"
    assert folder_of(alone) == alone / "calibration"


def test_digest_of_the_preprocessing_follows_it() -> None:
    assert preprocess_digest(Preprocess(size=64)) == preprocess_digest(Preprocess(size=64))
    assert preprocess_digest(Preprocess(size=64)) != preprocess_digest(Preprocess(size=64, fit="crop"))
