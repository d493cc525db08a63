import copy
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from vlp.inference.classify import weigh
from vlp.inference.diagnosis import DescriptorEvidence, FindingEvidence
from vlp.inference.engine import Engine
from vlp.inference.evidence import Where
from vlp.inference.pooling import GeometricMean, Groups, LogOdds, Pooling
from vlp.inference.statement import contrast, statement, unmatched


def finding(probabilities: list[float], *, rule: Pooling | None = None, **more) -> FindingEvidence:
    rule = rule if rule is not None else GeometricMean()
    ids = tuple(f"d{index}" for index in range(len(probabilities)))
    groups = Groups(findings=("pleural effusion",), ids=ids, starts=(0,))
    p = np.array([probabilities])
    return FindingEvidence(
        finding="pleural effusion",
        score=float(rule.pool(p, groups)[0, 0]),
        scale=rule.scale,
        offset=float(rule.offsets(groups)[0]),
        total=float(rule.totals(p, groups)[0, 0]),
        descriptors=tuple(
            DescriptorEvidence(
                id=name, text=f'sign "{name}" of 3 cm', anatomy="lung", positive="p", negative="n",
                positive_similarity=0.2, negative_similarity=0.1, probability=probability, contribution=float(share),
            )
            for name, probability, share in zip(ids, probabilities, rule.contributions(p, groups)[0], strict=True)
        ),
        **more,
    )  # fmt: skip


def test_the_one_that_decides_with_the_smallest_change() -> None:
    # Geometric mean 0.57; with d0 at 1/2 it is 0.46, with d1 0.48: either decides, d1 is the smaller change.
    found = contrast(finding([0.95, 0.8, 0.24]))
    assert found is not None
    assert found.descriptor == "d1"
    assert found.decision == "above undecided"
    assert found.decision_without == "below undecided"
    assert found.num_together == 1
    assert found.similarity == pytest.approx((0.95 * 0.8 * 0.24) ** (1 / 3))
    assert found.similarity_without == pytest.approx((0.95 * 0.5 * 0.24) ** (1 / 3), abs=1e-12)


def test_a_weighted_finding_is_pooled_again_by_its_own_rule() -> None:
    rule = LogOdds(weights={"d0": 2.0, "d1": 0.5}, bias={"pleural effusion": -0.5})
    found = contrast(finding([0.7, 0.6], rule=rule))
    assert found is not None
    assert found.descriptor == "d0"
    expected = -0.5 + 0.5 * math.log(0.6 / 0.4)
    assert found.similarity_without == pytest.approx(1 / (1 + math.exp(-expected)), abs=1e-12)


def test_no_single_one_decides() -> None:
    several = finding([0.9, 0.9, 0.9, 0.3])
    assert several.contrast is not None
    assert several.contrast.descriptor is None
    assert several.contrast.num_together == 3
    assert "No single descriptor decides; the 3 strongest together would." in several.statement.text
    # All agree: undecided is not the other decision, so nothing that is left out leads to it.
    all_agree = finding([0.9, 0.8])
    assert all_agree.contrast is not None
    assert all_agree.contrast.num_together is None
    assert "nor do several together: it stays above undecided" in all_agree.statement.text


def test_against_a_finding_it_works_alike() -> None:
    found = contrast(finding([0.1, 0.6]))
    assert found is not None
    assert found.decision == "below undecided"
    assert found.descriptor == "d0"


def test_calibrated_decisions() -> None:
    def decide(score: float) -> tuple[str, float]:
        probability = score**2
        return ("positive" if probability > 0.6 else "indeterminate" if probability > 0.4 else "negative"), probability

    base = finding([0.95, 0.8], probability=0.76, state="positive", conformal=("present",))
    shown = replace(base, decide=decide)
    assert shown.contrast is not None
    assert shown.contrast.decision_without == "indeterminate"
    assert shown.contrast.descriptor == "d1"
    assert shown.contrast.probability_without == pytest.approx(0.95 * 0.5)
    text = shown.statement.text
    assert text.startswith("Pleural effusion: positive, probability 76.0 % (calibrated).")
    assert "76.0 % -> 47.5 %" in text
    assert not unmatched(json.loads(json.dumps(shown.to_json())))


def test_uncalibrated_statements_show_no_percent_and_quote_descriptors() -> None:
    shown = finding([0.95, 0.3])
    text = shown.statement.text
    assert "%" not in text
    assert "similarity 0.534, uncalibrated" in text
    assert """"sign 'd0' of 3 cm" (0.950)""" in text


def test_a_place_is_told() -> None:
    place = Where(
        box=(0, 0, 5, 5), peak=(1, 1), side="left", zone="lower", lung_share=None, area_share=0.1, lungs=None
    )  # fmt: skip
    base = finding([0.9, 0.3])
    first = replace(base.descriptors[0], where=(place,))
    assert "(0.900), left lower." in replace(base, descriptors=(first, base.descriptors[1])).statement.text


def test_every_number_of_a_real_answer_is_in_its_json(engine: Engine, pictures: list[np.ndarray]) -> None:
    for answer in weigh(engine, engine.features(pictures)[0]).diagnoses():
        for content in json.loads(json.dumps(answer.to_json()))["findings"]:
            assert unmatched(content) == ()
            assert content["statement"]["numbers"]


@pytest.mark.parametrize("change", ["text", "value", "number", "extra"])
def test_a_statement_that_says_something_else_is_caught(change: str) -> None:
    content = json.loads(json.dumps(finding([0.95, 0.3]).to_json()))
    assert unmatched(content) == ()
    spoiled = copy.deepcopy(content)
    if change == "text":
        spoiled["statement"]["text"] = spoiled["statement"]["text"].replace("0.534", "0.634")
    elif change == "value":
        spoiled["similarity"] += 0.1
    elif change == "number":
        spoiled["statement"]["numbers"][0]["shown"] = "0.999"
    else:
        spoiled["statement"]["text"] += " In 12 of 100 cases."
    assert unmatched(spoiled)


def test_a_finding_without_descriptors_has_a_statement() -> None:
    bare = FindingEvidence(
        finding="no finding", score=0.4, scale="log", offset=math.log(0.4), total=math.log(0.4), descriptors=()
    )
    assert contrast(bare) is None
    assert statement(bare).text == "No finding: similarity 0.400, uncalibrated."
