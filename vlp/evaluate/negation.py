"""Whether a model understands "no", scored: a finding affirmed, denied, and both against each other.

With the logits l+ of "There is F." and l- of "There is no F." on an image

    POS = l+        NEG = -l-        PNC = sigma(l+ - l-)

each ranks studies; a model that ignores the negation has POS above 0.5, NEG below it, and nothing in PNC.  Polarity
accuracy is the share of labelled studies in which the true one of the two sentences has the higher logit.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlp.evaluate import predictions
from vlp.evaluate.classification import labelled
from vlp.evaluate.config import EvaluateConfig
from vlp.evaluate.results import MACRO, Result, result
from vlp.metrics.bootstrap import Resamples, Sampled, macro_estimate, weighted_mean
from vlp.metrics.ranking import sample_auroc

TASK = "negation"
_SCORES = {
    "pos": "logit of the affirming sentence",
    "neg": "minus the logit of the denying sentence",
    "pnc": "sigma of the affirming logit minus the denying one",
}
_KINDS = {"": (0, 1), "_present": (1,), "_absent": (0,)}
_POLARITY = "share of labelled studies whose true sentence of the pair has the higher logit, ties half"


def estimate(rows: Sequence[Mapping[str, Any]], config: EvaluateConfig, *, findings: Sequence[str]) -> list[Result]:
    """AUROC of POS, NEG and PNC, and polarity accuracy (of all, of present and of absent ones), each with its macro.

    Args:
        rows: predictions of this task, as read from its file.
        config: label policy, resamples, level and seed.
        findings: the declared list; a finding without rows is undefined, not left out.
    """
    good = predictions.scored([dict(row) for row in rows])
    draws = Resamples.draw([row["patient_id"] for row in good], resamples=config.resamples, seed=config.seed)
    results: list[Result] = []
    for name, words in _SCORES.items():
        members = {finding: sample_auroc(draws, *labelled(good, finding, config, column=name)) for finding in findings}
        results += _rows(f"auroc_{name}", members, config, method=f"score: {words}")
    for suffix, kinds in _KINDS.items():
        members = {
            finding: _polarity(draws, *labelled(good, finding, config, column="pnc"), kinds) for finding in findings
        }
        only = f"; {' and '.join('present' if kind else 'absent' for kind in kinds)} only" if len(kinds) == 1 else ""
        results += _rows(f"polarity_accuracy{suffix}", members, config, method=_POLARITY + only)
    return results


def _polarity(
    draws: Resamples, labels: np.ndarray, pnc: np.ndarray, patients: Sequence[str], kinds: tuple[int, ...]
) -> Sampled:
    kept = np.flatnonzero(np.isin(labels, kinds)).tolist()
    # The affirming logit is the higher one exactly where PNC is above one half.
    right = np.where(pnc == 0.5, 0.5, (pnc > 0.5) == (labels == 1))[kept]
    return draws.sample(
        weighted_mean(right), [patients[index] for index in kept], n_positive=int((labels[kept] == 1).sum())
    )


def _rows(metric: str, members: dict[str, Sampled], config: EvaluateConfig, *, method: str) -> list[Result]:
    average = macro_estimate(members, level=config.level)
    rows = [result(TASK, metric, MACRO, average, method=f"{method}; mean of {len(members)} findings")]
    return rows + [
        result(TASK, metric, finding, member.estimate(level=config.level), method=method)
        for finding, member in members.items()
    ]
