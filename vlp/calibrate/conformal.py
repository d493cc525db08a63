"""Label-conditional split conformal prediction: sets that hold the truth at a promised rate, whatever the model.

With calibrated probabilities p of n studies of one label, and nonconformity 1 - p where it is "present", p where it is
"absent", the quantile is the k-th smallest nonconformity, k = ceil((n + 1) (1 - alpha)); a further study of that label
lies at or below it with probability k / (n + 1) >= 1 - alpha if it is exchangeable with the others (Vovk, 2012; Sadinle
et al., 2019).  Labels have quantiles of their own, so that the promise holds for the rare finding as for its absence.

The probabilities may come from a map that was fitted on the same studies: every map of `vlp.inference.calibration`
rises strictly with the score, so the set depends on the rank of the score alone, and the promise stands.
"""

import math

import numpy as np
from jaxtyping import Float, Int

from vlp.inference.calibration import Conformal

NOTHING_EXCLUDED = 1.0
"""The quantile where there are fewer studies than 1 / alpha - 1."""


def fit(labels: Int[np.ndarray, " study"], probabilities: Float[np.ndarray, " study"], *, alpha: float) -> Conformal:
    """The quantiles of both labels.

    Args:
        labels: 1 present, 0 absent.
        probabilities: calibrated, of the finding.
        alpha: share of the studies of each label whose set may miss it.
    """
    return Conformal(
        alpha=alpha,
        q0=quantile(probabilities[labels == 0], alpha=alpha),
        q1=quantile(1.0 - probabilities[labels == 1], alpha=alpha),
    )


def quantile(nonconformity: Float[np.ndarray, " study"], *, alpha: float) -> float:
    """The value that a further study exceeds with probability at most `alpha`; 1 if that cannot be promised."""
    rank = math.ceil((len(nonconformity) + 1) * (1.0 - alpha) - 1e-9)  # 10 x .9 is 9, also in binary
    if rank > len(nonconformity):
        return NOTHING_EXCLUDED
    return float(np.partition(nonconformity, rank - 1)[rank - 1])
