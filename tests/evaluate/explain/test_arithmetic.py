import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.inference.calibrated import made_calibration
from vlp.evaluate.explain import arithmetic
from vlp.evaluate.explain.sample import Sample
from vlp.inference.pooling import GeometricMean, LogOdds


@pytest.fixture
def diagnoses(sided: Sample) -> list[dict[str, Any]]:
    return json.loads(json.dumps([diagnosis.to_json() for diagnosis in sided.evidence.diagnoses()]))


def _fitted(sample: Sample) -> LogOdds:
    rng = np.random.default_rng(0)
    ids = [pair.id for pair in sample.evidence.descriptors]
    return LogOdds(weights={name: float(rng.uniform(0.1, 2.0)) for name in ids}, bias={"mass": -0.7})


def test_all_exact_tests_pass_on_what_the_package_makes(sided: Sample, untrained: Sample) -> None:
    for sample in (sided, untrained):
        rows = {row.test: row for row in arithmetic.measure(sample, resamples=100, seed=0)}
        # To the drawn model all descriptors of a finding are one.
        ablation = "not run" if sample is sided else "passed"
        assert {name: row.outcome for name, row in rows.items()} == {
            "additivity": "passed",
            "descriptor ablation": ablation,
            "contradiction": "reported",
            "statement": "passed",
        }
        assert rows["additivity"].n == len(sample.studies) * len(sample.findings)


def test_fitted_weights_add_up_too(untrained: Sample) -> None:
    weighted = replace(untrained.evidence, pooling=_fitted(untrained))
    content = json.loads(json.dumps([diagnosis.to_json() for diagnosis in weighted.diagnoses()]))
    assert arithmetic.additivity(content).outcome == "passed"
    assert arithmetic.ablation(weighted).outcome == "passed"
    changed = content[0]["pooling"]
    changed["bias"]["mass"] += 0.01
    assert arithmetic.additivity(content).outcome == "failed"


@pytest.mark.parametrize("field", ["pair_softmax", "contribution"])
def test_a_descriptor_that_does_not_belong_to_the_score_is_noticed(diagnoses: list[dict[str, Any]], field: str) -> None:
    diagnoses[1]["findings"][0]["descriptors"][2][field] *= 0.999
    row = arithmetic.additivity(diagnoses)
    assert row.outcome == "failed"
    assert row.value is not None
    assert row.value > 1e-6


class _Reversed(GeometricMean):
    """Shows contributions that have nothing to do with the score."""

    def contributions(self, probability, groups):
        return -super().contributions(probability, groups)

    def totals(self, probability, groups):
        return GeometricMean().totals(probability, groups)


def test_weights_that_are_only_shown_fail_the_ablation(untrained: Sample) -> None:
    row = arithmetic.ablation(replace(untrained.evidence, pooling=_Reversed()))
    assert row.outcome == "failed"
    assert row.value == pytest.approx(-1.0)


def test_a_call_against_every_descriptor_is_a_contradiction(sided: Sample) -> None:
    evidence = replace(sided.evidence, probability=np.full_like(sided.evidence.probability, 0.4))
    against = replace(sided)
    object.__setattr__(against, "evidence", evidence)
    row = arithmetic.contradiction(against, resamples=100, seed=0)
    assert row.value == 1.0
    assert row.n == len(sided.present), "as many are called as studies have the finding"
    assert arithmetic.contradiction(sided, resamples=100, seed=0).value == 0.0


def test_a_calibration_decides_what_is_called(sided: Sample) -> None:
    calibration = made_calibration(sided.engine)
    content = calibration.model_dump(mode="json")
    content["findings"]["mass"] = content["findings"].pop("nodule")  # positive from a score of 0.6 on
    calibrated = replace(sided, calibration=type(calibration).model_validate_json(json.dumps(content)))
    row = arithmetic.contradiction(calibrated, resamples=100, seed=0)
    column = sided.findings.index("mass")
    called = int((sided.evidence.scores[:, column] > 0.6).sum())
    assert row.n == called
    assert "calibration" in row.method


def test_a_number_that_is_not_in_the_json_is_noticed(diagnoses: list[dict[str, Any]]) -> None:
    assert arithmetic.statements(diagnoses).outcome == "passed"
    statement = diagnoses[0]["findings"][0]["statement"]
    statement["text"] += " Confidence 0.123."
    row = arithmetic.statements(diagnoses)
    assert (row.outcome, row.value) == ("failed", 1.0)
