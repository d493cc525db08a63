"""Whether answers depend on the words: the other side, the denial, another finding, and findings that are not there."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from vlp.evaluate.explain.sample import Case, Sample
from vlp.evaluate.explain.table import Row, estimated, missing
from vlp.metrics.bootstrap import Resamples, macro_estimate, patient_bootstrap, weighted_mean
from vlp.metrics.estimate import DEGENERATE, Estimate
from vlp.metrics.proportion import wilson
from vlp.metrics.ranking import auroc, sample_auroc
from vlp.records import Certainty

SIDES = "laterality swap"
PROMPTS = "prompt contrast"
ABSENT = "none should light"
_CHANCE = 0.5
_REACHED_BY = 0.8
"""Share of the present cases that reach a threshold made for want of a calibrated one."""


def measure(sample: Sample, *, resamples: int, seed: int) -> list[Row]:
    """The rows of the three tests."""
    return [
        *laterality(sample, resamples=resamples, seed=seed),
        *prompts(sample, resamples=resamples, seed=seed),
        *absent(sample, resamples=resamples, seed=seed),
    ]


def laterality(sample: Sample, *, resamples: int, seed: int) -> list[Row]:
    """How well the side of one-sided findings is told: by the sentences' scores, and by the map of the unsided one."""
    cases = sample.one_sided
    whats = ("AUROC by score, left against right", "AUROC by the map's mass, left against right")
    sides = {case.side for case in cases}
    if sides != {"left", "right"}:
        return [missing(SIDES, what, _few_sides(len(cases)), rule=f"interval > {_CHANCE:g}") for what in whats]
    sentences = tuple(dict.fromkeys(text for case in cases for text in (case.own, case.swapped)))
    similarity = sample.engine.scores(sentences, sample.features)[0].astype(np.float64)
    row = {text: number for number, text in enumerate(sentences)}
    by_score = []
    for case in cases:
        left, right = (case.own, case.swapped) if case.side == "left" else (case.swapped, case.own)
        by_score.append(similarity[row[left], case.number] - similarity[row[right], case.number])
    findings = sorted({case.finding for case in cases})
    maps = sample.maps([sample.named(finding) for finding in findings])
    by_map = [left_share(maps[findings.index(case.finding), case.number]) for case in cases]
    labels = [int(case.side == "left") for case in cases]
    patients = [sample.patients[case.number] for case in cases]
    methods = (
        "similarity of the sentence with the left side minus that with the right, on findings that are surely on one",
        "share of the map above its median on the patient's left, of the sentence without a side",
    )
    return [
        estimated(
            SIDES,
            what,
            side_auroc(labels, scores, patients=patients, resamples=resamples, seed=seed),
            method=method,
            above=_CHANCE,
        )
        for what, scores, method in zip(whats, (by_score, by_map), methods, strict=True)
    ]


def side_auroc(
    labels: Sequence[int], scores: Sequence[float], *, patients: Sequence[str], resamples: int, seed: int
) -> Estimate:
    """AUROC with its bootstrap interval; where all pairs agree, Wilson's interval over the patients of the rarer side.

    Resampling cases that all agree gives an interval of no width, which would claim certainty from a handful.
    """
    found = auroc(labels, scores, patients=patients, resamples=resamples, seed=seed)
    if found.value not in (0.0, 1.0) or found.reason != DEGENERATE:
        return found
    sides = [{patient for patient, one in zip(patients, labels, strict=True) if one == label} for label in (0, 1)]
    fewer = min(map(len, sides))
    low, high = wilson(round(found.value * fewer), fewer)
    method = f"all pairs agree: Wilson interval over the {fewer} patients of the rarer side"
    return replace(found, low=low, high=high, reason=None, method=method)


def left_share(values: Float[np.ndarray, "rows columns"]) -> float:
    """The share of what a map has above its median that lies on the patient's left, the right half of the grid.

    A middle column counts to both halves; a constant map has one half on either side.
    """
    mass = np.nan_to_num(np.maximum(values - np.nanmedian(values), 0.0), nan=0.0)
    columns = mass.sum(axis=0)
    weights = np.clip(np.arange(columns.size) + 1.0 - columns.size / 2, 0.0, 1.0)
    return float(columns @ weights / columns.sum()) if columns.sum() > 0 else _CHANCE


def prompts(sample: Sample, *, resamples: int, seed: int) -> list[Row]:
    """By how much a present finding's map peaks above that of its denial, an absent finding, and its other side."""
    pairs = {
        "peak above the denial's": _denials(sample),
        "peak above an absent finding's": _absent_ones(sample),
        "peak above the other side's": _other_sides(sample),
    }
    rows = []
    for what, contrasts in pairs.items():
        found = list(contrasts)
        if not found:
            rows.append(missing(PROMPTS, what, "no study of the sample has such a pair of sentences"))
            continue
        texts = tuple(dict.fromkeys(text for _, own, other in found for text in (own, other)))
        peaks = _peaks(sample, texts)
        row = {text: number for number, text in enumerate(texts)}
        values = [peaks[row[own], number] - peaks[row[other], number] for number, own, other in found]
        patients = [sample.patients[number] for number, _, _ in found]
        estimate = patient_bootstrap(weighted_mean(np.array(values)), patients, resamples=resamples, seed=seed)
        rows.append(estimated(PROMPTS, what, estimate, method="difference of the maps' highest cosines, paired"))
    return rows


def absent(sample: Sample, *, resamples: int, seed: int) -> list[Row]:
    """Whether the maps of findings that are denied stay dark: highest cosine, and area at or above a threshold."""
    findings = sample.findings
    texts = [sample.named(finding) for finding in findings]
    maps = sample.maps(texts)
    peaks = np.nanmax(maps, axis=(2, 3))
    cut, words = _thresholds(sample, peaks)
    absent_cases = [case for case in sample.cases if case.certainty is Certainty.ABSENT]
    if not absent_cases:
        return [missing(ABSENT, "studies without any patch over the threshold", "no finding is labelled absent")]
    dark, areas = [], []
    for case in absent_cases:
        values = maps[findings.index(case.finding), case.number]
        over = values[np.isfinite(values)] >= cut[case.finding]
        dark.append(float(not over.any()))
        areas.append(float(over.mean()))
    patients = [sample.patients[case.number] for case in absent_cases]
    rows = [
        estimated(
            ABSENT,
            what,
            patient_bootstrap(weighted_mean(np.array(values)), patients, resamples=resamples, seed=seed),
            method=f"findings that are denied; threshold: {words}",
        )
        for what, values in (("share without any patch over the threshold", dark), ("area over the threshold", areas))
    ]
    return [_peak_auroc(sample, peaks, resamples=resamples, seed=seed), *rows]


def _peak_auroc(sample: Sample, peaks: Float[np.ndarray, "finding image"], *, resamples: int, seed: int) -> Row:
    draws = Resamples.draw(sample.patients, resamples=resamples, seed=seed)
    members = {}
    for number, finding in enumerate(sample.findings):
        cases = [case for case in sample.cases if case.finding == finding]
        members[finding] = sample_auroc(
            draws,
            [int(case.certainty is Certainty.PRESENT) for case in cases],
            [peaks[number, case.number] for case in cases],
            [sample.patients[case.number] for case in cases],
        )
    defined = {finding: member for finding, member in members.items() if not np.isnan(member.value)}
    if not defined:
        return missing(ABSENT, "AUROC of the highest cosine", "no finding is both present and absent in the sample")
    left_out = len(members) - len(defined)
    method = f"macro over {len(defined)} findings, present against denied" + (
        f"; {left_out} without both left out" if left_out else ""
    )
    return estimated(ABSENT, "AUROC of the highest cosine", macro_estimate(defined), method=method)


def _thresholds(sample: Sample, peaks: Float[np.ndarray, "finding image"]) -> tuple[dict[str, float], str]:
    """(threshold by finding, in words where it comes from): calibrated, of the checkpoint, or made of these studies."""
    found: dict[str, float] = {}
    for number, finding in enumerate(sample.findings):
        calibrated = None if sample.calibration is None else sample.calibration.map_threshold(finding)
        own = calibrated if calibrated is not None else sample.engine.ground_threshold
        if own is None:
            present = [case.number for case in sample.present if case.finding == finding]
            own = float(np.quantile(peaks[number, present], 1.0 - _REACHED_BY))
        found[finding] = own
    if sample.calibration is not None and sample.calibration.maps:
        return found, "calibrated, where the finding has one"
    if sample.engine.ground_threshold is not None:
        return found, "the checkpoint's"
    return found, f"none was calibrated, so that which {_REACHED_BY:.0%} of the studies with the finding reach"


def _peaks(sample: Sample, texts: Sequence[str]) -> Float[np.ndarray, "text image"]:
    highest: np.ndarray = np.nanmax(sample.maps(texts), axis=(2, 3))
    return highest


def _denials(sample: Sample) -> Iterator[tuple[int, str, str]]:
    for case in sample.present:
        pair = sample.descriptors.of(case.finding, prompts="finding")[0]
        yield case.number, pair.positive, pair.negative


def _absent_ones(sample: Sample) -> Iterator[tuple[int, str, str]]:
    """Every present finding with the absent finding of its study that comes next in the alphabet."""
    denied: dict[int, list[Case]] = {}
    for case in sample.cases:
        if case.certainty is Certainty.ABSENT:
            denied.setdefault(case.number, []).append(case)
    for case in sample.present:
        others = sorted(other.finding for other in denied.get(case.number, ()))
        if others:
            following = next((other for other in others if other > case.finding), others[0])
            yield case.number, sample.named(case.finding), sample.named(following)


def _other_sides(sample: Sample) -> Iterator[tuple[int, str, str]]:
    for case in sample.one_sided:
        yield case.number, case.own, case.swapped


def _few_sides(count: int) -> str:
    return f"needs findings on the left and others on the right; {count} are surely on one side, not some on either"
