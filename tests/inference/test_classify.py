import json
import math

import numpy as np
import pytest
import torch

from vlp.errors import DataError
from vlp.inference.classify import Evidence, weigh
from vlp.inference.engine import Engine
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


def test_ranked_and_json(engine: Engine, pictures: list[np.ndarray]) -> None:
    answer = engine.classify(pictures[0])
    scores = [evidence.score for evidence in answer.ranked()]
    assert scores == sorted(scores, reverse=True)
    content = json.loads(json.dumps(answer.to_json()))
    assert content["score"] == "similarity-based, uncalibrated"
    assert "not a medical device" in content["note"]
    assert "not reviewed by a radiologist" in content["vocabulary"]
    assert len(content["findings"][0]["descriptors"]) == len(answer.findings[0].descriptors)
    assert "%" not in json.dumps(content)


def test_aliases_are_asked_once(engine: Engine, pictures: list[np.ndarray]) -> None:
    assert list(engine.classify(pictures[0], findings=["Effusion", "pleural effusion"]).scores) == ["pleural effusion"]


def test_bad_requests(engine: Engine, pictures: list[np.ndarray]) -> None:
    features, _ = engine.features(pictures[:1])
    with pytest.raises(DataError, match="unknown finding"):
        weigh(engine, features, ["happiness"])
    for temperature in (0.0, -1.0, float("nan")):
        with pytest.raises(DataError, match="temperature"):
            weigh(engine, features, FINDINGS, temperature=temperature)
