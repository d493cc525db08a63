"""Scorers: features of texts and images in, `Scores` out.  A new one is one file and one name in `AnyScorer`."""

from typing import Annotated

from pydantic import Field

from vlp.model.scorers.cosine import Cosine, CosineConfig
from vlp.model.scorers.scorer import Scorer, ScorerConfig, Temperature
from vlp.model.scorers.similarity_attention import SimilarityAttention, SimilarityAttentionConfig

AnyScorer = Annotated[SimilarityAttentionConfig | CosineConfig, Field(discriminator="kind")]

__all__ = [
    "AnyScorer",
    "Cosine",
    "CosineConfig",
    "Scorer",
    "ScorerConfig",
    "SimilarityAttention",
    "SimilarityAttentionConfig",
    "Temperature",
]
