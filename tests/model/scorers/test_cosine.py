"""The cosine scorer is the cosine of pooled vectors and nothing else."""

import torch
from torch.nn import functional

from vlp.model.scorers import CosineConfig
from vlp.tensors import ImageFeatures, TextFeatures


def test_it_is_the_cosine_of_pooled_vectors():
    scorer = CosineConfig().build(dim=5)
    text = TextFeatures(pooled=torch.randn(4, 5) * 10)
    image = ImageFeatures(pooled=torch.randn(3, 5) * 10, patches=torch.randn(3, 6, 5), grid=(2, 3))
    expected = functional.cosine_similarity(text.pooled[:, None], image.pooled[None], dim=-1)
    torch.testing.assert_close(scorer(text, image).similarity, expected)
    torch.testing.assert_close(scorer.embed_texts(text) @ scorer.embed_images(image).T, expected)
