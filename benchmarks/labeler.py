"""How well the report reader finds the gold labels of the Open-I reports: precision, recall and F1 with intervals.

    python -m benchmarks.labeler [--data ../shared/data] [--json] [--append]

Reads `text/iu_xray_reports.jsonl.gz` under the data folder: reports of the Indiana collection with the 14 gold labels
of Peng et al. (2018).  Only findings and impression are handed to the reader; the labels come from the collection's
human indexing, which is in the same file and is not read.  The reports are split in two by a hash of their number:
wordings were chosen on `dev` alone, the texts of `held-out` were not read.  Present counts as present, all else as not.
Intervals: percentile bootstrap over reports.  Hernia has no positive and is left out.
"""

import argparse
import gzip
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Int

from vlp.cli.console import print_json, print_table
from vlp.records import Certainty
from vlp.reports import label
from vlp.reports.findings import LABEL_SETS

NAMES: tuple[str, ...] = tuple(name for name in LABEL_SETS["nih14"] if name != "Hernia")
ENOUGH = 10
"""Positives a label needs to count in the macro average."""

Half = Literal["dev", "held-out"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldReport:
    """The text of a report and which of `NAMES` its indexers found."""

    text: str
    gold: tuple[bool, ...]
    half: Half


def half_of(uid: int) -> Half:
    """Which half a report number belongs to, by a hash that knows nothing of the text."""
    return "dev" if hashlib.sha256(str(uid).encode()).digest()[0] % 2 == 0 else "held-out"


def load_reports(data: Path) -> list[GoldReport]:
    """The reports with gold labels in `data`; text only, as a reader would meet it."""
    reports: list[GoldReport] = []
    with gzip.open(data / "text" / "iu_xray_reports.jsonl.gz", "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            if row["labels_openi14"] is None:
                continue
            sections = (("FINDINGS", row["findings"]), ("IMPRESSION", row["impression"]))
            reports.append(
                GoldReport(
                    text="\n\n".join(f"{heading}: {text}" for heading, text in sections if text),
                    gold=tuple(bool(row["labels_openi14"][name]) for name in NAMES),
                    half=half_of(row["uid"]),
                )
            )
    return reports


def predict(reports: Sequence[GoldReport]) -> Bool[np.ndarray, "report name"]:
    """Whether the reader calls each of `NAMES` present."""
    found = [label(report.text, names="nih14") for report in reports]
    return np.array([[labels.get(name) is Certainty.PRESENT for name in NAMES] for labels in found])


def _rates(counts: Int[np.ndarray, "... 3"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1 from (hits, false alarms, misses) in the last axis; nan where undefined."""
    hits, alarms, misses = np.moveaxis(counts.astype(float), -1, 0)
    with np.errstate(invalid="ignore"):
        return hits / (hits + alarms), hits / (hits + misses), 2 * hits / (2 * hits + alarms + misses)


def measure(
    gold: Bool[np.ndarray, "report name"],
    found: Bool[np.ndarray, "report name"],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """One row per name, then `micro` over all and `macro` over those with enough positives."""
    cells = np.stack([gold & found, ~gold & found, gold & ~found], axis=-1).astype(np.int64)
    generator = np.random.default_rng(seed)
    weights = generator.multinomial(len(gold), np.full(len(gold), 1 / len(gold)), size=resamples)
    drawn = np.einsum("br,rnc->bnc", weights, cells, optimize=True)
    counts, positives = cells.sum(axis=0), gold.sum(axis=0)
    enough = positives >= ENOUGH
    rows = [_row(name, counts[index], drawn[:, index], int(positives[index])) for index, name in enumerate(NAMES)]
    rows.append(_row("micro", counts.sum(axis=0), drawn.sum(axis=1), int(positives.sum())))
    precision, recall, f1 = (float(np.mean(rate[enough])) for rate in _rates(counts))
    low, high = np.nanpercentile(_rates(drawn)[2][:, enough].mean(axis=1), (2.5, 97.5))
    name = f"macro, {int(enough.sum())} names with >= {ENOUGH} positives"
    rates = {"precision": precision, "recall": recall, "f1": f1, "low": float(low), "high": float(high)}
    rows.append({"name": name, "positives": int(positives[enough].sum()), **rates})
    return rows


def _row(name: str, counts: np.ndarray, drawn: np.ndarray, positives: int) -> dict[str, Any]:
    precision, recall, f1 = (float(rate) for rate in _rates(counts))
    low, high = np.nanpercentile(_rates(drawn)[2], (2.5, 97.5))
    return {"name": name, "positives": positives, "precision": precision, "recall": recall, "f1": f1,
            "low": float(low), "high": float(high)}  # fmt: skip


def evaluate(data: Path, *, halves: Sequence[Half] = ("dev", "held-out")) -> list[dict[str, Any]]:
    """The rows of `measure` for each half, with its name and number of reports."""
    reports = load_reports(data)
    results: list[dict[str, Any]] = []
    for half in halves:
        chosen = [report for report in reports if report.half == half]
        started = time.perf_counter()
        found = predict(chosen)
        speed = len(chosen) / (time.perf_counter() - started)
        gold = np.array([report.gold for report in chosen])
        results += [
            {"half": half, "reports": len(chosen), "reports_per_s": speed, **row} for row in measure(gold, found)
        ]
    return results


def _append(rows: Sequence[dict[str, Any]]) -> None:
    """Keeps the averages and the speed of each half among the results of all benchmarks."""
    from benchmarks.line import Line, append

    lines: list[Line] = []
    for row in rows:
        kind, _, _ = row["name"].partition(",")
        if kind in {"micro", "macro"}:
            spread = {"low": row["low"], "high": row["high"]}
            lines.append(Line(benchmark="labeler", case=row["half"], metric=f"{kind} F1", value=row["f1"], **spread))
        if kind == "micro":
            speed = {"metric": "speed", "value": row["reports_per_s"], "unit": "reports/s"}
            lines.append(Line(benchmark="labeler", case=row["half"], **speed))
    append(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="folder with text/iu_xray_reports.jsonl.gz"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    parser.add_argument("--append", action="store_true", help="add the figures to results/labeler.jsonl")
    arguments = parser.parse_args()
    if not (arguments.data / "text" / "iu_xray_reports.jsonl.gz").is_file():
        parser.error(f"no text/iu_xray_reports.jsonl.gz in {arguments.data}; give the folder with --data")
    rows = evaluate(arguments.data)
    if arguments.append:
        _append(rows)
    if arguments.json:
        print_json(rows)
        return
    columns = ("name", "positives", "precision", "recall", "f1", "low", "high")
    for half in ("dev", "held-out"):
        chosen = [row for row in rows if row["half"] == half]
        print_table(
            f"Open-I gold labels, {half}: {chosen[0]['reports']} reports at {chosen[0]['reports_per_s']:.0f} a second",
            columns,
            [tuple(row[column] for column in columns) for row in chosen],
            note="F1 with a 95 % bootstrap interval over reports. Research use, not a medical device.",
        )


if __name__ == "__main__":
    main()
