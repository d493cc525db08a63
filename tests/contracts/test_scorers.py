"""What every scorer promises.  A new member of the union is checked without being named here."""

from typing import get_args

import pytest
import torch

from vlp.model.scorers import AnyScorer
from vlp.tensors import ImageFeatures, TextFeatures

DIM = 8
SCORERS = [member() for member in get_args(get_args(AnyScorer)[0])]


@pytest.fixture(params=SCORERS, ids=lambda config: config.kind)
def scorer(request):
    torch.manual_seed(0)
    return request.param.build(dim=DIM)


def _features(texts=5, images=4):
    generator = torch.Generator().manual_seed(1)
    return (
        TextFeatures(pooled=torch.randn(texts, DIM, generator=generator) * 3),
        ImageFeatures(
            pooled=torch.randn(images, DIM, generator=generator) * 3,
            patches=torch.randn(images, 6, DIM, generator=generator) * 3,
            grid=(2, 3),
        ),
    )


def test_similarities_are_cosines_and_logits_follow(scorer):
    text, image = _features()
    scores = scorer(text, image)
    assert scores.similarity.shape == scores.logits.shape == (5, 4)
    assert scores.similarity.abs().max() <= 1 + 1e-6
    torch.testing.assert_close(scores.logits * scorer.temperature(), scores.similarity)


def test_neighbours_in_the_batch_do_not_matter(scorer):
    text, image = _features()
    alone = scorer(
        TextFeatures(pooled=text.pooled[2:3]),
        ImageFeatures(pooled=image.pooled[1:2], patches=image.patches[1:2], grid=image.grid),
    )
    torch.testing.assert_close(alone.similarity[0, 0], scorer(text, image).similarity[2, 1])
    order = torch.tensor([3, 0, 2, 1])
    moved = ImageFeatures(pooled=image.pooled[order], patches=image.patches[order], grid=image.grid)
    torch.testing.assert_close(scorer(text, moved).similarity, scorer(text, image).similarity[:, order])


def test_the_size_of_a_vector_does_not_matter(scorer):
    text, image = _features()
    larger = ImageFeatures(pooled=image.pooled * 5, patches=image.patches * 5, grid=image.grid)
    torch.testing.assert_close(
        scorer(TextFeatures(pooled=text.pooled * 2), larger).similarity,
        scorer(text, image).similarity,
        atol=1e-4,
        rtol=0,
    )


def test_maps_are_cosines_on_the_grid(scorer):
    text, image = _features()
    maps = scorer.maps(text, image)
    assert maps.shape == (5, 4, 2, 3)
    patch = scorer.unit(image.patches)[1, 5]
    torch.testing.assert_close(maps[2, 1, 1, 2], scorer.embed_texts(text)[2] @ patch)


def test_embeddings_have_unit_length(scorer):
    text, image = _features()
    for vectors, count in ((scorer.embed_texts(text), 5), (scorer.embed_images(image), 4)):
        torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(count))


def test_everything_that_learns_gets_a_gradient(scorer):
    text, image = _features()
    scorer(text, image).logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in scorer.parameters())


def test_no_texts_and_no_images_are_no_error(scorer):
    text, image = _features()
    none = TextFeatures(pooled=text.pooled[:0])
    assert scorer(none, image).logits.shape == (0, 4)
    nothing = ImageFeatures(pooled=image.pooled[:0], patches=image.patches[:0], grid=image.grid)
    assert scorer(text, nothing).logits.shape == (5, 0)
