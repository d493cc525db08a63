"""The demonstration's model against honest baselines: same shards, same towers, same number of steps, one run.

    python -m benchmarks.baselines [--steps 400] [--cases demo clip_baseline ...] [--json] [--append]

Trains configs/train/{demo,clip_baseline,single_sentence,demo_vit}.yaml one after another, evaluates each on the test
patients, and reports the macro AUROC of each and its difference from the demonstration's, both with intervals from
the same resamples of patients; the pointing game and P@5 stand beside them.  Needs the demonstration's shards
(`make demo`, or `vlp ingest configs/ingest/demo.yaml`).  One seed each:
what another training would give is not in the interval.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.line import Line, append
from vlp import log
from vlp.cli.console import print_json, print_table
from vlp.config import load
from vlp.evaluate.config import EvaluateConfig
from vlp.evaluate.results import find, read_results
from vlp.evaluate.run import evaluate
from vlp.metrics.bootstrap import Resamples, Sampled, macro
from vlp.metrics.ranking import sample_auroc
from vlp.train.config import TrainConfig
from vlp.train.run import train

OURS = "demo"
CASES = (OURS, "clip_baseline", "single_sentence", "demo_vit")
_ALREADY_DONE_MINUTES = 0.2
"""A training that is over sooner was found finished; its time is not known any more."""
CONFIGS = Path(__file__).parents[1] / "configs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400, help="training steps of every case")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES, help="ours first; all by default")
    parser.add_argument("--runs", type=Path, default=Path("runs/baselines"), help="where the runs go")
    parser.add_argument("--shards", type=Path, default=Path("runs/demo/shards"), help="what they are trained on")
    parser.add_argument("--json", action="store_true", help="print for programs")
    parser.add_argument("--append", action="store_true", help="add the lines to benchmarks/results/")
    options = parser.parse_args()
    log.configure()
    minutes = {case: run(case, options) for case in options.cases}
    lines = compare(options.runs, minutes)
    if options.append:
        append(lines)
    if options.json:
        print_json([{"case": line.case, "metric": line.metric, "value": line.value} for line in lines])
        return
    rows = [(line.case, line.metric, line.value, line.low, line.high) for line in lines]
    print_table(f"{options.steps} steps each", ("case", "metric", "value", "low", "high"), rows)


def run(case: str, options: argparse.Namespace) -> float:
    """Trains and evaluates one case; returns the minutes its training took (next to none where it was done before)."""
    folder = options.runs / case
    overrides = [f"output={folder}", f"shards={options.shards}", f"max_steps={options.steps}", "max_minutes=null"]
    started = time.monotonic()
    train(load(TrainConfig, CONFIGS / "train" / f"{case}.yaml", overrides))
    minutes = (time.monotonic() - started) / 60
    settings = [f"checkpoint={folder / 'checkpoints/final'}", f"shards={options.shards}", f"output={folder}"]
    evaluate(load(EvaluateConfig, CONFIGS / "evaluate" / "demo.yaml", settings))
    return minutes


def compare(runs: Path, minutes: dict[str, float]) -> list[Line]:
    """Every case's figures, and how far each lies from ours on the same resamples."""
    sampled = {case: macro_auroc(runs / case) for case in minutes}
    lines = []
    for case in minutes:
        ours, theirs = sampled[OURS], sampled[case]
        lines.append(_line(case, "macro AUROC", theirs, ratio=theirs.value / ours.value))
        if case != OURS:
            gain = Sampled(
                value=ours.value - theirs.value,
                resampled=ours.resampled - theirs.resampled,
                n=ours.n,
                n_patients=ours.n_patients,
                n_positive=ours.n_positive,
            )
            lines.append(_line(case, f"macro AUROC that {OURS} is above it", gain, ratio=None))
        for metric, finding, task in (
            ("pointing_game", "macro", "grounding"),
            ("precision_at_5", "all", "retrieval"),
            ("precision_at_5_over_random", "all", "retrieval"),
        ):
            row = find(read_results(runs / case), task=task, metric=metric, finding=finding)
            if row is not None and row.value is not None:
                lines.append(_plain(case, metric, row.value, row.low, row.high))
        if minutes[case] > _ALREADY_DONE_MINUTES:
            lines.append(_plain(case, "training", minutes[case], None, None, unit="min"))
    return lines


def macro_auroc(run_folder: Path) -> Sampled:
    """The macro AUROC of a run's test predictions, on resamples that are the same for every run."""
    table = pd.read_parquet(run_folder / "predictions" / "classification.parquet")
    table = table[(table["split"] == "test") & (table["status"] == "ok") & (table["score_name"] == "both")]
    table = table[table["label"].isin(["present", "absent"])].sort_values(["study_id", "finding"])
    draws = Resamples.draw(sorted(table["patient_id"].unique()))
    members: dict[str, Sampled] = {}
    for finding, rows in table.groupby("finding"):
        truth = (rows["label"] == "present").to_numpy(dtype=int)
        members[str(finding)] = sample_auroc(draws, truth, rows["score"].to_numpy(), rows["patient_id"].tolist())
    return macro(members)


def _line(case: str, metric: str, sampled: Sampled, *, ratio: float | None) -> Line:
    estimate = sampled.estimate()
    baseline = OURS if ratio is not None else None
    return Line(
        benchmark="baselines",
        case=case,
        metric=metric,
        value=sampled.value,
        low=estimate.low,
        high=estimate.high,
        baseline=baseline,
        ratio=ratio,
        threads=2,
    )


def _plain(case: str, metric: str, value: float, low: Any, high: Any, unit: str = "") -> Line:
    return Line(benchmark="baselines", case=case, metric=metric, value=value, low=low, high=high, unit=unit, threads=2)


if __name__ == "__main__":
    main()
