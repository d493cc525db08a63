"""A head against the zero-shot map of the same model: the same images, each at thresholds from validation studies.

Every image is looked at once by both; what is kept are pixel counts at every threshold of a fixed grid, so that which
threshold serves is decided afterwards, from the validation rows alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from vlp.data.reader import ShardReader
from vlp.evaluate.results import MACRO, Result, result
from vlp.heads.head import Head
from vlp.heads.targets import Item, read_items
from vlp.inference.region_maps import region_map, region_texts
from vlp.log import progress
from vlp.metrics.bootstrap import Resamples, Sampled, macro_estimate, weighted_mean
from vlp.metrics.segmentation import COSINES, best_threshold, dice_from_counts, overlaps
from vlp.records import Split

TASK = "segmentation"
HEAD, MAP = "head", "zero_shot"
GRIDS: Mapping[str, Float[np.ndarray, " threshold"]] = {HEAD: np.arange(1, 100) / 100.0, MAP: COSINES}
"""Values at which masks are measured: probabilities of the head, cosines of the map."""
MapPrompts = Literal["finding", "sides"]
Row = dict[str, Any]
_AT_A_TIME = 16


def evaluate_head(
    head: Head,
    reader: ShardReader,
    split: Split,
    *,
    views: Literal["frontal", "all"] = "frontal",
    boxes: bool = True,
    map_prompts: MapPrompts = "finding",
) -> list[Row]:
    """One row per image and class that something is known of.

    All have the highest value of the head's map and of the zero-shot map; a class with a region also has the pixel
    counts of both at every threshold.

    Raises:
        DataError: for an image that cannot be read, or a mask that does not fit its image.
    """
    items = read_items(reader, reader.keys(split), classes=head.classes, views=views, boxes=boxes)
    rows: list[Row] = []
    description = f"head and map on {split}"
    for group in _groups(progress(items, description=description, unit="images"), _AT_A_TIME):
        rows += _compared(head, reader, split, group, map_prompts)
    return rows


def choose_thresholds(rows: Sequence[Row], classes: Sequence[str]) -> dict[str, dict[str, float]]:
    """For head and map: class -> threshold of the best mean Dice over rows of validation studies.

    The key "" stands for all classes together, and for those that have no region there.
    """
    chosen: dict[str, dict[str, float]] = {}
    for who, grid in GRIDS.items():
        marked = [row for row in rows if row["present"]]
        together = best_threshold(np.array([_curve(row, who) for row in marked]), grid)
        chosen[who] = {"": together if np.isfinite(together) else float(np.median(grid))}
        for name in classes:
            own = [_curve(row, who) for row in marked if row["finding"] == name]
            chosen[who][name] = best_threshold(np.array(own), grid) if own else chosen[who][""]
    return chosen


def estimate(
    rows: Sequence[Row],
    thresholds: Mapping[str, Mapping[str, float]],
    *,
    classes: Sequence[str],
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> list[Result]:
    """Dice of head and map and their paired difference, and how often each stays silent where a class is absent.

    Every figure rests on the same resamples of patients; the macro averages are over classes with rows.

    Args:
        rows: What `evaluate_head` gave for the studies that are scored.
        thresholds: What `choose_thresholds` gave for others.
        classes: The declared list.
        resamples: Draws behind every interval.
        level: Confidence level.
        seed: Of the draws.
    """
    draws = Resamples.draw([row["patient_id"] for row in rows], resamples=resamples, seed=seed)
    results: list[Result] = []
    for metric, words in _METRICS.items():
        members = {}
        for name in classes:
            own = [row for row in rows if row["finding"] == name and row["present"] == metric.startswith("dice")]
            if own:
                members[name] = _sample(draws, own, metric, thresholds)
        average = macro_estimate(members, level=level)
        results.append(result(TASK, metric, MACRO, average, method=f"{words}; mean of {len(members)} classes"))
        for name, member in members.items():
            cuts = ", ".join(f"{who} >= {thresholds[who][name]:.2f}" for who in _who(metric))
            results.append(result(TASK, metric, name, member.estimate(level=level), method=f"{words}; {cuts}"))
    return results


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """The rows as a parquet file, whole or not at all; metrics need nothing else."""
    import os

    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    pq.write_table(pa.Table.from_pylist(list(rows)), temporary)
    os.replace(temporary, path)


_METRICS = {
    "dice": "head, images with the class",
    "dice_zero_shot": "zero-shot map of the same model, images with the class",
    "dice_difference": "head minus zero-shot map, paired by image",
    "silent_when_absent": "head: share of images known not to have the class on which no pixel reaches the threshold",
    "silent_when_absent_zero_shot": "zero-shot map: the same",
}


def _who(metric: str) -> tuple[str, ...]:
    if metric.endswith("difference"):
        return HEAD, MAP
    return (MAP,) if metric.endswith(MAP) else (HEAD,)


def _sample(
    draws: Resamples, rows: Sequence[Row], metric: str, thresholds: Mapping[str, Mapping[str, float]]
) -> Sampled:
    first, *others = (np.array([_value(row, who, thresholds) for row in rows]) for who in _who(metric))
    values = first - others[0] if others else first
    return draws.sample(weighted_mean(values), [row["patient_id"] for row in rows], n_positive=len(rows))


def _value(row: Row, who: str, thresholds: Mapping[str, Mapping[str, float]]) -> float:
    cut = thresholds[who][row["finding"]]
    if not row["present"]:
        return float(row[f"{who}_highest"] < cut)
    return float(_curve(row, who)[int(np.argmin(np.abs(GRIDS[who] - cut)))])


def _curve(row: Row, who: str) -> np.ndarray:
    """Dice at every threshold; 0 where both are empty, which a region that was never seen can be."""
    counts = np.array(row[f"{who}_predicted_px"]), np.array(row[f"{who}_shared_px"])
    return np.nan_to_num(dice_from_counts(*counts, row["truth_px"]))


def _groups(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    group: list[Item] = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _texts(head: Head, prompts: MapPrompts) -> list[tuple[str, ...]]:
    """Per class the sentences whose maps, the highest at every patch, are the zero-shot answer."""
    named = zip(head.classes, head.card.prompts, strict=True)
    return [region_texts(name, prompt, sides=prompts == "sides") for name, prompt in named]


def _compared(
    head: Head, reader: ShardReader, split: Split, items: Sequence[Item], map_prompts: MapPrompts
) -> list[Row]:
    seen = [head.engine.see(reader, item.key, item.index) for item in items]
    features = head.engine.features(seen)[0]
    own = head.on_grid(seen, head.classes)
    asked = zip(head.classes, _texts(head, map_prompts), strict=True)
    cosines = [region_map(head.engine, features, name, texts) for name, texts in asked]
    rows = []
    for place, (item, image) in enumerate(zip(items, seen, strict=True)):
        for column, name in enumerate(head.classes):
            if name not in item.masks and name not in item.absent:
                continue
            row: Row = {
                "split": split,
                "patient_id": item.patient,
                "study_id": item.key,
                "image": item.index,
                "finding": name,
                "present": name in item.masks,
                "region_kind": item.kinds.get(name, ""),
                "truth_px": None,
            }
            for who, grid in ((HEAD, own[place, column]), (MAP, cosines[column][place])):
                row |= {f"{who}_highest": float(grid.max()), f"{who}_predicted_px": None, f"{who}_shared_px": None}
                if name in item.masks:
                    counts = overlaps(image.placement.map_to_original(grid), item.masks[name], GRIDS[who])
                    row |= {
                        f"{who}_predicted_px": counts.predicted.tolist(),
                        f"{who}_shared_px": counts.shared.tolist(),
                        "truth_px": counts.truth,
                    }
            rows.append(row)
    return rows
