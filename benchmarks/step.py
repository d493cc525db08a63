"""A whole training step with similarity attention as published and with ours: images/s, and its share of the step.

    python -m benchmarks.step [--cases demo ...] [--variants published chunked] [--rounds 5] [--json] [--append]
    python -m benchmarks.step --cases none                        # data wait alone

Towers, scorer, objective, backward pass and AdamW of a training configuration, on random images with seven sentences
each; the vectors of a frozen text tower are remembered, as in training.  Each variant lives in its own process and they
take turns.  Similarity attention is timed inside the step, forward and backward, norming included.  Values are medians
over rounds, ranges their smallest and largest; memory is the peak beyond what is held between steps.

Then data wait: `vlp train` runs the demonstration's configuration as it is on a small phantom archive, and the share of
the time is told that its training process spent getting batches, once all images are kept, as they are for nearly all
of the demonstration.  It is to be under 2 %.
"""

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.clocked_run import run_clocked
from benchmarks.line import Line, append
from benchmarks.turns import ROOT, Contender
from benchmarks.variants import VARIANTS, Variant
from vlp import log
from vlp.cli.console import print_json, print_table
from vlp.ingest.phantom.source import PhantomSource
from vlp.ingest.pipeline import IngestConfig, ingest
from vlp.ingest.splits import Splits

_PROGRAM = "benchmarks.training_step"
_BASELINE: Variant = "published"
_NONE = "none"
_DATA_WAIT = "data wait"
_DATA_WAIT_ASKED = 0.02
_PATIENTS, _WAIT_STEPS = 120, 60


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCase:
    """A training configuration, and how many images a step sees."""

    config: str
    overrides: tuple[str, ...] = ()
    images: int
    texts_per_image: int = 7


CASES = {
    "demo": StepCase(config="configs/train/demo.yaml", images=64),
    "vit_196_patches": StepCase(
        config="configs/train/demo.yaml",
        overrides=(
            "model.image.name=vit_small_patch16_224",
            "model.image.stage=null",
            "model.preprocess.size=224",
            "model.dim=384",
        ),
        images=64,
    ),
    "smoke": StepCase(config="configs/train/demo.smoke.yaml", images=8),
}
"""demo: a small CNN at 128 px, 256 patches; vit_196_patches: ViT-S/16 at 224 px; smoke: whether it runs."""


def main() -> None:
    parser = _parser()
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no CUDA device here")
    log.configure()
    cuda = options.device == "cuda" or (options.device == "auto" and torch.cuda.is_available())
    shared = {
        "device": "cuda" if cuda else "cpu",
        "mixed": cuda if options.precision == "auto" else options.precision == "bf16-mixed",
        "threads": options.threads,
    }
    variants = options.variants or [_BASELINE, "chunked", *(["fused"] if cuda else [])]
    cases = [case for case in options.cases if case != _NONE]
    lines = [
        line
        for case in log.progress(cases, description="training steps", unit="configurations")
        for line in measure(case, variants, shared, rounds=options.rounds)
    ]
    if options.data_wait:
        lines.append(measure_data_wait("gpu" if cuda else "cpu", rounds=min(3, options.rounds), steps=_WAIT_STEPS))
    if options.append:
        append(lines)
    if options.json:
        print_json([asdict(line) for line in lines])
        return
    rows = [
        (line.case, line.metric, f"{line.value:.3g} {line.unit}",
         f"{line.low:.3g} - {line.high:.3g}" if line.low is not None else "", f"{line.ratio:.2f}" if line.ratio else "")
        for line in lines
    ]  # fmt: skip
    print_table(
        f"A training step, {options.threads} threads",
        ("case", "what", "median", "range", "/ published"),
        rows,
        note=verdict(lines),
    )


def measure(case: str, variants: list[Variant], shared: dict[str, Any], *, rounds: int) -> list[Line]:
    """Lines of one configuration: every variant's turns, alternating.

    Raises:
        benchmarks.turns.GoneError: if a variant runs out of memory; take a smaller batch.
    """
    turns: dict[Variant, list[dict[str, Any]]] = {variant: [] for variant in variants}
    with ExitStack() as stack:
        contenders = {}
        for variant in variants:
            spec = asdict(CASES[case]) | shared | {"variant": variant}
            contenders[variant] = stack.enter_context(Contender(_PROGRAM, spec, threads=shared["threads"]))
        for number in range(rounds):
            for variant in variants[number % len(variants) :] + variants[: number % len(variants)]:
                turns[variant].append(contenders[variant].turn())
    name = f"{case} {CASES[case].images} images {'bf16-mixed' if shared['mixed'] else 'fp32'} {shared['device']}"
    return [line for variant in variants for line in _lines(name, variant, turns, case, shared["threads"])]


def measure_data_wait(
    accelerator: str, *, rounds: int, steps: int, patients: int = _PATIENTS, config: str = "demo"
) -> Line:
    """Share of a run's time that goes by until its batches are there, with everything as the configuration has it."""
    shares, threads = [], 0
    with tempfile.TemporaryDirectory(prefix="vlp-data-wait-") as name:
        folder = Path(name)
        source = PhantomSource(patients=patients)
        splits = Splits(train=1.0, val=0.0, test=0.0)
        ingest(IngestConfig(source=source, output=folder / "shards", splits=splits))
        for number in log.progress(range(rounds), description="data wait", total=rounds, unit="runs"):
            arguments = [
                *("train", str(ROOT / f"configs/train/{config}.yaml"), f"output={folder / f'run-{number}'}"),
                *(f"shards={folder / 'shards'}", f"accelerator={accelerator}", "zero_shot.every=0"),
                *("max_steps=100000", "checkpoint_every=100000"),
            ]
            run = run_clocked("vlp", arguments, steps=steps, skip=steps // 4, threads=None, workdir=folder)
            shares.append(run.data_wait)
            threads = run.threads
    return Line(
        benchmark="step",
        case=f"{config} as configured, {accelerator}",
        metric=_DATA_WAIT,
        value=statistics.median(shares),
        low=min(shares),
        high=max(shares),
        threads=threads,
    )


def verdict(lines: list[Line]) -> str:
    """Whether data wait is as little as is asked; empty where it was not measured."""
    shares = [line.value for line in lines if line.metric == _DATA_WAIT]
    return "".join(
        f"data wait under {_DATA_WAIT_ASKED:.0%}: {share:.1%}, {'met' if share < _DATA_WAIT_ASKED else 'NOT MET'}"
        for share in shares
    )


def _lines(
    name: str, variant: Variant, turns: dict[Variant, list[dict[str, Any]]], case: str, threads: int
) -> Iterator[Line]:
    images = CASES[case].images
    figures = {
        ("images/s", "images/s"): lambda turn: images / turn["seconds"],
        ("share of step in similarity attention", ""): lambda turn: turn["attention_seconds"] / turn["seconds"],
        ("similarity attention", "s"): lambda turn: turn["attention_seconds"],
        ("peak within a step", "MB"): lambda turn: (turn["peak_bytes"] or 0) / 1e6,
    }
    for (metric, unit), figure in figures.items():
        values = [figure(turn) for turn in turns[variant]]
        against = statistics.median(map(figure, turns[_BASELINE])) if _BASELINE in turns else None
        value = statistics.median(values)
        if not value:
            continue  # the system does not tell its memory
        yield Line(
            benchmark="step",
            case=name,
            metric=f"{variant} {metric}",
            value=value,
            low=min(values),
            high=max(values),
            unit=unit,
            baseline=_BASELINE if against else None,
            ratio=value / against if against else None,
            threads=threads,
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=(*CASES, _NONE), default=["demo", "vit_196_patches"])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, help="default: published, chunked, fused on CUDA")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--precision", choices=("auto", "32", "bf16-mixed"), default="auto",
                        help="32 on a CPU, bf16-mixed on CUDA")  # fmt: skip
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data-wait", action=argparse.BooleanOptionalAction, default=True, help="measure it as well")
    parser.add_argument("--json", action="store_true", help="print for programs")
    parser.add_argument("--append", action="store_true", help="add the lines to benchmarks/results/")
    return parser


if __name__ == "__main__":
    main()
