"""How much the wording matters: the same findings asked for in several wordings, the spread of what comes out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlp.evaluate import predictions
from vlp.evaluate.classification import TASK, labelled
from vlp.evaluate.config import EvaluateConfig
from vlp.evaluate.results import MACRO, Result, result
from vlp.metrics.bootstrap import Resamples, Sampled, macro
from vlp.metrics.estimate import TOO_MANY_NULLS
from vlp.metrics.ranking import sample_auroc

METRIC = "auroc_paraphrases"


def estimate(rows: Sequence[Mapping[str, Any]], config: EvaluateConfig, *, findings: Sequence[str]) -> list[Result]:
    """Macro AUROC of every wording, of the worst one, and the standard deviation over wordings.

    The rows are named "auroc_paraphrases" with the wording in place of a finding, "auroc_paraphrases_worst" and
    "auroc_paraphrases_sd".  The worst wording is chosen on all rows and stays the same in every resample.

    Args:
        rows: scores of other wordings, as read from their file.
        config: label policy, resamples, level and seed.
        findings: the declared list.
    """
    good = predictions.scored([dict(row) for row in rows])
    draws = Resamples.draw([row["patient_id"] for row in good], resamples=config.resamples, seed=config.seed)
    averages = {}
    for wording in sorted({row["wording"] for row in good}):
        own = [row for row in good if row["wording"] == wording]
        averages[wording] = macro({name: sample_auroc(draws, *labelled(own, name, config)) for name in findings})
    defined = {wording: average for wording, average in averages.items() if not np.isnan(average.value)}
    figures: list[tuple[str, str, Sampled, str]] = [
        (METRIC, wording, average, "macro AUROC of one wording and its negation")
        for wording, average in averages.items()
    ]
    if len(defined) > 1:
        worst = min(defined, key=lambda wording: defined[wording].value)
        figures.append((f"{METRIC}_worst", MACRO, defined[worst], f"macro AUROC of the worst wording: {worst}"))
        figures.append((f"{METRIC}_sd", MACRO, _spread(defined), f"SD of macro AUROC over {len(defined)} wordings"))
    return [
        result(TASK, metric, name, sampled.estimate(level=config.level, reason=TOO_MANY_NULLS), method=words)
        for metric, name, sampled, words in figures
    ]


def _spread(averages: Mapping[str, Sampled]) -> Sampled:
    """The sample standard deviation over wordings, on all rows and on every resample."""
    one = next(iter(averages.values()))
    values = np.array([average.value for average in averages.values()])
    resampled = np.stack([average.resampled for average in averages.values()])
    return Sampled(
        value=float(values.std(ddof=1)),
        resampled=resampled.std(axis=0, ddof=1),
        n=one.n,
        n_patients=one.n_patients,
        n_positive=one.n_positive,
    )
