"""Similarity attention as published against ours: seconds and peak memory of forward and backward, over sizes.

    python -m benchmarks.kernel                                  # what must hold on a CPU, in about three minutes
    python -m benchmarks.kernel --cases card --device cuda       # what must hold on a GPU of 141 GB
    python -m benchmarks.kernel --cases sweep --append           # 16 to 4,096 images
    python -m benchmarks.kernel --cases 64x512x196x768 --variants published chunked reference

Every variant and size runs in its own process; within a round each has one turn, in an order that shifts from round to
round, so that a slow moment hits all alike.  The value is the median over rounds, the range its smallest and largest.
The loss is the published multi-positive one.  Memory is the peak beyond the inputs, gradients included (CPU: resident
size, after a first small call, so that the code torch loads is not counted; CUDA: what torch allocated).

A large matrix product takes its turns as well; its fastest rate is what a variant's rate is compared with.  The work
counted is six products of 2 texts x images x patches x width flops (scores, attended vectors, two gradients of each),
the same for all, however many products a variant makes (counted too, where they are torch's).  What does not fit, or
whose six products alone would take longer than --max-seconds at that rate, is skipped, saying so.
"""

import argparse
import statistics
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import torch

from benchmarks.kernel_cases import Asked, Case, find_cases, input_bytes, needed_bytes, no_room
from benchmarks.line import Line, append
from benchmarks.meter import available_bytes
from benchmarks.turns import Contender, GoneError
from benchmarks.variants import DTYPES, VARIANTS, Inputs, Size, Variant
from vlp import log
from vlp.cli.console import print_json, print_table

_logger = log.get_logger("vlp.benchmarks.kernel")
_PROGRAM = "benchmarks.variants"
_PEAK = "gemm"
_BASELINE: Variant = "published"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What all sizes of a run share."""

    device: str
    dtype: str
    inputs: Inputs
    threads: int
    rounds: int
    max_seconds: float

    @property
    def bytes_per_number(self) -> int:
        """Of the inputs."""
        return DTYPES[self.dtype].itemsize

    def spec(self, variant: str, size: Size | None) -> dict[str, Any]:
        """What a contender is told."""
        return {"variant": variant, "size": str(size), "dtype": self.dtype, "device": self.device,
                "inputs": self.inputs, "threads": self.threads}  # fmt: skip

    def label(self, size: Size) -> str:
        """How a case is called in result lines."""
        unit = " unit" if self.inputs == "unit" else ""
        return f"{size} {self.dtype} {self.device}{unit}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One variant at one size."""

    seconds: list[float]
    peak_bytes: int | None
    libraries_bytes: int | None
    flops: int
    """Of all matrix products made; 0 where they are not torch's own (a fused kernel's)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A case as measured: outcomes by variant, and why others are missing."""

    case: Case
    outcomes: dict[Variant, Outcome]
    missing: dict[Variant, str]
    flops_per_s: list[float]
    """Of the large matrix product, by round."""


def main() -> None:
    parser = _parser()
    options = parser.parse_args()
    try:
        cases = find_cases(options.cases)
    except ValueError as error:
        parser.error(str(error))
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no CUDA device here")
    log.configure()
    cuda = options.device == "cuda" or (options.device == "auto" and torch.cuda.is_available())
    conditions = Conditions(
        device="cuda" if cuda else "cpu",
        dtype=options.dtype if options.dtype != "auto" else ("bf16" if cuda else "fp32"),
        inputs=options.inputs,
        threads=options.threads,
        rounds=options.rounds,
        max_seconds=options.max_seconds,
    )
    variants = options.variants or [_BASELINE, "chunked", *(["fused"] if cuda else [])]
    compared = [
        compare(case, variants, conditions)
        for case in log.progress(cases, description="similarity attention", unit="sizes")
    ]
    lines = [line for one in compared for line in make_lines(one, conditions)]
    if options.append:
        append(lines)
    if options.json:
        missing = {one.case.name: one.missing for one in compared if one.missing}
        print_json({"lines": [asdict(line) for line in lines], "skipped": missing})
        return
    _print(compared, conditions)


def compare(case: Case, variants: list[Variant], conditions: Conditions) -> Compared:
    """Measures the variants at one size, taking turns."""
    with ExitStack() as stack:
        peak = stack.enter_context(Contender(_PROGRAM, conditions.spec(_PEAK, None), threads=conditions.threads))
        flops_per_s = [peak.turn()["flops_per_s"]]
        contenders: dict[Variant, Contender] = {}
        missing: dict[Variant, str] = {}
        for variant in variants:
            try:
                _refuse(variant, case.size, conditions, flops_per_s[0], rivals=len(variants) - 1)
                spec = conditions.spec(variant, case.size)
                contenders[variant] = stack.enter_context(Contender(_PROGRAM, spec, threads=conditions.threads))
                contenders[variant].turn()  # compiles, loads, and fills caches; not counted
            except GoneError as gone:
                _leave_out(variant, str(gone), contenders, missing)
        turns: dict[Variant, list[dict[str, Any]]] = {variant: [] for variant in contenders}
        for entrant in _order(list(contenders), conditions.rounds):
            if entrant is None:
                flops_per_s.append(peak.turn()["flops_per_s"])
            elif entrant in contenders:
                try:
                    turns[entrant].append(contenders[entrant].turn())
                except GoneError as gone:
                    _leave_out(entrant, str(gone), contenders, missing)
        outcomes = {variant: _outcome(contender, turns[variant]) for variant, contender in contenders.items()}
    for variant, reason in missing.items():
        _logger.warning("%s, %s: skipped, %s", conditions.label(case.size), variant, reason)
    return Compared(case=case, outcomes=outcomes, missing=missing, flops_per_s=flops_per_s)


def _leave_out(
    variant: Variant, reason: str, contenders: dict[Variant, Contender], missing: dict[Variant, str]
) -> None:
    contenders.pop(variant, None)
    missing[variant] = reason


def _outcome(contender: Contender, turns: list[dict[str, Any]]) -> Outcome:
    peaks = [turn["peak_bytes"] for turn in turns]
    return Outcome(
        seconds=[turn["seconds"] for turn in turns],
        peak_bytes=None if None in peaks else max(peaks),
        libraries_bytes=contender.about["libraries_bytes"],
        flops=contender.turn("count")["flops"],
    )


def make_lines(compared: Compared, conditions: Conditions) -> list[Line]:
    """Result lines of one case."""
    size, published = compared.case.size, compared.outcomes.get(_BASELINE)
    peak = max(compared.flops_per_s)
    measured: list[tuple[str, float, float | None, float | None, str, float | None]] = [
        ("GEMM rate", peak / 1e9, min(compared.flops_per_s) / 1e9, peak / 1e9, "GFLOP/s", None),
    ]
    for variant, outcome in compared.outcomes.items():
        seconds = statistics.median(outcome.seconds)
        against = statistics.median(published.seconds) if published else None
        spread = min(outcome.seconds), max(outcome.seconds)
        measured.append((f"{variant} time", seconds, *spread, "s", against))
        share = size.useful_flops / peak
        measured.append(
            (f"{variant} share of GEMM rate", share / seconds, share / spread[1], share / spread[0], "", None)
        )
        if outcome.flops:
            measured.append((f"{variant} products", outcome.flops / size.product_flops, None, None, "", None))
        if outcome.peak_bytes is not None:
            against = published.peak_bytes / 1e6 if published and published.peak_bytes else None
            measured.append((f"{variant} peak beyond inputs", outcome.peak_bytes / 1e6, None, None, "MB", against))
    return [
        Line(
            benchmark="kernel",
            case=conditions.label(size),
            metric=metric,
            value=value,
            low=low,
            high=high,
            unit=unit,
            baseline=_BASELINE if against else None,
            ratio=value / against if against else None,
            threads=conditions.threads,
        )
        for metric, value, low, high, unit, against in measured
    ]


def verdicts(case: Case, outcomes: dict[Variant, Outcome]) -> list[str]:
    """What was asked of the case, each with whether it was met; empty where nothing was asked."""
    asked, ours, published = case.asked, outcomes.get(case.asked_of), outcomes.get(_BASELINE)
    if asked == Asked():
        return []
    if ours is None:
        return [f"{case.asked_of} was not measured"]
    found: list[tuple[str, float | None, float | None]] = [("MB", asked.peak_mb, _megabytes(ours))]
    if published is not None:
        time = statistics.median(ours.seconds) / statistics.median(published.seconds)
        theirs, mine = _megabytes(published), _megabytes(ours)
        found += [
            ("of published's time", asked.seconds_ratio, time),
            ("of published's memory", asked.peak_ratio, mine / theirs if mine is not None and theirs else None),
        ]
    elif asked.seconds_ratio is not None or asked.peak_ratio is not None:
        return ["published was not measured"]
    return [
        f"<= {limit:.3g} {what}: {'not measured' if value is None else 'met' if value <= limit else 'NOT MET'}"
        for what, limit, value in found
        if limit is not None
    ]


def _refuse(variant: Variant, size: Size, conditions: Conditions, flops_per_s: float, *, rivals: int) -> None:
    """Raises GoneError, saying why, where the size is too much for this machine."""
    least = size.useful_flops / flops_per_s
    if least > conditions.max_seconds:
        limit = f"--max-seconds {conditions.max_seconds:g}"
        raise GoneError(f"its six products alone take {least:.0f} s here, more than {limit}")
    own = needed_bytes(
        variant,
        size,
        bytes_per_number=conditions.bytes_per_number,
        inputs=conditions.inputs,
        device=conditions.device,
    )
    # The others' inputs stay where they are while this one works.
    everyones = (1 + rivals) * input_bytes(size, bytes_per_number=conditions.bytes_per_number)
    reason = no_room(own + everyones, available_bytes(torch.device(conditions.device)))
    if reason is not None:
        raise GoneError(reason)


def _order(variants: list[Variant], rounds: int) -> Iterator[Variant | None]:
    """Whose turn it is: all once a round, the first one later by one each round; None is the matrix product."""
    everyone: list[Variant | None] = [None, *variants]
    for number in range(rounds):
        first = number % len(everyone)
        yield from everyone[first:] + everyone[:first]


def _megabytes(outcome: Outcome) -> float | None:
    return None if outcome.peak_bytes is None else outcome.peak_bytes / 1e6


def _print(compared: list[Compared], conditions: Conditions) -> None:
    rows = [row for one in compared for row in _rows(one)]
    columns = ("case", "variant", "s", "range", "/ published", "MB", "/ published", "of GEMM rate", "products", "asked")
    rates = [rate for one in compared for rate in one.flops_per_s]
    about = f"{conditions.dtype}, {conditions.device}, {conditions.threads} threads, from {conditions.inputs}"
    libraries = [one.libraries_bytes or 0 for many in compared for one in many.outcomes.values()]
    note = f"GEMM rate: {min(rates) / 1e9:,.0f} to {max(rates) / 1e9:,.0f} GFLOP/s over the run."
    if any(libraries):
        note += f" Code that torch loads with the first call of any size took up to {max(libraries) / 1e6:.0f} MB more."
    print_table(f"Similarity attention, forward + backward ({about})", columns, rows, note=note)


def _rows(one: Compared) -> Iterator[tuple[str, ...]]:
    case, published = one.case, one.outcomes.get(_BASELINE)
    for variant, outcome in one.outcomes.items():
        seconds = statistics.median(outcome.seconds)
        mb, theirs = _megabytes(outcome), None if published is None else _megabytes(published)
        yield (
            f"{case.name} {case.size}" if case.name != str(case.size) else case.name,
            variant,
            f"{seconds:.3g}",
            f"{min(outcome.seconds):.3g} - {max(outcome.seconds):.3g}",
            f"{seconds / statistics.median(published.seconds):.2f}" if published else "",
            f"{mb:,.0f}" if mb is not None else "",
            f"{mb / theirs:.2f}" if mb is not None and theirs else "",
            f"{case.size.useful_flops / seconds / max(one.flops_per_s):.2f}",
            f"{outcome.flops / case.size.product_flops:.1f}" if outcome.flops else "",
            "; ".join(verdicts(case, one.outcomes)) if variant == case.asked_of else "",
        )
    for variant, reason in one.missing.items():
        yield (f"{case.name} {case.size}", variant, "skipped", reason, *[""] * 6)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--cases", nargs="+", default=["acceptance"], help="groups, names, or sizes; default: acceptance"
    )
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, help="default: published, chunked, fused on CUDA")
    parser.add_argument("--inputs", choices=("tokens", "unit"), default="tokens",
                        help="begin at the towers' vectors, norming included, or at unit vectors")  # fmt: skip
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--dtype", choices=("auto", *DTYPES), default="auto", help="fp32 on a CPU, bf16 on CUDA")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--max-seconds", type=float, default=60.0, help="skip what would take longer at the GEMM rate")
    parser.add_argument("--json", action="store_true", help="print for programs")
    parser.add_argument("--append", action="store_true", help="add the lines to benchmarks/results/")
    return parser


if __name__ == "__main__":
    main()
