from dataclasses import replace

import numpy as np
import pytest

from vlp.data import open_shards
from vlp.evaluate import answers
from vlp.evaluate.config import EvaluateConfig
from vlp.evaluate.looking import Look, look, plan
from vlp.evaluate.questions import Questions
from vlp.inference.classify import weigh
from vlp.inference.gate import Verdict
from vlp.prompts.templates import TEMPLATES, paraphrases

TASKS = ("classification", "negation", "calibration")


@pytest.fixture
def seen(engine, settings: EvaluateConfig) -> Look:
    reader = open_shards(settings.shards)
    asked = settings.model_copy(update={"tasks": TASKS})
    jobs = plan(reader, asked, ("mass",))
    return look(engine, reader, [job for job in jobs if job.images][:5])


def sigma(value: float) -> float:
    return float(1.0 / (1.0 + np.exp(-value)))


def test_negation_is_the_pair_of_sentences_that_name_the_finding(seen: Look, questions: Questions) -> None:
    rows: dict = {"negation": []}
    answers.negation(rows, seen, questions)
    assert len(rows["negation"]) == 5 * 3
    _, logits = seen.engine.scores(["There is a mass.", "There is no mass."], seen.features)
    own = [row for row in rows["negation"] if row["finding"] == "mass"]
    for number, row in enumerate(own):
        there, not_there = logits[:, number].tolist()
        assert row["pos"] == pytest.approx(there)
        assert row["neg"] == pytest.approx(-not_there)
        assert row["pnc"] == pytest.approx(sigma(there - not_there))
        assert row["study_id"] == seen.jobs[number].key
        assert row["label"] == str(seen.jobs[number].study.labels["mass"])


def test_every_wording_is_asked_with_its_negation(seen: Look, questions: Questions) -> None:
    rows: dict = {"paraphrases": []}
    answers.paraphrased(rows, seen, questions)
    assert len(rows["paraphrases"]) == 5 * 3 * len(TEMPLATES)
    for ask in paraphrases("cardiomegaly"):
        _, logits = seen.engine.scores([ask.positives[0], ask.negatives[0]], seen.features)
        found = [row for row in rows["paraphrases"] if (row["finding"], row["wording"]) == ("cardiomegaly", ask.id)]
        assert [row["score"] for row in found] == pytest.approx([sigma(a - b) for a, b in logits.T])


def test_probabilities_sets_and_states_are_the_calibrations(
    engine, seen: Look, questions: Questions, settings: EvaluateConfig, calibration_of
) -> None:
    calibration = calibration_of(settings.shards)
    rows: dict = {"calibration": []}
    answers.calibrated(rows, seen, replace(questions, calibration=calibration))
    assert {row["finding"] for row in rows["calibration"]} == {"cardiomegaly", "mass"}
    evidence = weigh(engine, seen.features, ("mass",))
    own = [row for row in rows["calibration"] if row["finding"] == "mass"]
    for row, score in zip(own, evidence.scores[:, 0], strict=True):
        assert row["score"] == pytest.approx(score)
        assert row["probability"] == pytest.approx(score, abs=1e-5)
        assert row["possible"] == [
            name for name, holds in (("absent", score <= 0.7), ("present", score >= 0.3)) if holds
        ]
        assert row["state"] in {"positive", "negative", "indeterminate"}
        assert row["gate"] is None, "there is no gate"


def test_the_similarity_beside_fitted_weights_is_the_plain_one(
    engine, seen: Look, questions: Questions, settings: EvaluateConfig, calibration_of
) -> None:
    evidence = weigh(engine, seen.features, ("mass", "cardiomegaly"))
    weights = {one.id: 2.0 for one in evidence.descriptors}
    pooled = {"kind": "log_odds", "weights": weights, "bias": {"mass": -1.0, "cardiomegaly": -1.0}}
    rows: dict = {"calibration": []}
    fitted = calibration_of(settings.shards, pooled_by=pooled)
    answers.calibrated(rows, seen, replace(questions, calibration=fitted))
    own = [row for row in rows["calibration"] if row["finding"] == "mass"]
    assert [row["score"] for row in own] == pytest.approx(evidence.scores[:, 0])
    assert [row["probability"] for row in own] != pytest.approx(evidence.scores[:, 0], abs=1e-3)


class Strict:
    """A gate that refuses the images with these numbers."""

    def __init__(self, *refused: int) -> None:
        self.refused = refused

    def judge(self, looked) -> tuple[Verdict, ...]:
        return tuple(
            Verdict(accepted=number not in self.refused, reason="rotated" if number in self.refused else None,
                    score=0.0, scores={})
            for number in range(len(looked.seen))
        )  # fmt: skip


def test_the_gate_speaks_for_the_study_it_refuses(
    engine, seen: Look, questions: Questions, settings: EvaluateConfig, calibration_of
) -> None:
    rows: dict = {"calibration": []}
    asked = replace(questions, calibration=calibration_of(settings.shards), gate=Strict(2))
    answers.calibrated(rows, seen, asked)
    gates = [row["gate"] for row in rows["calibration"] if row["finding"] == "mass"]
    assert gates == ["", "", "rotated", "", ""]


def test_studies_that_were_not_looked_at_keep_their_rows(
    settings: EvaluateConfig, engine, questions, calibration_of
) -> None:
    reader = open_shards(settings.shards)
    jobs = plan(reader, settings.model_copy(update={"tasks": TASKS}), ("mass",))
    lateral = next(job for job in jobs if not job.images)
    rows: dict = {"negation": [], "calibration": []}
    answers.refuse(rows, lateral, replace(questions, calibration=calibration_of(settings.shards)))
    assert [len(rows[task]) for task in rows] == [3, 2]
    for row in rows["negation"] + rows["calibration"]:
        assert row["status"] == "refused"
        assert row["label"] == str(lateral.study.labels[row["finding"]])
    assert rows["calibration"][0]["state"] == "not assessable"
