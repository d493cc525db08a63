import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from vlp.objectives import multi_positive_nce
from vlp.tensors import IGNORE, Batch, Tokens
from vlp.train.terms import distinct_weights, own_pairs, pooled_logits, shared_pairs, view_pairs


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def batch_of(sentence: list[int], owner: list[int], study: list[int]) -> Batch:
    unique = max(sentence) + 1
    return Batch(
        images=torch.zeros(len(study), 1, 2, 2, dtype=torch.uint8),
        padding=None,
        tokens=Tokens(ids=torch.arange(unique)[:, None], mask=torch.ones(unique, 1, dtype=torch.bool)),
        sentence=torch.tensor(sentence),
        owner=torch.tensor(owner),
        study=torch.tensor(study),
        keys=tuple(f"study{number}" for number in range(max(study) + 1)),
        position=0,
    )


def test_pooled_logits_against_a_loop() -> None:
    texts, images, sentence = unit(3, 5), unit(2, 5, seed=1), [2, 0, 0, 1]
    logits = pooled_logits(texts, images, sentence=torch.tensor(sentence), temperature=0.1)
    for row, distinct in enumerate(sentence):
        for column in range(2):
            assert float(logits[row, column]) == pytest.approx(float(texts[distinct] @ images[column]) / 0.1, rel=1e-5)


def test_view_pairs_are_siblings_never_the_image_itself() -> None:
    found = view_pairs(unit(5, 4), study=torch.tensor([0, 0, 1, 2, 2]), temperature=0.5)
    assert found is not None
    logits, positives = found
    assert logits.shape == positives.shape == (4, 5)
    expected = [[IGNORE, 1, 0, 0, 0], [1, IGNORE, 0, 0, 0], [0, 0, 0, IGNORE, 1], [0, 0, 0, 1, IGNORE]]
    assert positives.tolist() == expected


def test_view_pairs_loss_against_a_loop() -> None:
    vectors, study, temperature = unit(5, 4), [0, 0, 1, 2, 2], 0.5
    found = view_pairs(vectors, study=torch.tensor(study), temperature=temperature)
    assert found is not None
    similarity = (vectors @ vectors.T).numpy() / temperature
    rows, columns = [], []
    for anchor, sibling in ((0, 1), (1, 0), (3, 4), (4, 3)):
        others = [image for image in range(5) if study[image] != study[anchor]]
        denominator = sum(math.exp(similarity[anchor, image]) for image in [sibling, *others])
        rows.append(-math.log(math.exp(similarity[anchor, sibling]) / denominator))
        negatives = [image for image in others if image != 2]  # an image without a sibling is no row
        denominator = sum(math.exp(similarity[image, sibling]) for image in [anchor, *negatives])
        columns.append(-math.log(math.exp(similarity[anchor, sibling]) / denominator))
    expected = (np.mean(rows) + np.mean(columns)) / 2
    assert float(multi_positive_nce(*found)) == pytest.approx(expected, rel=1e-4)


def test_studies_of_one_view_have_no_pairs() -> None:
    assert view_pairs(unit(3, 4), study=torch.tensor([0, 1, 2]), temperature=0.1) is None


def test_shared_pairs_is_the_share_of_true_pairs_across_studies() -> None:
    # Studies 0 and 1 hold the same sentence; study 2 has two images and a sentence of its own.
    batch = batch_of(sentence=[0, 0, 1], owner=[0, 1, 2], study=[0, 1, 2, 2])
    own = own_pairs(batch)
    assert own.tolist() == [
        [True, False, False, False],
        [False, True, False, False],
        [False, False, True, True],
    ]
    assert float(shared_pairs(batch.positives(), own)) == pytest.approx(2 / 8)


def test_shared_pairs_of_a_single_study_is_zero() -> None:
    batch = batch_of(sentence=[0, 1], owner=[0, 0], study=[0])
    assert float(shared_pairs(batch.positives(), own_pairs(batch))) == 0.0


def test_distinct_weights_let_every_distinct_sentence_count_once() -> None:
    batch = batch_of(sentence=[0, 0, 1, 0], owner=[0, 1, 2, 2], study=[0, 1, 2])
    weights = distinct_weights(batch)
    assert weights.tolist() == pytest.approx([1 / 3, 1 / 3, 1.0, 1 / 3])


def test_distinct_weights_make_a_stock_phrase_weigh_no_more_than_a_rare_one() -> None:
    # Three studies hold the same sentence: with weights, the mean is that of the two distinct sentences' own means.
    batch = batch_of(sentence=[0, 0, 0, 1], owner=[0, 1, 2, 3], study=[0, 1, 2, 3])
    logits = torch.tensor([[1.0, 0.5, 0.2, -1.0]] * 3 + [[0.3, -0.2, 0.1, 0.9]])
    positives = batch.positives()
    weighted = multi_positive_nce(logits, positives, weights=distinct_weights(batch))
    pairs = {
        text: [
            math.log1p(sum(math.exp(logits[text, other] - logits[text, image]) for other in negatives))
            + math.log1p(
                sum(math.exp(logits[row, image] - logits[text, image]) for row in range(4) if not positives[row, image])
            )
            for image in range(4)
            if positives[text, image]
        ]
        for text in (0, 3)
        for negatives in [[image for image in range(4) if not positives[text, image]]]
    }
    expected = np.mean([np.mean(pairs[0]), np.mean(pairs[3])]) / 2
    assert float(weighted) == pytest.approx(expected, rel=1e-5)
