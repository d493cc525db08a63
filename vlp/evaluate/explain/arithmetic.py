"""Whether evidence is what it says it is: exact tests of the diagnosis' arithmetic, where it will do from its JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float

from vlp.evaluate.explain.agreement import spearman
from vlp.evaluate.explain.sample import Sample
from vlp.evaluate.explain.table import Row, checked, estimated, missing
from vlp.inference.classify import Evidence
from vlp.inference.statement import unmatched
from vlp.metrics.bootstrap import patient_bootstrap, weighted_mean
from vlp.records import Certainty

TOLERANCE = 1e-6
_RANKS = 1e-9
_DIGITS = 12
"""Beyond which equal numbers differ by rounding."""
_FEWEST = 3
"""Descriptors without which ranks mean nothing."""


def measure(sample: Sample, *, resamples: int, seed: int) -> list[Row]:
    """Additivity, descriptor ablation, contradictions, and the numbers of statements."""
    diagnoses = [json.loads(json.dumps(diagnosis.to_json())) for diagnosis in sample.evidence.diagnoses()]
    return [
        additivity(diagnoses),
        ablation(sample.evidence),
        contradiction(sample, resamples=resamples, seed=seed),
        statements(diagnoses),
    ]


def additivity(diagnoses: Sequence[Mapping[str, Any]]) -> Row:
    """The largest difference between a score and what the JSON's own descriptors give, by two ways.

    From the descriptors' probabilities by the rule of pooling, and as offset plus contributions.
    """
    differences = [
        max(abs(finding["similarity"] - recomputed(finding, diagnosis["pooling"])), _sum_difference(finding))
        for diagnosis in diagnoses
        for finding in diagnosis["findings"]
    ]
    largest = max(differences)
    return checked(
        "additivity",
        "largest difference",
        largest,
        kept=largest <= TOLERANCE,
        rule=f"<= {TOLERANCE:g}",
        n=len(differences),
        method="scores recomputed from the JSON: from the descriptors' probabilities, and from their contributions",
    )


def recomputed(finding: Mapping[str, Any], pooling: Mapping[str, Any]) -> float:
    """The score of a finding of a diagnosis' JSON, from the probabilities of its descriptors."""
    p = np.array([item["pair_softmax"] for item in finding["descriptors"]])
    if pooling["kind"] == "geometric_mean":
        p = np.clip(p, pooling["clip"], 1.0 - pooling["clip"])
        return float(np.prod(p ** (1.0 / p.size)))
    p = np.clip(p, TOLERANCE, 1.0 - TOLERANCE)
    fitted = finding["finding"] in pooling["bias"]
    weights = [pooling["weights"][item["id"]] if fitted else 1.0 / p.size for item in finding["descriptors"]]
    logit = pooling["bias"].get(finding["finding"], 0.0) + float(np.dot(weights, np.log(p / (1.0 - p))))
    return float(1.0 / (1.0 + np.exp(-logit)))


def ablation(evidence: Evidence) -> Row:
    """The worst rank agreement between contributions and what a score loses when that descriptor is left out."""
    worst, studied = 1.0, 0
    for column in range(len(evidence.findings)):
        columns = evidence.groups.columns(column)
        members = range(columns.start, columns.stop)
        if len(members) < _FEWEST:
            continue
        lost = np.stack([_loss(evidence, column, index) for index in members], axis=1)
        for shown, losses in zip(evidence.contributions[:, columns].round(_DIGITS), lost.round(_DIGITS), strict=True):
            if np.ptp(shown) > 0:  # equal contributions have no order
                worst, studied = min(worst, spearman(shown, losses)), studied + 1
    test, what, rule = "descriptor ablation", "lowest rank agreement", "Spearman = 1"
    if not studied:
        return missing(test, what, f"no finding has {_FEWEST} descriptors that differ", rule=rule)
    return checked(
        test,
        what,
        worst,
        kept=worst >= 1.0 - _RANKS,
        rule=rule,
        n=studied,
        method="each descriptor left out in turn, the finding pooled again; score lost against contribution shown",
    )


def contradiction(sample: Sample, *, resamples: int, seed: int) -> Row:
    """How often a finding is called present while none of its descriptors speaks for it (p_d > 1/2)."""
    called, how = _called(sample)
    evidence = sample.evidence
    speaks = np.stack(
        [
            (evidence.probability[:, evidence.groups.columns(column)] > 0.5).any(axis=1)
            for column in range(len(evidence.findings))
        ],
        axis=1,
    )
    rows, columns = np.nonzero(called)
    if not rows.size:
        return missing("contradiction", "share of the findings called", "no finding was called present")
    values = 1.0 - speaks[rows, columns].astype(np.float64)
    patients = [sample.patients[row] for row in rows]
    estimate = patient_bootstrap(weighted_mean(values), patients, resamples=resamples, seed=seed)
    method = f"no descriptor above undecided, of the findings called present: {how}"
    return estimated("contradiction", "share of the findings called", estimate, method=method)


def statements(diagnoses: Sequence[Mapping[str, Any]]) -> Row:
    """How many statements hold a number that is not one of their finding's JSON."""
    findings = [finding for diagnosis in diagnoses for finding in diagnosis["findings"]]
    wrong = sum(bool(unmatched(finding)) for finding in findings)
    return checked(
        "statement",
        "statements with another number",
        float(wrong),
        kept=wrong == 0,
        rule="= 0",
        n=len(findings),
        method="every numeral of the text is a number of the finding's JSON, rounded as shown",
    )


def _sum_difference(finding: Mapping[str, Any]) -> float:
    total = finding["offset"] + sum(item["contribution"] for item in finding["descriptors"])
    score = np.exp(total) if finding["scale"] == "log" else 1.0 / (1.0 + np.exp(-total))
    return float(abs(score - finding["similarity"]))


def _loss(evidence: Evidence, column: int, index: int) -> Float[np.ndarray, " image"]:
    """What the total of a finding loses when one of its descriptors had never been asked."""
    own = evidence.groups.columns(column)
    columns = [one for one in range(own.start, own.stop) if one != index]
    alone = replace(
        evidence,
        findings=(evidence.findings[column],),
        descriptors=tuple(evidence.descriptors[one] for one in columns),
        starts=(0,),
        positive=evidence.positive[:, columns],
        negative=evidence.negative[:, columns],
        probability=evidence.probability[:, columns],
        one_minus_max=False,
    )
    before = evidence.pooling.totals(evidence.probability, evidence.groups)[:, column]
    lost: np.ndarray = before - alone.pooling.totals(alone.probability, alone.groups)[:, 0]
    return lost


def _called(sample: Sample) -> tuple[np.ndarray, str]:
    """(whether a finding is called present [image finding], by what rule)."""
    scores = sample.evidence.scores
    calibration = sample.calibration
    called = np.zeros(scores.shape, dtype=bool)
    for column, finding in enumerate(sample.evidence.findings):
        if calibration is not None and calibration.knows(finding):
            probabilities = calibration.probability(finding, scores[:, column])
            called[:, column] = [calibration.state(finding, float(p)) == "positive" for p in probabilities]
        else:
            present = sum(study.labels.get(finding) is Certainty.PRESENT for study in sample.studies)
            called[np.argsort(-scores[:, column], kind="stable")[:present], column] = True
    if calibration is None:
        return called, "without a calibration, as many of the highest scores as studies have the finding"
    return called, "the calibration's decision"
