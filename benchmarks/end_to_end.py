"""Samples/s of `vlp train` against open_clip's own training command: same towers, batch, shards and objective.

    python -m benchmarks.end_to_end [--rounds 3] [--steps 48] [--workers 1 2] [--threads 1 2] [--json] [--append]
    python -m benchmarks.end_to_end --studies 64 --steps 6 --search-steps 4 --rounds 1      # whether it runs

Both train open_clip's towers (a ViT of 2 layers, width 128, patches of 32 px at 224 px; a text transformer of 2 layers,
width 128, 77 tokens) with CLIP's objective on batches of 64 studies of one 512 px JPEG and its whole report, in
float32, from the same tars.  Their random crops cover alike: open_clip takes 0.9 to 1.0 of an image's area, vlp is
given shifts and scales of that extent and nothing else.

First every program runs briefly at every setting of workers and threads, and as it comes; then the best setting of
each takes turns with the other's, a process of its own each time.  Times are between the optimizer's steps, after
--skip of them (`benchmarks.step_clock`), so no start-up is counted for either; all else is: loading, logging, the
boundary between steps.  What the programs do as they come is measured, too.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.clocked_run import Clocked, run_clocked
from benchmarks.line import Line, append
from benchmarks.loader_data import write_shards
from benchmarks.open_clip_trainer import train_pattern
from benchmarks.peer_packages import NotInstalledError, install
from vlp import log
from vlp.cli.console import print_json, print_table
from vlp.data.manifest import read_manifest

PROGRAMS = ("vlp", "open_clip")
BATCH = 64
ASKED = 1.3
"""What our rate must be of open_clip's."""
STUDIES = 3000
_DESIGN = "ViT-B-32"
_IMAGE, _TEXT = {"layers": 2, "width": 128}, {"layers": 2, "width": 128, "heads": 2}
_MODEL = {
    "embed_dim": 512,
    "vision_cfg": {"image_size": 224, "patch_size": 32, "head_width": 64, **_IMAGE},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, **_TEXT},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How a program is told to use the processors; None leaves it to the program."""

    workers: int | None
    threads: int | None

    def __str__(self) -> str:
        if self == AS_IT_COMES:
            return "as it comes"
        return f"workers={self.workers} threads={self.threads}"


AS_IT_COMES = Setting(workers=None, threads=None)


class OtherModelError(Exception):
    """The two programs do not train models of the same size."""


class Bench:
    """The shards, what open_clip needs beside them, and the two commands."""

    def __init__(self, folder: Path, *, studies: int, packages: Path) -> None:
        """Draws the shards.

        Raises:
            NotInstalledError: if open_clip's webdataset cannot be had.
        """
        self.folder = folder
        self.webdataset = install("open_clip", packages)
        self.shards = write_shards(folder / "shards", size_px=512, studies=studies)
        self.models = folder / "models"
        self.models.mkdir()
        (self.models / "vlp-tiny.json").write_text(json.dumps(_MODEL), encoding="utf-8")
        self.config = folder / "config.yaml"
        self.config.write_text(yaml.safe_dump(self._settings()), encoding="utf-8")
        self._runs = 0

    def run(self, program: str, setting: Setting, *, steps: int, skip: int) -> Clocked:
        """One run of a program.

        Raises:
            benchmarks.clocked_run.ProgramError: if it fails.
        """
        self._runs += 1
        output = self.folder / f"run-{self._runs}"
        make = self._vlp if program == "vlp" else self._open_clip
        arguments = make(setting, output, steps)
        return run_clocked(program, arguments, steps=steps, skip=skip, threads=setting.threads, workdir=self.folder)

    def _vlp(self, setting: Setting, output: Path, steps: int) -> list[str]:
        arguments = ["train", str(self.config), f"output={output}"]
        if setting.workers is not None:
            arguments.append(f"loader.workers={setting.workers}")
        if setting.threads is not None:
            arguments.append(f"threads={setting.threads}")
        return arguments

    def _open_clip(self, setting: Setting, output: Path, steps: int) -> list[str]:
        workers = [] if setting.workers is None else ["--workers", str(setting.workers)]
        return [
            *(str(self.webdataset), str(self.models)),
            *("--train-data", train_pattern(self.shards, read_manifest(self.shards))),
            # Longer than what is timed, so that its workers are at work all the time.
            *("--train-num-samples", str(2 * steps * BATCH)),
            *("--dataset-type", "webdataset", "--batch-size", str(BATCH), "--epochs", "1", *workers),
            *("--precision", "fp32", "--device", "cpu", "--model", "vlp-tiny", "--log-every-n-steps", "1"),
            *("--save-frequency", "0", "--zeroshot-frequency", "0", "--logs", str(output)),
        ]

    def _settings(self) -> dict[str, Any]:
        return {
            "output": "set on the command line",
            "shards": str(self.shards),
            "model": {
                "image": {"kind": "open_clip", "name": _DESIGN, "arguments": _IMAGE, "pooled": "cls", "head": "none"},
                "text": {"kind": "open_clip", "name": _DESIGN, "arguments": _TEXT, "head": "none"},
                "dim": _MODEL["embed_dim"],
                "scorer": {"kind": "cosine"},
                "preprocess": {"size": 224, "channels": 3},
            },
            "objective": {"kind": "clip"},
            "loader": {
                "batch_studies": BATCH,
                "texts": "report",
                "augment": {
                    "probability": 1.0, "scale": 0.05, "translate": 0.025,
                    "rotate_deg": 0, "brightness": 0, "contrast": 0, "noise": 0,
                },
            },
            "gradient_clip": 0.0,
            "max_steps": 100_000,
            "checkpoint_every": 100_000,
            "zero_shot": {"every": 0},
            "wandb": {"mode": "disabled"},
            "accelerator": "cpu",
        }  # fmt: skip


def search(bench: Bench, settings: Sequence[Setting], *, steps: int, skip: int) -> dict[str, dict[Setting, float]]:
    """Samples/s of both programs at every setting, one short run each."""
    found: dict[str, dict[Setting, float]] = {program: {} for program in PROGRAMS}
    for setting in log.progress(settings, description="settings", unit="settings"):
        for program in PROGRAMS:
            found[program][setting] = rate(bench.run(program, setting, steps=steps, skip=skip))
    return found


def compare(
    bench: Bench, settings: Mapping[str, Setting], *, rounds: int, steps: int, skip: int
) -> dict[str, list[Clocked]]:
    """Turns of both programs, each at its own setting.

    Raises:
        OtherModelError: if their models differ in size.
    """
    turns: dict[str, list[Clocked]] = {program: [] for program in PROGRAMS}
    for number in log.progress(range(rounds), description="rounds", total=rounds, unit="rounds"):
        for program in PROGRAMS if number % 2 == 0 else PROGRAMS[::-1]:
            turns[program].append(bench.run(program, settings[program], steps=steps, skip=skip))
    ours, theirs = (turns[program][0].parameters for program in PROGRAMS)
    if abs(ours - theirs) > 0.01 * theirs:
        raise OtherModelError(f"vlp trains {ours} parameters, open_clip {theirs}")
    return turns


def rate(run: Clocked) -> float:
    """Samples a second."""
    return run.steps * BATCH / run.seconds


def make_lines(searched: Mapping[str, Mapping[Setting, float]], turns: Mapping[str, Sequence[Clocked]]) -> list[Line]:
    """The figures as benchmark lines."""
    common: dict[str, Any] = {"benchmark": "end_to_end", "case": "tiny towers, batch 64, 512 px"}
    lines = [
        Line(metric=f"{program}, {setting} (one short run)", value=value, unit="samples/s", threads=_cores(), **common)
        for program, rates in searched.items()
        for setting, value in rates.items()
    ]
    theirs = [rate(run) for run in turns["open_clip"]]
    for program, runs in turns.items():
        rates = [rate(run) for run in runs]
        ratios = [own / other for own, other in zip(rates, theirs, strict=True)]
        figures = {
            ("samples/s", "samples/s"): rates,
            ("processor time", "ms/sample"): [1000 * run.cpu_seconds / (run.steps * BATCH) for run in runs],
            ("data wait", ""): [run.data_wait for run in runs],
        }
        for (what, unit), values in figures.items():
            lines.append(
                Line(
                    metric=f"{program} {what}",
                    value=statistics.median(values),
                    low=min(values),
                    high=max(values),
                    unit=unit,
                    baseline="open_clip" if what == "samples/s" else None,
                    ratio=statistics.median(ratios) if what == "samples/s" else None,
                    threads=runs[0].threads,
                    **common,
                )
            )
    others = [run.others for runs in turns.values() for run in runs]
    lines.append(Line(metric="other processes", value=statistics.median(others), low=min(others), high=max(others),
                      unit="cores", threads=_cores(), **common))  # fmt: skip
    return lines


def verdict(turns: Mapping[str, Sequence[Clocked]]) -> str:
    """Whether what is asked is met."""
    pairs = zip(turns["vlp"], turns["open_clip"], strict=True)
    ratio = statistics.median(rate(own) / rate(theirs) for own, theirs in pairs)
    return f">= {ASKED:g} of open_clip: {ratio:.2f}, {'met' if ratio >= ASKED else 'NOT MET'}"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main() -> int:
    parser = _parser()
    options = parser.parse_args()
    if not (0 < options.skip < options.steps and options.search_steps > 2):
        parser.error("--skip must be less than --steps, and --search-steps at least 3")
    log.configure()
    settings = [AS_IT_COMES, *(Setting(workers=w, threads=t) for w in options.workers for t in options.threads)]
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="vlp-end-to-end-") as name:
        packages = (options.packages or Path(name) / "packages").resolve()
        packages.mkdir(parents=True, exist_ok=True)
        try:
            bench = Bench(Path(name), studies=options.studies, packages=packages)
        except NotInstalledError as error:
            print(f"open_clip's trainer cannot be run: {error}", file=sys.stderr)
            return 1
        searched = search(
            bench, settings, steps=options.search_steps, skip=min(options.skip, options.search_steps // 2)
        )
        best = {program: max(rates, key=rates.__getitem__) for program, rates in searched.items()}
        turns = compare(bench, best, rounds=options.rounds, steps=options.steps, skip=options.skip)
    lines = make_lines(searched, turns)
    said = [f"{program} at its best: {setting}" for program, setting in best.items()] + [verdict(turns)]
    if options.append:
        append(lines)
    if options.json:
        print_json({"lines": [asdict(line) for line in lines], "verdicts": said})
        return 0
    rows = [
        (line.metric, f"{line.value:.3g} {line.unit}".strip(),
         "" if line.low is None else f"{line.low:.3g} - {line.high:.3g}", "" if not line.ratio else f"{line.ratio:.2f}")
        for line in lines
    ]  # fmt: skip
    print_table("Training, end to end", ("what", "median", "range over rounds", "/ open_clip"), rows,
                note="\n".join(said))  # fmt: skip
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cores = sorted({1, _cores()})
    parser.add_argument("--workers", type=int, nargs="+", default=cores, help="numbers of workers to try")
    parser.add_argument("--threads", type=int, nargs="+", default=cores, help="numbers of torch threads to try")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=48, help="of a turn")
    parser.add_argument("--skip", type=int, default=10, help="steps before the clock starts")
    parser.add_argument("--search-steps", type=int, default=20, help="of a run in the search for the best setting")
    parser.add_argument("--studies", type=int, default=STUDIES)
    parser.add_argument("--folder", type=Path, help="where shards and runs go for the time; default: the system's")
    parser.add_argument("--packages", type=Path, help="where open_clip's webdataset is kept; default: nowhere")
    parser.add_argument("--json", action="store_true", help="print for programs")
    parser.add_argument("--append", action="store_true", help="add the lines to benchmarks/results/")
    return parser


if __name__ == "__main__":
    sys.exit(main())
