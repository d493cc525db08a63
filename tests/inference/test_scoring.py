"""Published protocols, each against a small reimplementation that shares no code with ours."""

import math

import numpy as np
import pytest
import torch

from vlp.errors import CheckpointError, DataError
from vlp.inference.engine import Engine
from vlp.inference.scoring import ask, compare, negation, score
from vlp.prompts.descriptors import load_descriptors
from vlp.prompts.protocols import PROTOCOLS, protocol

FINDINGS = ["pleural effusion", "nodule", "pneumothorax"]
OFFICIAL = {"pleural effusion": "Pleural Effusion", "nodule": "Nodule", "pneumothorax": "Pneumothorax"}


def raw(engine: Engine, text: str) -> torch.Tensor:
    with torch.inference_mode():
        return engine.model.encode_texts(engine.model.tokenizer([text])).pooled[0]


def cosine(engine: Engine, vector: torch.Tensor, image: np.ndarray) -> float:
    """The similarity of one raw text vector and one image, from the definition of either scorer."""
    features, _ = engine.features([image])
    scorer = engine.model.scorer
    with torch.inference_mode():
        unit = torch.nn.functional.normalize(scorer.norm(vector[None]), dim=1)[0]
        if type(scorer).__name__ == "Cosine":
            other = torch.nn.functional.normalize(scorer.norm(features.pooled), dim=1)[0]
            return float(unit @ other)
        patches = torch.nn.functional.normalize(scorer.norm(features.patches[0]), dim=1)
        kept = patches if features.padding is None else patches[~features.padding[0]]
        cosines = kept @ unit
        attended = (torch.softmax(cosines / attention_temperature(engine), dim=0)[:, None] * kept).sum(dim=0)
        return float(unit @ attended / attended.norm())


def attention_temperature(engine: Engine) -> float:
    scorer = engine.model.scorer
    own = getattr(scorer, "attention_temperature", None)
    return float((scorer.temperature if own is None else own)())


def sigmoid(value: float) -> float:
    return 1.0 / (1.0 + math.exp(-value))


def softmax_first(first: float, second: float) -> float:
    return math.exp(first) / (math.exp(first) + math.exp(second))


def test_xplainer_aggregation(engine: Engine, pictures: list[np.ndarray]) -> None:
    """Pairs at temperature 0.5, views averaged per descriptor, then the geometric mean; no finding = 1 - max."""
    study = pictures[:2]
    vocabulary = load_descriptors()
    expected = []
    for finding in FINDINGS:
        logs = []
        for descriptor in vocabulary.of(finding, prompts="descriptors"):
            positive = raw(engine, f"There are {descriptor.text} indicating {OFFICIAL[finding]}")
            negative = raw(engine, f"There are no {descriptor.text} indicating {OFFICIAL[finding]}")
            views = [
                softmax_first(cosine(engine, positive, image) / 0.5, cosine(engine, negative, image) / 0.5)
                for image in study
            ]
            logs.append(math.log(sum(views) / len(views)))
        expected.append(math.exp(sum(logs) / len(logs)))
    expected.append(1.0 - max(expected))
    found = score(engine, engine.features(study)[0], [*FINDINGS, "no finding"], protocol("xplainer"), owner=[0, 0])
    assert list(found[0]) == pytest.approx(expected, abs=1e-5)


def test_chexzero_pair_softmax(engine: Engine, pictures: list[np.ndarray]) -> None:
    found = score(engine, engine.features(pictures[:2])[0], FINDINGS, protocol("chexzero"))
    for image, row in zip(pictures[:2], found, strict=True):
        expected = [
            softmax_first(
                cosine(engine, raw(engine, OFFICIAL[finding]), image),
                cosine(engine, raw(engine, f"no {OFFICIAL[finding]}"), image),
            )
            for finding in FINDINGS
        ]
        assert list(row) == pytest.approx(expected, abs=1e-5)


def test_radzero_similarity_probability(engine: Engine, pictures: list[np.ndarray]) -> None:
    """sigma(l / tau) of "There is X", no pair, no descriptors."""
    tau = engine.model.scorer.temperature().item()
    names = ["There is Pleural Effusion", "There is Lung Nodule", "There is Pneumothorax"]
    found = score(engine, engine.features(pictures[:2])[0], FINDINGS, protocol("radzero"))
    for image, row in zip(pictures[:2], found, strict=True):
        expected = [sigmoid(cosine(engine, raw(engine, name), image) / tau) for name in names]
        assert list(row) == pytest.approx(expected, abs=1e-4)
    evidence = ask(engine, engine.features(pictures[:1])[0], FINDINGS, protocol("radzero"))
    assert np.isnan(evidence.negative).all()
    assert evidence.diagnoses()[0].findings[0].descriptors[0].negative_similarity is None


def test_biovil_averages_vectors_before_they_are_normalised(engine: Engine, pictures: list[np.ndarray]) -> None:
    found = score(engine, engine.features(pictures[:1])[0], ["pneumonia"], protocol("biovil"))
    (one,) = protocol("biovil").pairs("pneumonia", load_descriptors())
    assert len(one.positives) == len(one.negatives) > 1
    sides = [torch.stack([raw(engine, text) for text in side]).mean(dim=0) for side in (one.positives, one.negatives)]
    expected = softmax_first(*(cosine(engine, side, pictures[0]) for side in sides))
    assert found[0, 0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", list(PROTOCOLS))
def test_every_protocol_answers(engine: Engine, pictures: list[np.ndarray], name: str) -> None:
    features, _ = engine.features(pictures[:3])
    asked = [*FINDINGS, "no finding"]
    alone = score(engine, features, asked, PROTOCOLS[name])
    assert alone.shape == (3, 4)
    assert ((alone > 0) & (alone < 1)).all()
    studies = score(engine, features, asked, PROTOCOLS[name], owner=[0, 1, 1])
    assert studies.shape == (2, 4)
    np.testing.assert_allclose(studies[0], alone[0], atol=1e-9)
    if PROTOCOLS[name].pooling == "none" and PROTOCOLS[name].no_finding == "own":
        np.testing.assert_allclose(studies[1], alone[1:].mean(axis=0), atol=1e-9)


def test_saturated_scores_keep_their_order() -> None:
    """A single ask is not clipped: two certain images are still ranked."""

    class Certain:
        def text_vectors(self, texts):
            return torch.zeros(len(texts), 2)

        def score_vectors(self, vectors, features):
            return np.ones((len(vectors), 2)), np.tile([20.0, 25.0], (len(vectors), 1))

    first, second = score(Certain(), None, ["nodule"], protocol("radzero"))[:, 0]
    assert first < second


def test_no_finding_alone_cannot_be_one_minus_the_others(engine: Engine, pictures: list[np.ndarray]) -> None:
    with pytest.raises(DataError, match="one minus the highest"):
        score(engine, engine.features(pictures[:1])[0], ["no finding"], protocol("xplainer"))


def test_compare_gives_the_order_that_was_asked(engine: Engine, pictures: list[np.ndarray]) -> None:
    features, _ = engine.features(pictures[:2])
    texts = ["There is a nodule.", "There is no nodule.", "There is a nodule."]
    similarity, logits = compare(engine, features, [[text] for text in texts])
    expected = [value.T for value in engine.scores(texts, features)]
    np.testing.assert_allclose(similarity, expected[0], atol=1e-6)
    np.testing.assert_allclose(logits, expected[1], atol=1e-4)


def test_negation_scores(engine: Engine, pictures: list[np.ndarray]) -> None:
    features, _ = engine.features(pictures[:2])
    found = negation(engine, features, ["Effusion", "nodule"])
    assert found.findings == ("pleural effusion", "nodule")
    tau = engine.model.scorer.temperature().item()
    for row, image in enumerate(pictures[:2]):
        for column, words in enumerate(("pleural effusion", "a nodule")):
            there = cosine(engine, raw(engine, f"There is {words}."), image) / tau
            absent = cosine(engine, raw(engine, f"There is no {words.removeprefix('a ')}."), image) / tau
            assert found.pos[row, column] == pytest.approx(there, abs=1e-3)
            assert found.neg[row, column] == pytest.approx(-absent, abs=1e-3)
            assert found.pnc[row, column] == pytest.approx(softmax_first(there, absent), abs=1e-4)


def test_a_diverged_model_is_told() -> None:
    class Diverged:
        def text_vectors(self, texts):
            return torch.zeros(len(texts), 2)

        def score_vectors(self, vectors, features):
            return np.full((len(vectors), 1), np.nan), np.zeros((len(vectors), 1))

        def scores(self, texts, features):
            return self.score_vectors(texts, features)

    with pytest.raises(CheckpointError, match="not finite"):
        score(Diverged(), None, ["nodule"], protocol("radzero"))
    with pytest.raises(CheckpointError, match="not finite"):
        negation(Diverged(), None, ["nodule"])
