"""Prediction rows of the tasks about trust: negated sentences, other wordings, probabilities and refusals."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from vlp.evaluate.looking import Job, Look, labels_of
from vlp.evaluate.predictions import PARAPHRASES
from vlp.evaluate.questions import Questions
from vlp.inference.classify import weigh
from vlp.inference.pooling import GeometricMean, sigma
from vlp.inference.scoring import compare
from vlp.inference.scoring import negation as asked_both_ways
from vlp.prompts.templates import paraphrases

NOT_ASSESSABLE = "not assessable"
Rows = Mapping[str, list[dict[str, Any]]]


def negation(rows: Rows, look: Look, questions: Questions) -> None:
    """Adds how every study answers "There is F." and "There is no F."."""
    asked = look.asked("negation")
    if not asked:
        return
    found = asked_both_ways(look.engine, look.features, questions.findings, descriptors=questions.descriptors)
    pos, neg, pnc = (look.per_study(values) for values in (found.pos, found.neg, found.pnc))
    for number, job in asked:
        values = [
            {"pos": one[0], "neg": one[1], "pnc": one[2]}
            for one in zip(pos[number].tolist(), neg[number].tolist(), pnc[number].tolist(), strict=True)
        ]
        rows["negation"] += _rows(job, questions, questions.findings, values)


def paraphrased(rows: Rows, look: Look, questions: Questions) -> None:
    """Adds the score sigma(z+ - z-) of every finding in every other wording."""
    asked = look.asked("classification")
    if PARAPHRASES not in rows or not asked:
        return
    wordings = [paraphrases(finding) for finding in questions.findings]
    asks = [one for group in wordings for one in group]
    _, logits = compare(look.engine, look.features, [one.positives for one in asks] + [one.negatives for one in asks])
    values = look.per_study(sigma(logits[:, : len(asks)] - logits[:, len(asks) :]))
    columns = np.cumsum([0, *(len(group) for group in wordings)])
    for wording in range(min(len(group) for group in wordings)):
        name = wordings[0][wording].id
        for number, job in asked:
            scores = values[number, columns[:-1] + wording].tolist()
            values_of = [{"wording": name, "score": score} for score in scores]
            rows[PARAPHRASES] += _rows(job, questions, questions.findings, values_of)


def calibrated(rows: Rows, look: Look, questions: Questions) -> None:
    """Adds similarity, probability and conformal set of every study, and what the gate says of its images.

    The similarity is the geometric mean of the descriptors, also where the calibration pools by weights: those are
    fitted, so that their score is half a probability already.
    """
    asked = look.asked("calibration")
    calibration, known = questions.calibration, questions.calibrated
    if not asked or calibration is None:
        return
    evidence = weigh(
        look.engine,
        look.features,
        known,
        descriptors=questions.descriptors,
        prompts=calibration.prompts,
        pooling=calibration.pooling,
    )
    fused = evidence.fused(look.owner)
    scores, similarity = fused.scores, replace(fused, pooling=GeometricMean()).scores
    verdicts = _verdicts(look, questions)
    for number, job in asked:
        values = []
        for column, finding in enumerate(known):
            probability = float(calibration.probability(finding, scores[number : number + 1, column])[0])
            values.append(
                {
                    "score": float(similarity[number, column]),
                    "probability": probability,
                    "possible": sorted(calibration.conformal_set(finding, probability)),
                    "state": calibration.state(finding, probability),
                    "gate": verdicts[number],
                }
            )
        rows["calibration"] += _rows(job, questions, known, values)


def refuse(rows: Rows, job: Job, questions: Questions) -> None:
    """Adds the rows of a study that was not looked at."""
    nothing: dict[str, tuple[Sequence[str], dict[str, Any]]] = {
        "negation": (questions.findings, dict.fromkeys(("pos", "neg", "pnc"))),
        "calibration": (
            questions.calibrated,
            {"score": None, "probability": None, "possible": [], "state": NOT_ASSESSABLE, "gate": None},
        ),
    }
    for task, (findings, values) in nothing.items():
        if task in job.tasks:
            rows[task] += _rows(job, questions, findings, [values] * len(findings))


def _verdicts(look: Look, questions: Questions) -> list[str | None]:
    """Per study why the gate refuses the first of its images that it refuses; "": none of them; None: no gate."""
    if questions.gate is None:
        return [None] * len(look.jobs)
    reasons: list[str | None] = [""] * len(look.jobs)
    for owner, verdict in zip(look.owner, questions.gate.judge(look.looked), strict=True):
        reasons[owner] = reasons[owner] or verdict.reason or ""
    return reasons


def _rows(
    job: Job, questions: Questions, findings: Sequence[str], values: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """One row per finding, with what is common to all tables."""
    labels = labels_of(job, findings)
    return [
        {**questions.provenance.columns(), **job.columns(), "finding": finding, **own, "label": labels[finding]}
        for finding, own in zip(findings, values, strict=True)
    ]
