"""Similarity maps against true regions: how one map is measured, and how the measurements become figures.

A map is measured once, in original pixels, into counts at every threshold of a fixed grid; which threshold serves is
decided later, per finding, from the rows of the validation split alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from vlp.errors import DataError
from vlp.evaluate import predictions
from vlp.evaluate.config import DIFFUSE, EvaluateConfig
from vlp.evaluate.results import MACRO, MACRO_LARGE, Result, result
from vlp.metrics.bootstrap import Resamples, Sampled, macro_estimate, weighted_mean
from vlp.metrics.estimate import Estimate
from vlp.metrics.proportion import wilson
from vlp.metrics.segmentation import (
    COSINES,
    best_threshold,
    dice_from_counts,
    iou_from_counts,
    overlaps,
    peak,
    region_mask,
)
from vlp.records import Region

TASK = "grounding"
LARGE_SHARE = 0.02
"""Median share of its image from which a finding's region counts as large."""
_MEASURES = ("pointing_game", "pointing_game_random", "dice", "iou")


def true_mask(
    regions: Sequence[Region], *, finding: str, image: str, rows: int, columns: int
) -> Bool[np.ndarray, "rows columns"] | None:
    """The union of a finding's boxes and masks on an image; None where it has none (a point has no extent).

    Raises:
        DataError: if a mask has another size than the image.
    """
    own = (region for region in regions if (region.finding, region.image) == (finding, image))
    return region_mask(own, rows=rows, columns=columns)


def measure(values: Float[np.ndarray, "rows columns"], truth: Bool[np.ndarray, "rows columns"]) -> dict[str, Any]:
    """The columns of a prediction row that come from one map (NaN: never seen) and the region it should find."""
    counts = overlaps(values, truth, COSINES)
    point = peak(values)
    return {
        "rows": values.shape[0],
        "columns": values.shape[1],
        "peak_x": None if point is None else point[0],
        "peak_y": None if point is None else point[1],
        "hit": point is not None and bool(truth[int(point[1]), int(point[0])]),
        "valid_px": int(np.count_nonzero(~np.isnan(values))),
        "truth_px": counts.truth,
        "predicted_px": counts.predicted.tolist(),
        "shared_px": counts.shared.tolist(),
    }


def focal_findings(rows: Sequence[Mapping[str, Any]], config: EvaluateConfig) -> tuple[str, ...]:
    """The findings that enter the macro averages, by configuration or by having regions without being diffuse."""
    if config.focal != "auto":
        return config.focal
    return tuple(sorted({row["finding"] for row in rows if row["split"] == config.split} - DIFFUSE))


def large_findings(rows: Sequence[Mapping[str, Any]], config: EvaluateConfig) -> tuple[str, ...]:
    """The findings with large regions, by configuration or by the median region on the threshold split."""
    if config.large != "auto":
        return config.large
    shares: dict[str, list[float]] = {}
    for row in predictions.scored([dict(row) for row in rows]):
        if row["split"] == config.threshold_split and row["valid_px"]:
            shares.setdefault(row["finding"], []).append(row["truth_px"] / row["valid_px"])
    return tuple(sorted(name for name, found in shares.items() if np.median(found) >= LARGE_SHARE))


def thresholds(rows: Sequence[Mapping[str, Any]], config: EvaluateConfig) -> dict[str, float]:
    """Per finding the cosine with the best mean Dice on the threshold split; absent where that split has no region.

    Thresholds that the configuration gives (`map_thresholds`) go before those chosen here.

    Raises:
        DataError: if the splits share a patient.
    """
    return chosen_thresholds(rows, config) | (config.map_thresholds or {})


def chosen_thresholds(rows: Sequence[Mapping[str, Any]], config: EvaluateConfig) -> dict[str, float]:
    """As `thresholds`, without those that the configuration gives.

    Raises:
        DataError: if the splits share a patient.
    """
    chosen_on = [
        row for row in predictions.scored([dict(row) for row in rows]) if row["split"] == config.threshold_split
    ]
    tested = {row["patient_id"] for row in rows if row["split"] == config.split}
    shared = tested & {row["patient_id"] for row in chosen_on}
    if shared:
        raise DataError(
            f"{len(shared)} patients are in both {config.split} and {config.threshold_split}; split by patient first"
        )
    found = {}
    for finding in sorted({row["finding"] for row in chosen_on}):
        curves = [_curve(row) for row in chosen_on if row["finding"] == finding]
        found[finding] = best_threshold(np.array(curves), COSINES)
    return found


def estimate(
    rows: Sequence[Mapping[str, Any]], config: EvaluateConfig, *, prior: Sequence[Mapping[str, Any]] = ()
) -> list[Result]:
    """Pointing game (and what a random pixel scores), Dice and IoU, per finding and as macro over focal findings.

    "macro_large" is the mean Dice of large findings alone.  With `prior` rows, "pointing_game_prior" and "dice_prior"
    say what the mean training mask of a finding reaches on the same images.

    Args:
        rows: predictions of this task on both splits, as read from its file.
        config: splits, focal and large findings, resamples, level and seed.
        prior: the same table for maps that are the mean training mask of their finding.
    """
    focal, large = focal_findings(rows, config), large_findings(rows, config)
    tables = _Tables.of(rows, config, cut=thresholds(rows, config))
    findings = tuple(tables.rows)
    results: list[Result] = []
    for metric in _MEASURES:
        members = tables.members(metric, findings)
        results.append(_macro(metric, members, focal, config))
        results += [tables.result(TASK, metric, finding, member) for finding, member in members.items()]
    results.append(_macro_large("dice", tables.members("dice", large), config))
    own = [row for row in prior if row["finding"] in findings]
    if own:
        results += _of_prior(own, findings, focal, large, config)
    return results


def estimate_regions(
    rows: Sequence[Mapping[str, Any]], config: EvaluateConfig, *, task: str, prior: Sequence[Mapping[str, Any]] = ()
) -> list[Result]:
    """Dice and IoU per region name, with the Dice of the mean training mask: for regions that are no findings.

    Args:
        rows: predictions of the task on both splits, as read from its file.
        config: splits, resamples, level and seed.
        task: whose results these are.
        prior: the same table for maps that are the mean training mask of their region.
    """
    tables = _Tables.of(rows, config, cut=chosen_thresholds(rows, config))
    findings = tuple(tables.rows)
    results = [
        tables.result(task, metric, finding, member)
        for metric in ("dice", "iou")
        for finding, member in tables.members(metric, findings).items()
    ]
    own = [row for row in prior if row["finding"] in findings]
    masks = _Tables.of(own, config, cut=chosen_thresholds(own, config), suffix="_prior")
    return results + [
        masks.result(task, "dice", finding, member)
        for finding, member in masks.members("dice", tuple(masks.rows)).items()
    ]


def _of_prior(
    rows: Sequence[Mapping[str, Any]],
    findings: Sequence[str],
    focal: Sequence[str],
    large: Sequence[str],
    config: EvaluateConfig,
) -> list[Result]:
    tables = _Tables.of(rows, config, cut=chosen_thresholds(rows, config), suffix="_prior")
    results: list[Result] = []
    for metric in ("pointing_game", "dice"):
        members = tables.members(metric, findings)
        results.append(_macro(metric, members, focal, config, suffix="_prior"))
        results += [tables.result(TASK, metric, finding, member) for finding, member in members.items()]
    results.append(_macro_large("dice", tables.members("dice", large), config, suffix="_prior"))
    return results


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tables:
    """The scored rows of each finding with everything that their figures need."""

    rows: Mapping[str, list[dict[str, Any]]]
    draws: Resamples
    cut: Mapping[str, float]
    config: EvaluateConfig
    suffix: str

    @classmethod
    def of(
        cls, rows: Sequence[Mapping[str, Any]], config: EvaluateConfig, *, cut: Mapping[str, float], suffix: str = ""
    ) -> "_Tables":
        """The rows of the scored split, by finding."""
        tested = [row for row in predictions.scored([dict(row) for row in rows]) if row["split"] == config.split]
        by_finding: dict[str, list[dict[str, Any]]] = {}
        for row in sorted(tested, key=lambda row: row["finding"]):
            by_finding.setdefault(row["finding"], []).append(row)
        draws = Resamples.draw([row["patient_id"] for row in tested], resamples=config.resamples, seed=config.seed)
        return cls(rows=by_finding, draws=draws, cut=cut, config=config, suffix=suffix)

    def members(self, metric: str, findings: Sequence[str]) -> dict[str, Sampled]:
        """The metric of each finding on the shared resamples."""
        return {name: _sample(self.draws, metric, self.rows.get(name, []), self.cut.get(name)) for name in findings}

    def result(self, task: str, metric: str, finding: str, member: Sampled) -> Result:
        """A finding's figure."""
        cut = self.cut.get(finding)
        words = _words_of_prior(metric, cut) if self.suffix else _words(metric, cut, self.config)
        return result(task, metric + self.suffix, finding, _of_finding(metric, member, self.config), method=words)


def _macro(
    metric: str, members: Mapping[str, Sampled], focal: Sequence[str], config: EvaluateConfig, *, suffix: str = ""
) -> Result:
    chosen = {finding: members.get(finding, _nothing(config.resamples)) for finding in focal}
    average = macro_estimate(chosen, level=config.level)
    return result(TASK, metric + suffix, MACRO, average, method=f"mean of {len(focal)} focal findings")


def _macro_large(metric: str, members: dict[str, Sampled], config: EvaluateConfig, *, suffix: str = "") -> Result:
    rule = (
        f"median region covers at least {LARGE_SHARE:.0%} of its image on {config.threshold_split}"
        if config.large == "auto"
        else "as configured"
    )
    words = f"mean of {len(members)} large findings ({rule}): {', '.join(members) or 'none'}"
    return result(TASK, metric + suffix, MACRO_LARGE, macro_estimate(members, level=config.level), method=words)


def _of_finding(metric: str, member: Sampled, config: EvaluateConfig) -> Estimate:
    """The bootstrap estimate; where every image is a hit, or every one a miss, Wilson's interval over patients.

    Resampling equal values gives an interval of no width, which would claim certainty from a handful of images.
    """
    found = member.estimate(level=config.level)
    if metric != "pointing_game" or found.value not in (0.0, 1.0):
        return found
    low, high = wilson(round(found.value * member.n_patients), member.n_patients, level=config.level)
    return replace(
        found, low=low, high=high, reason=None, method="Wilson interval over patients, since all images agree"
    )


def _sample(draws: Resamples, metric: str, rows: Sequence[Mapping[str, Any]], threshold: float | None) -> Sampled:
    if not rows or (metric in ("dice", "iou") and threshold is None):
        return _nothing(len(draws.multiplicity))
    values = np.array([_value(metric, row, threshold) for row in rows], dtype=np.float64)
    return draws.sample(weighted_mean(values), [row["patient_id"] for row in rows], n_positive=len(rows))


def _value(metric: str, row: Mapping[str, Any], threshold: float | None) -> float:
    if metric == "pointing_game":
        return float(row["hit"])
    if metric == "pointing_game_random":
        return row["truth_px"] / row["valid_px"] if row["valid_px"] else 0.0
    assert threshold is not None
    index = int(np.argmin(np.abs(COSINES - threshold)))
    from_counts = dice_from_counts if metric == "dice" else iou_from_counts
    value = from_counts(np.array([row["predicted_px"][index]]), np.array([row["shared_px"][index]]), row["truth_px"])
    return float(np.nan_to_num(value[0]))


def _curve(row: Mapping[str, Any]) -> np.ndarray:
    return dice_from_counts(np.array(row["predicted_px"]), np.array(row["shared_px"]), row["truth_px"])


def _words(metric: str, threshold: float | None, config: EvaluateConfig) -> str:
    if metric == "pointing_game":
        prompts = "; map of left and right prompts, the highest" if config.grounding_prompts == "sides" else ""
        return f"peak of the full-resolution map in the region, ties by centroid{prompts}"
    if metric == "pointing_game_random":
        return "share of the visible image the region covers: what a random pixel scores"
    return "no region on the threshold split" if threshold is None else f"mask: cosine >= {threshold:.2f}"


def _words_of_prior(metric: str, threshold: float | None) -> str:
    words = "mean training mask of the region in place of a map"
    if metric == "pointing_game":
        return words
    return f"{words}; " + (
        "no region on the threshold split" if threshold is None else f"mask: share of its peak >= {threshold:.2f}"
    )


def _nothing(resamples: int) -> Sampled:
    return Sampled(value=float("nan"), resampled=np.full(resamples, np.nan), n=0, n_patients=0, n_positive=0)
