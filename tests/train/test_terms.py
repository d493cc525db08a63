import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from vlp.config import validate
from vlp.errors import ConfigError
from vlp.objectives import ALONE, multi_positive_nce
from vlp.objectives.positives import PositivesConfig
from vlp.tensors import ABSENT, IGNORE, PRESENT, Batch, Statements, Tokens
from vlp.train.gather import Joined, gather_texts
from vlp.train.terms import (
    HardNegativesConfig,
    PairRules,
    TermConfig,
    make_pairs,
    pair_shares,
    pooled_logits,
    view_pairs,
)

RULES = PairRules(positives=PositivesConfig(), weights="occurrence", flip_hardness=None, with_agreement=False)


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def statements(*rows: tuple[int, int, int, int]) -> Statements:
    codes = torch.tensor(rows, dtype=torch.int64).reshape(-1, 4).T
    return Statements(identity=codes[0], finding=codes[1], location=codes[2], certainty=codes[3])


def batch_of(
    sentence: list[int],
    owner: list[int],
    study: list[int],
    *,
    said: list[tuple[int, int, int, int]],
    flipped: tuple[int, ...] = (),
) -> Batch:
    """`said` is (identity, finding, place, certainty) of each distinct sentence; all that is true is known."""
    marks = torch.tensor([text in flipped for text in range(len(sentence))], dtype=torch.bool)
    said_codes, rows = statements(*said), torch.tensor(sentence)
    return Batch(
        images=torch.zeros(len(study), 1, 2, 2, dtype=torch.uint8),
        padding=None,
        tokens=Tokens(ids=torch.arange(len(said))[:, None], mask=torch.ones(len(said), 1, dtype=torch.bool)),
        sentence=rows,
        owner=torch.tensor(owner),
        flipped=marks,
        study=torch.tensor(study),
        said=said_codes,
        known=said_codes[rows[~marks]],
        known_study=torch.tensor(owner)[~marks],
        keys=tuple(f"study{number}" for number in range(max(study) + 1)),
        position=0,
    )


@pytest.fixture
def batch() -> Batch:
    """Studies 0 and 1 say there is an effusion, one in other words too; 2 denies it; 3, of two views, is silent."""
    said = [(1, 7, 0, PRESENT), (2, 7, 0, PRESENT), (3, 7, 0, ABSENT), (4, 9, 0, PRESENT)]
    return batch_of(sentence=[0, 0, 1, 2, 3], owner=[0, 1, 1, 2, 3], study=[0, 1, 2, 3, 3], said=said)


def joined_images(study: list[int], *, rank: int = 0, images: tuple[int, ...] | None = None) -> Joined:
    """What a rank knows of everybody's images, with no texts."""
    counts = images or (len(study),)
    first = sum(counts[:rank])
    empty, everyone = torch.zeros(0, dtype=torch.int64), torch.tensor(study)
    return Joined(
        said=statements(), sentence=empty, owner=empty, flipped=empty.bool(), known_study=empty, rows=empty,
        study=everyone[first : first + counts[rank]], every_study=everyone, num_images=counts, num_rows=(0,),
        rank=rank, group=None,
    )  # fmt: skip


def test_pooled_logits_against_a_loop() -> None:
    texts, images, sentence = unit(3, 5), unit(2, 5, seed=1), [2, 0, 0, 1]
    logits = pooled_logits(texts, images, sentence=torch.tensor(sentence), temperature=0.1)
    for row, distinct in enumerate(sentence):
        for column in range(2):
            assert float(logits[row, column]) == pytest.approx(float(texts[distinct] @ images[column]) / 0.1, rel=1e-5)


def test_view_pairs_are_siblings_never_the_image_itself() -> None:
    vectors = unit(5, 4)
    found = view_pairs(vectors, vectors, joined=joined_images([0, 0, 1, 2, 2]), temperature=0.5)
    assert found is not None
    logits, pairs = found
    assert logits.shape == pairs.positives.shape == (4, 5)
    expected = [[IGNORE, 1, 0, 0, 0], [1, IGNORE, 0, 0, 0], [0, 0, 0, IGNORE, 1], [0, 0, 0, 1, IGNORE]]
    assert pairs.positives.tolist() == expected
    assert pairs.own.tolist() == (torch.tensor(expected) == 1).tolist()


def test_view_pairs_of_ranks_are_columns_of_the_whole() -> None:
    study, counts, vectors = [0, 0, 1, 2, 2, 3, 4, 4], (4, 1, 3), unit(8, 4)
    whole = view_pairs(vectors, vectors, joined=joined_images(study), temperature=0.5)
    assert whole is not None
    parts = []
    for rank, (first, last) in enumerate(((0, 4), (4, 5), (5, 8))):
        joined = joined_images(study, rank=rank, images=counts)
        assert joined.first_image == first
        found = view_pairs(vectors, vectors[first:last], joined=joined, temperature=0.5)
        assert found is not None
        parts.append(found)
    torch.testing.assert_close(torch.cat([logits for logits, _ in parts], dim=1), whole[0])
    assert torch.equal(torch.cat([pairs.positives for _, pairs in parts], dim=1), whole[1].positives)


def test_view_pairs_loss_against_a_loop() -> None:
    vectors, study, temperature = unit(5, 4), [0, 0, 1, 2, 2], 0.5
    found = view_pairs(vectors, vectors, joined=joined_images(study), temperature=temperature)
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
    assert view_pairs(unit(3, 4), unit(3, 4), joined=joined_images([0, 1, 2]), temperature=0.1) is None


def test_pairs_follow_the_rules(batch: Batch) -> None:
    joined = gather_texts(batch)
    pairs, found = make_pairs(RULES, joined, known=batch.known)
    # Rows: study 0's effusion, 1's twice (the second in other words), 2's denial, 3's own finding.
    assert pairs.positives.tolist() == [
        [1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 1]
    ]  # fmt: skip
    assert pairs.own.sum(dim=1).tolist() == [1, 1, 1, 1, 2]
    assert pairs.weights is not None
    assert pairs.weights.tolist() == [1.0] * 5
    assert pairs.hardness is None
    assert pairs.agreement is None
    shares = {name: float(value) for name, value in pair_shares(pairs, found, joined, across=ALONE).items()}
    # 25 pairs, 6 of them a study's own; collisions: rows 0-2 one each; contradictions: rows 0-2 one, row 3 two.
    assert shares == pytest.approx({"collisions": 3 / 19, "ignored": 0.0, "contradictions": 5 / 19})


def test_pairs_take_weights_contradictions_and_agreement_from_their_rules(batch: Batch) -> None:
    rules = replace(
        RULES, positives=PositivesConfig(contradiction=3.0, same_fact="negative"), weights="distinct",
        with_agreement=True,
    )  # fmt: skip
    pairs, _ = make_pairs(rules, gather_texts(batch), known=batch.known)
    assert pairs.positives[2].tolist() == [0, 1, 0, 0, 0]  # other words no longer count
    assert pairs.weights is not None
    assert pairs.weights.tolist() == [0.5, 0.5, 1.0, 1.0, 1.0]
    assert pairs.hardness is not None
    assert pairs.hardness[3].tolist() == [3.0, 3.0, 1.0, 1.0, 1.0]
    assert pairs.agreement is not None
    assert pairs.agreement[3].tolist() == [-1.0, -1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize(("contradiction", "ordinary"), [(1.0, 1.0), (2.0, 2.0)])
def test_flipped_texts_have_a_hardness_of_their_own(contradiction: float, ordinary: float) -> None:
    said = [(1, 7, 0, PRESENT), (2, 7, 0, ABSENT)]
    batch = batch_of(sentence=[0, 1, 1], owner=[0, 0, 1], study=[0, 1], said=said, flipped=(1,))
    rules = replace(RULES, positives=PositivesConfig(contradiction=contradiction), flip_hardness=0.25)
    joined = gather_texts(batch)
    pairs, found = make_pairs(rules, joined, known=batch.known)
    assert pairs.positives.tolist() == [[1, 0], [0, 1], [0, 1]]
    assert pairs.own.tolist() == [[True, False], [False, False], [False, True]]
    assert pairs.weights is not None
    assert pairs.weights.tolist() == [1.0, 0.0, 1.0]
    assert pairs.hardness is not None
    assert pairs.hardness.tolist() == [[1.0, ordinary], [0.25, 1.0], [ordinary, 1.0]]
    shares = pair_shares(pairs, found, joined, across=ALONE)
    assert float(shares["contradictions"]) == 1.0  # the flip itself is not counted, the other two pairs are


def test_hard_negatives_grow_in_a_straight_line() -> None:
    ramp = HardNegativesConfig(weight=3.0, ramp_steps=4)
    assert [ramp.hardness(step) for step in range(6)] == pytest.approx([0.0, 0.75, 1.5, 2.25, 3.0, 3.0])
    assert HardNegativesConfig(weight=2.0).hardness(0) == 2.0


def test_distinct_weights_make_a_stock_phrase_weigh_no_more_than_a_rare_one() -> None:
    # Three studies hold the same sentence: with weights, the mean is that of the two distinct sentences' own means.
    said = [(1, 7, 0, PRESENT), (2, 9, 0, PRESENT)]
    batch = batch_of(sentence=[0, 0, 0, 1], owner=[0, 1, 2, 3], study=[0, 1, 2, 3], said=said)
    logits = torch.tensor([[1.0, 0.5, 0.2, -1.0]] * 3 + [[0.3, -0.2, 0.1, 0.9]])
    pairs, _ = make_pairs(replace(RULES, weights="distinct"), gather_texts(batch), known=batch.known)
    positives = pairs.positives
    per_pair = {
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
    expected = np.mean([np.mean(per_pair[0]), np.mean(per_pair[3])]) / 2
    assert float(multi_positive_nce(logits, pairs)) == pytest.approx(expected, rel=1e-5)


def test_images_alone_have_no_agreement_to_aim_at() -> None:
    term: dict[str, Any] = {"objective": {"kind": "soft_targets"}, "on": "pooled"}
    validate(TermConfig, term, where="test")
    with pytest.raises(ConfigError, match="use multi_positive_nce"):
        validate(TermConfig, term | {"on": "image_image"}, where="test")
