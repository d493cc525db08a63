import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from vlp.errors import DataError
from vlp.inference.classify import Evidence, weigh
from vlp.inference.engine import Engine
from vlp.inference.pooling import LogOdds
from vlp.prompts.descriptors import Descriptor, load_descriptors

FINDINGS = ["pleural effusion", "nodule", "pneumothorax"]


def naive(
    engine: Engine, image: np.ndarray, finding: str, prompts: str, temperature: float | None
) -> tuple[float, list]:
    """One image, one descriptor, one sentence at a time, by the formulae."""
    model = engine.model
    pixels, _, padding = model.config.preprocess.apply(image)
    tau = model.scorer.temperature().item() if temperature is None else temperature
    probabilities = []
    with torch.inference_mode():
        features = model.encode_images(
            torch.from_numpy(pixels)[None, None],
            padding=None if padding is None else torch.from_numpy(padding)[None],
        )
        for descriptor in load_descriptors().of(finding, prompts=prompts):
            there, not_there = (
                float(model.score(model.encode_texts(model.tokenizer([text])), features).similarity)
                for text in (descriptor.positive, descriptor.negative)
            )
            probabilities.append(1.0 / (1.0 + math.exp(-(there - not_there) / tau)))
    return math.prod(probabilities) ** (1.0 / len(probabilities)), probabilities


@pytest.mark.parametrize(("prompts", "temperature"), [("both", None), ("descriptors", 0.5), ("finding", None)])
def test_equals_a_naive_loop(engine: Engine, pictures: list[np.ndarray], prompts, temperature) -> None:
    features, _ = engine.features(pictures[:3])
    answers = weigh(engine, features, FINDINGS, prompts=prompts, temperature=temperature).diagnoses()
    for image, answer in zip(pictures[:3], answers, strict=True):
        assert list(answer.scores) == FINDINGS
        for evidence in answer.findings:
            score, probabilities = naive(engine, image, evidence.finding, prompts, temperature)
            assert [item.probability for item in evidence.descriptors] == pytest.approx(probabilities, abs=1e-4)
            assert evidence.score == pytest.approx(score, abs=1e-4)


def test_contributions_add_up_to_the_log_score(engine: Engine, pictures: list[np.ndarray]) -> None:
    for answer in weigh(engine, engine.features(pictures)[0]).diagnoses():
        assert len(answer.findings) == 19
        for evidence in answer.findings:
            total = sum(item.contribution for item in evidence.descriptors)
            assert evidence.log_score == pytest.approx(math.log(0.5) + total, abs=1e-12)
            assert evidence.score == pytest.approx(math.exp(evidence.log_score), abs=1e-12)
            for item in evidence.descriptors:
                assert (item.contribution > 0) == (item.probability > 0.5)
                assert (item.positive_similarity > item.negative_similarity) == (item.probability > 0.5)
            loudest, softest = evidence.strongest()
            shares = [item.contribution for item in evidence.descriptors]
            assert loudest is None or loudest.contribution == max(shares) > 0
            assert softest is None or softest.contribution == min(shares) < 0


def test_nothing_but_its_own_descriptors_moves_a_finding(engine: Engine, pictures: list[np.ndarray]) -> None:
    features, _ = engine.features(pictures[:2])
    together = weigh(engine, features, FINDINGS)
    for column, name in enumerate(FINDINGS):
        alone = weigh(engine, features, [name])
        np.testing.assert_allclose(alone.scores[:, 0], together.scores[:, column], atol=1e-6)


def made(probability: np.ndarray, *, sizes: tuple[int, ...]) -> Evidence:
    descriptors = tuple(
        Descriptor(id=f"d{index}", finding="f", text="t", anatomy="a", positive="p", negative="n")
        for index in range(probability.shape[1])
    )
    return Evidence(
        findings=tuple(f"f{index}" for index in range(len(sizes))),
        descriptors=descriptors,
        starts=tuple(int(start) for start in np.cumsum((0, *sizes[:-1]))),
        positive=probability / 2,
        negative=-probability / 2,
        probability=probability,
        num_images=(1,) * len(probability),
        prompts="both",
        temperature=None,
        vocabulary="made",
    )


def test_several_images_of_a_study_are_averaged_before_the_logarithm() -> None:
    probability = np.array([[0.9, 0.2, 0.5], [0.1, 0.6, 0.5], [0.8, 0.8, 0.3]])
    fused = made(probability, sizes=(2, 1)).fused([0, 0, 1])
    np.testing.assert_allclose(fused.probability, [[0.5, 0.4, 0.5], [0.8, 0.8, 0.3]])
    np.testing.assert_allclose(fused.scores, [[math.sqrt(0.5 * 0.4), 0.5], [0.8, 0.3]])
    np.testing.assert_allclose(fused.positive[0], [0.25, 0.2, 0.25])
    assert fused.num_images == (2, 1)
    assert [answer.num_images for answer in fused.diagnoses()] == [2, 1]


def test_the_strongest_view_of_each_descriptor() -> None:
    probability = np.array([[0.9, 0.2, 0.5], [0.1, 0.6, 0.5], [0.8, 0.8, 0.3]])
    single = made(probability, sizes=(2, 1))
    fused = single.fused([0, 0, 1], fusion="max")
    np.testing.assert_allclose(fused.probability, [[0.9, 0.6, 0.5], [0.8, 0.8, 0.3]])
    # The similarities are those of the view that was chosen, so that they still explain the probability.
    np.testing.assert_allclose(fused.positive, fused.probability / 2)
    np.testing.assert_allclose(fused.negative, -fused.probability / 2)
    assert fused.fusion == "max"
    assert fused.diagnoses()[0].fusion == "max"


def test_frontal_views_alone() -> None:
    probability = np.array([[0.9, 0.2], [0.1, 0.6], [0.8, 0.8], [0.4, 0.2]])
    single = made(probability, sizes=(2,))
    fused = single.fused([0, 0, 1, 1], fusion="frontal", frontal=[True, False, True, True])
    np.testing.assert_allclose(fused.probability, [[0.9, 0.2], [0.6, 0.5]])
    assert fused.num_images == (1, 2)
    with pytest.raises(DataError, match="no frontal view"):
        single.fused([0, 0, 1, 1], fusion="frontal", frontal=[False, False, True, True])


def test_fitted_weights_pool_the_same_evidence(engine: Engine, pictures: list[np.ndarray]) -> None:
    features, _ = engine.features(pictures[:2])
    plain = weigh(engine, features, FINDINGS)
    rng = np.random.default_rng(1)
    weights = {item.id: float(rng.uniform(0, 2)) for item in plain.descriptors}
    pooled = weigh(engine, features, FINDINGS, pooling=LogOdds(weights=weights, bias=dict.fromkeys(FINDINGS, -0.4)))
    np.testing.assert_array_equal(pooled.probability, plain.probability)
    for row, answer in enumerate(pooled.diagnoses()):
        assert answer.pooling["kind"] == "log_odds"
        for column, evidence in enumerate(answer.findings):
            terms = [
                weights[item.id] * math.log(item.probability / (1 - item.probability)) for item in evidence.descriptors
            ]
            assert evidence.score == pytest.approx(1 / (1 + math.exp(0.4 - sum(terms))), abs=1e-9)
            assert evidence.score == pooled.scores[row, column]
            assert evidence.total == pytest.approx(
                evidence.offset + sum(item.contribution for item in evidence.descriptors)
            )
            assert evidence.log_score == pytest.approx(math.log(evidence.score))


def test_no_finding_as_one_minus_the_highest_has_no_evidence_of_its_own() -> None:
    evidence = replace(
        made(np.array([[0.9, 0.4], [0.2, 0.3]]), sizes=(1, 1)),
        findings=("nodule", "no finding", "fracture"),
        starts=(0, 1, 1),
        one_minus_max=True,
    )
    np.testing.assert_allclose(evidence.scores, [[0.9, 0.1, 0.4], [0.2, 0.7, 0.3]])
    shown = evidence.diagnoses()[0].findings[1]
    assert shown.descriptors == ()
    assert shown.score == pytest.approx(math.exp(shown.total)) == pytest.approx(0.1)
    assert shown.strongest() == (None, None)


def test_the_engine_fuses_the_views_of_one_study(engine: Engine, pictures: list[np.ndarray]) -> None:
    fused = engine.classify(pictures[:3], findings=FINDINGS)
    expected = weigh(engine, engine.features(pictures[:3])[0], FINDINGS).probability.mean(axis=0)
    shown = [item.probability for evidence in fused.findings for item in evidence.descriptors]
    assert shown == pytest.approx(list(expected), abs=1e-6)
    assert fused.num_images == 3
    assert engine.classify(pictures[0], findings=FINDINGS).num_images == 1


def test_one_descriptor_cannot_veto_alone() -> None:
    evidence = made(np.array([[0.0, 1.0]]), sizes=(2,))
    assert evidence.scores[0, 0] == pytest.approx(math.sqrt(1e-6), rel=1e-4)
    assert np.isfinite(evidence.contributions).all()


def test_a_smaller_temperature_sharpens_and_keeps_sides(engine: Engine, pictures: list[np.ndarray]) -> None:
    features, _ = engine.features(pictures[:1])
    soft = weigh(engine, features, FINDINGS, temperature=1.0).probability - 0.5
    sharp = weigh(engine, features, FINDINGS, temperature=0.01).probability - 0.5
    assert (np.sign(soft) == np.sign(sharp)).all()
    assert (np.abs(sharp) >= np.abs(soft)).all()


def test_aliases_are_asked_once(engine: Engine, pictures: list[np.ndarray]) -> None:
    assert list(engine.classify(pictures[0], findings=["Effusion", "pleural effusion"]).scores) == ["pleural effusion"]


def test_bad_requests(engine: Engine, pictures: list[np.ndarray]) -> None:
    features, _ = engine.features(pictures[:1])
    with pytest.raises(DataError, match="unknown finding"):
        weigh(engine, features, ["happiness"])
    for temperature in (0.0, -1.0, float("nan")):
        with pytest.raises(DataError, match="temperature"):
            weigh(engine, features, FINDINGS, temperature=temperature)
