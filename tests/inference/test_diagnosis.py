import json
import math

import numpy as np
import pytest

from vlp.inference.diagnosis import DescriptorEvidence, Diagnosis, FindingEvidence, GateResult
from vlp.inference.engine import Engine

FINDING_KEYS = {
    "finding", "state", "similarity", "probability", "conformal_set", "scale", "offset", "total", "descriptors",
    "contrast", "statement",
}  # fmt: skip
KEYS = {
    "schema_version", "kind", "note", "gate", "findings", "num_images", "prompts", "temperature", "vocabulary",
    "pooling", "fusion", "digests", "warnings", "timings_s",
}  # fmt: skip


def diagnosis(*findings: FindingEvidence, **more) -> Diagnosis:
    return Diagnosis(
        findings=findings, num_images=1, prompts="both", temperature=None, vocabulary="made",
        pooling={"kind": "geometric_mean", "clip": 1e-6}, **more,
    )  # fmt: skip


def finding(name: str, score: float, **more) -> FindingEvidence:
    return FindingEvidence(
        finding=name, score=score, scale="log", offset=math.log(score), total=math.log(score), descriptors=(), **more
    )


def descriptor(contribution: float) -> DescriptorEvidence:
    return DescriptorEvidence(
        id="d", text="t", anatomy="a", positive="p", negative="n", positive_similarity=0.1, negative_similarity=0.1,
        probability=0.5, contribution=contribution,
    )  # fmt: skip


def test_json_of_a_real_answer(engine: Engine, pictures: list[np.ndarray]) -> None:
    answer = engine.classify(pictures[0])
    content = json.loads(json.dumps(answer.to_json(), allow_nan=False))
    assert set(content) == KEYS
    assert content["schema_version"] == 1
    assert content["kind"] == "similarity-based, uncalibrated"
    assert "not a medical device" in content["note"]
    assert "not reviewed by a radiologist" in content["vocabulary"]
    assert content["pooling"] == {"kind": "geometric_mean", "clip": 1e-6}
    assert "%" not in json.dumps(content)
    for entry, evidence in zip(content["findings"], answer.findings, strict=True):
        assert set(entry) == FINDING_KEYS
        assert entry["state"] == "uncalibrated"
        assert entry["probability"] is None
        assert entry["similarity"] == evidence.score
        assert entry["offset"] + sum(item["contribution"] for item in entry["descriptors"]) == pytest.approx(
            entry["total"], abs=1e-12
        )
        assert math.exp(entry["total"]) == pytest.approx(entry["similarity"], abs=1e-12)


def test_ranked() -> None:
    answer = diagnosis(finding("b", 0.5), finding("c", 0.9), finding("a", 0.5))
    assert [evidence.finding for evidence in answer.ranked()] == ["c", "a", "b"]
    assert answer.scores == {"b": 0.5, "c": 0.9, "a": 0.5}


def test_the_strongest_for_and_against() -> None:
    shown = [descriptor(0.2), descriptor(-0.1), descriptor(0.3)]
    evidence = FindingEvidence(finding="f", score=0.5, scale="log", offset=0.0, total=0.0, descriptors=tuple(shown))
    assert evidence.strongest() == (shown[2], shown[1])
    only_for = FindingEvidence(finding="f", score=0.5, scale="log", offset=0, total=0, descriptors=(descriptor(0.2),))
    assert only_for.strongest() == (only_for.descriptors[0], None)


def test_the_log_score_of_a_logit() -> None:
    evidence = FindingEvidence(finding="f", score=0.25, scale="logit", offset=0.0, total=-1.0986, descriptors=())
    assert evidence.log_score == pytest.approx(math.log(0.25))


def test_what_was_calibrated_is_said_to_be() -> None:
    answer = diagnosis(finding("a", 0.5, probability=0.1, state="negative", conformal=("absent",)), finding("b", 0.4))
    assert answer.calibrated
    content = answer.to_json()
    assert content["kind"].startswith("calibrated where")
    assert content["findings"][0]["conformal_set"] == ["absent"]
    assert content["findings"][1]["state"] == "uncalibrated"


def test_a_refusal_has_states_and_no_numbers() -> None:
    image = {"accepted": False, "reason": "rotated", "message": "turn it", "score": 3.0}
    answer = diagnosis(gate=GateResult(accepted=False, images=(image, image)), not_assessable=("nodule", "mass"))
    assert answer.refused
    content = json.loads(json.dumps(answer.to_json()))
    assert content["gate"]["message"] == "turn it"
    assert [entry["finding"] for entry in content["findings"]] == ["nodule", "mass"]
    for entry in content["findings"]:
        assert set(entry) == FINDING_KEYS
        assert entry["state"] == "not assessable"
        assert entry["similarity"] is None
        assert entry["statement"]["text"].endswith("not assessable.")
