"""The map that a region is compared with: a finding's sentence, perhaps said of either side, or a part of the body.

Calibration, evaluation and heads measure maps; a threshold that one of them chose serves the others only where all
of them mean the same map.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from vlp.inference.lungs import ANATOMY
from vlp.records import Certainty
from vlp.reports.findings import VOCABULARY, sentence_text

if TYPE_CHECKING:
    from vlp.inference.engine import Engine
    from vlp.tensors import ImageFeatures


def region_texts(name: str, named: str, *, sides: bool) -> tuple[str, ...]:
    """The sentences whose maps make that of a finding: the one that names it and, for `sides`, it on either side.

    A finding of a person's own file, which no template knows, has no sentence of a side.
    """
    if not (sides and name in VOCABULARY):
        return (named,)
    sided = (sentence_text(name, Certainty.PRESENT, location=side) for side in ("left", "right"))
    return tuple(dict.fromkeys((named, *sided)))


def region_map(
    engine: "Engine", features: "ImageFeatures", name: str, texts: Sequence[str]
) -> Float[np.ndarray, "image grid_rows grid_columns"]:
    """On every image, patch by patch, the highest of a finding's sentences, the mean of a body part's."""
    values = engine.maps_of(texts, features)
    joined: np.ndarray = values.mean(axis=0) if name in ANATOMY else values.max(axis=0)
    return joined
