"""Whether another model, trained alike with another seed or of another design, explains the same images alike."""

from typing import TYPE_CHECKING

import cv2
import numpy as np
from jaxtyping import Float

from vlp.evaluate.explain.agreement import spearman, ssim
from vlp.evaluate.explain.sample import Case, Sample
from vlp.evaluate.explain.table import Row, estimated, missing
from vlp.metrics.bootstrap import patient_bootstrap, weighted_mean

if TYPE_CHECKING:
    from vlp.inference.engine import Engine

TEST = "repeatability"
_LIKENESS = {"SSIM": ssim, "Spearman": spearman}
_MOST_CASES = 40


def measure(sample: Sample, other: "Engine | None", *, resamples: int, seed: int) -> list[Row]:
    """Likeness of the two models' maps of present findings; reported, since no value of it is right."""
    cases = sample.one_each(most=_MOST_CASES)
    whats = {name: f"{name} with another model's maps" for name in _LIKENESS}
    if other is None or other.model.config.preprocess != sample.engine.model.config.preprocess or not cases:
        return [missing(TEST, what, _why_not(other, found=bool(cases))) for what in whats.values()]
    pairs = _pairs(sample, other, cases)
    rows = []
    for name, alike in _LIKENESS.items():
        values = np.array([alike(*pair) for pair in pairs])
        patients = [sample.patients[case.number] for case in cases]
        estimate = patient_bootstrap(weighted_mean(values), patients, resamples=resamples, seed=seed)
        method = "maps of one present finding per study, on the coarser of the two grids"
        rows.append(estimated(TEST, whats[name], estimate, method=method))
    return rows


def on_one_grid(
    one: Float[np.ndarray, "rows columns"], other: Float[np.ndarray, "other_rows other_columns"]
) -> tuple[np.ndarray, np.ndarray]:
    """Both maps on the smaller number of rows and columns, averaged where there were more."""
    rows, columns = (min(sides) for sides in zip(one.shape, other.shape, strict=True))
    first, second = (
        values
        if values.shape == (rows, columns)
        else cv2.resize(values.astype(np.float64), (columns, rows), interpolation=cv2.INTER_AREA)
        for values in (one, other)
    )
    return first, second


def _why_not(other: "Engine | None", *, found: bool) -> str:
    if other is None:
        return "needs a second checkpoint: give one with --other"
    return "the other checkpoint is shown images otherwise" if found else "no study has a present finding"


def _pairs(sample: Sample, other: "Engine", cases: tuple[Case, ...]) -> list[tuple[np.ndarray, np.ndarray]]:
    texts = tuple(dict.fromkeys(sample.named(case.finding) for case in cases))
    own = sample.engine.maps_of(texts, sample.features)
    theirs = other.maps_of(texts, other.features([sample.seen[case.number] for case in cases])[0])
    pairs = []
    for index, case in enumerate(cases):
        row = texts.index(sample.named(case.finding))
        pairs.append(on_one_grid(own[row, case.number], theirs[row, index]))
    return pairs
