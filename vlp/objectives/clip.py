"""CLIP's own objective: one image, one text, everything else in the batch a negative, duplicates included."""

from typing import Literal

from jaxtyping import Float, Shaped
from torch import Tensor

from vlp.config import Config
from vlp.errors import ConfigError
from vlp.objectives.multi_positive_nce import multi_positive_nce


class ClipConfig(Config):
    """Symmetric cross-entropy with one positive per row and column: the baseline others are compared with."""

    kind: Literal["clip"] = "clip"

    @property
    def duplicates_are_positive(self) -> bool:
        """False: wants positives by ownership alone; an identical sentence of another study is a negative."""
        return False

    def __call__(
        self,
        logits: Float[Tensor, "text image"],
        positives: Shaped[Tensor, "text image"],
        *,
        weights: Float[Tensor, "text"] | None = None,
    ) -> Float[Tensor, ""]:
        """The loss of a batch, see `clip`."""
        return clip(logits, positives, weights=weights)


def clip(
    logits: Float[Tensor, "text image"],
    positives: Shaped[Tensor, "text image"],
    *,
    weights: Float[Tensor, "text"] | None = None,
) -> Float[Tensor, ""]:
    """(cross-entropy over rows + cross-entropy over columns) / 2 (Radford et al. 2021), in float32.

    Args:
        logits: Similarities over temperature.
        positives: 1 positive, 0 negative, -1 ignored; a text's one positive is the image it belongs to.
        weights: How much each text, and so each pair, counts; 1 where None.

    Raises:
        ConfigError: unless every text has exactly one positive image and every image exactly one positive text.
    """
    positive = positives > 0
    if not bool((positive.sum(dim=1) == 1).all() & (positive.sum(dim=0) == 1).all()):
        raise ConfigError(
            "the clip objective pairs one text with one image: set loader.texts=report (or "
            "loader.sentences_per_study=1) and loader.images_per_study=1, or use the multi_positive_nce objective"
        )
    return multi_positive_nce(logits, positives, mode="supcon", weights=weights)
