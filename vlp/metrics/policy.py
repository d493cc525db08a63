"""From four-valued labels (present, absent, uncertain, unmentioned) to 1, 0 or "leave out", by a named policy."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Int8

from vlp.records import Certainty

LabelPolicy = Literal["ignore", "positive", "negative"]
"""What becomes of "uncertain".  Unmentioned is always left out: silence is not absence."""

LEFT_OUT = -1


def apply_policy(labels: Sequence[str | None], policy: LabelPolicy) -> Int8[np.ndarray, " row"]:
    """1, 0 or `LEFT_OUT` for every label; None means unmentioned.

    Raises:
        ValueError: for a value that is no certainty.
    """
    uncertain = {"ignore": LEFT_OUT, "positive": 1, "negative": 0}[policy]
    meaning = {Certainty.PRESENT: 1, Certainty.ABSENT: 0, Certainty.UNCERTAIN: uncertain}
    return np.array([LEFT_OUT if label is None else meaning[Certainty(label)] for label in labels], dtype=np.int8)
