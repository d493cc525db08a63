"""Studies/s from shards to batches: our loader, the floor under every loader, and the loaders of others, in one run.

    python -m benchmarks.loader [--sizes 512 1024] [--contenders floor vlp ...] [--rounds 5] [--workers 2] [--append]
    python -m benchmarks.loader --studies 128 --rounds 1 --contenders floor vlp webdataset     # whether it runs

Studies of one grey JPEG of quality 95 (512 px: about 60 KB; 1,024 px: about four times that) and a report become
batches of 64 images of 224 px with the tokens of all sentences.  A turn is one epoch without its first and last four
batches of every worker: how long a loader takes to start is told apart, as its first batch.  Every contender lives in
its own process and they take turns, so a slow moment of the machine hits all alike; ratios are medians over rounds of
the two turns in the same round.  Processor time does not mind what else runs on the machine; how many cores others
kept busy is reported.

Contenders:
  floor          memory-mapped offsets, decoding and resizing in as many processes; no checks, no texts, no batches,
                 nothing handed over: what no loader of these pixels can do without.  JPEGs are decoded at half, a
                 quarter or an eighth of their size, where that is enough
  floor_whole    the same, decoding whole images and averaging areas: what loaders without scaled decoding aim at
  vlp            make_loader on open_shards, without augmentation
  vlp_augmented  the same with augmentation as it is by default
  open_clip      get_wds_dataset with the transform open_clip trains with, unchanged; the same tars
  webdataset     WebDataset 1.x; the same tars
  mds            MosaicML streaming; the same images and sentences, converted
  litdata        litData; the same images and sentences, converted
The last three are given our decoder, resize and tokenizer and must come to the same pixels and tokens as ours, which is
checked in a turn that does not count.  open_clip's, mds and litdata need packages that are installed into --packages,
apart from this environment, with uv or pip; what cannot be had is left out, and why is said.
"""

import argparse
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.line import Line, append
from benchmarks.loader_data import SHARDS, write_shards
from benchmarks.peer_packages import PACKAGES, NotInstalledError, install
from benchmarks.turns import Contender, GoneError
from vlp import log
from vlp.cli.console import print_json, print_table

CONTENDERS = ("floor", "floor_whole", "vlp", "vlp_augmented", "open_clip", "webdataset", "mds", "litdata")
STUDIES = {512: 6000, 1024: 2400}
"""An epoch; a few seconds' worth of two cores."""
_SLOWER = 3
"""open_clip's epoch is shorter by so much, so that its turn is not the longest by far."""
ASKED = {"floor": 0.9, "open_clip": 3.0, "webdataset": 1.0, "mds": 1.0, "litdata": 1.0}
"""What our loader's rate must be of theirs."""
_OURS, _FLOOR = "vlp", "floor"
_SAME_PIXELS = ("floor", "vlp", "webdataset", "mds", "litdata")
_PROGRAM = "benchmarks.loader_peers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """The turns of every contender that took part, and why the others did not."""

    size_px: int
    turns: Mapping[str, Sequence[Mapping[str, float]]]
    missing: Mapping[str, str] = field(default_factory=dict)

    def rates(self, name: str) -> list[float]:
        """Studies/s, turn by turn."""
        return [turn["studies"] / turn["seconds"] for turn in self.turns[name]]

    def ratios(self, name: str, other: str) -> list[float]:
        """Rates of one over another's in the same round."""
        return [own / theirs for own, theirs in zip(self.rates(name), self.rates(other), strict=True)]

    def cpu_ms(self, name: str) -> list[float]:
        """Processor milliseconds a study, turn by turn."""
        return [1000 * turn["cpu_seconds"] / turn["studies"] for turn in self.turns[name]]


class OtherPixelsError(Exception):
    """Contenders that are to make the same batches make different ones."""


def compare(
    shards: Path, names: Sequence[str], *, size_px: int, workers: int, rounds: int, packages: Path, folder: Path
) -> Compared:
    """Lets contenders take turns on the shards; `folder` takes converted copies, `packages` what must be installed.

    Raises:
        OtherPixelsError: if contenders that are to make the same batches do not.
    """
    missing: dict[str, str] = {}
    looks: dict[str, dict[str, float]] = {}
    turns: dict[str, list[dict[str, float]]] = {}
    with ExitStack() as stack:
        ready: dict[str, Contender] = {}
        for name in log.progress(names, description=f"{size_px} px: contenders", unit="ready"):
            try:
                spec = {
                    "contender": name,
                    "workers": workers,
                    "shards": str(shards),
                    "pattern": f"{shards}/train-{{000000..{_last_shard(shards):06d}}}.tar",
                    "folder": str(folder),
                    "studies": _num_studies(shards) // (_SLOWER if name == "open_clip" else 1),
                    "packages": str(install(name, packages)) if name in PACKAGES else "",
                }
                contender = stack.enter_context(Contender(_PROGRAM, spec, threads=1))
                looks[name] = contender.turn("look")
                ready[name] = contender
            except (NotInstalledError, GoneError, RuntimeError) as error:
                missing[name] = str(error)
        refuse_other_pixels(looks)
        order = list(ready)
        for number in log.progress(range(rounds), description=f"{size_px} px: rounds", total=rounds, unit="rounds"):
            start = number % max(1, len(order))
            for name in order[start:] + order[:start]:
                turns.setdefault(name, []).append(ready[name].turn())
    return Compared(size_px=size_px, turns={name: turns[name] for name in order if name in turns}, missing=missing)


def refuse_other_pixels(looks: Mapping[str, Mapping[str, float]]) -> None:
    """Compares what batches held: mean grey level over all images, and tokens a study.

    Raises:
        OtherPixelsError: if contenders that are to make the same batches do not.
    """
    same = {name: looks[name] for name in _SAME_PIXELS if name in looks}
    for what, tolerance in (("grey", 0.05), ("tokens", 1e-9)):
        values = {name: look[what] for name, look in same.items() if what != "tokens" or not name.startswith(_FLOOR)}
        if values and max(values.values()) - min(values.values()) > tolerance:
            raise OtherPixelsError(f"contenders do not make the same batches: {what} {values}")


def make_lines(compared: Compared, *, workers: int) -> list[Line]:
    """The figures as benchmark lines."""
    common: dict[str, Any] = {"benchmark": "loader", "case": f"{compared.size_px} px", "threads": workers}
    lines = []
    against = _FLOOR if _FLOOR in compared.turns else None
    for name, turns in compared.turns.items():
        rates, cpu = compared.rates(name), compared.cpu_ms(name)
        first = [turn["first"] for turn in turns]
        lines += [
            _line(f"{name} studies/s", rates, "studies/s", common, against,
                  statistics.median(compared.ratios(name, against)) if against else None),
            _line(f"{name} processor time", cpu, "ms/study", common, against,
                  statistics.median(cpu) / statistics.median(compared.cpu_ms(against)) if against else None),
        ]  # fmt: skip
        if not name.startswith(_FLOOR):
            lines.append(_line(f"{name} first batch", first, "s", common, None, None))
    if _OURS in compared.turns:
        for name in compared.turns:
            if name not in (_OURS, "vlp_augmented"):
                lines.append(_line(f"vlp / {name}", compared.ratios(_OURS, name), "", common, None, None))
    others = [turn["others"] for turns in compared.turns.values() for turn in turns]
    lines.append(_line("other processes", others, "cores", common, None, None))
    return lines


def _line(
    metric: str, values: Sequence[float], unit: str, common: dict[str, Any], baseline: str | None, ratio: float | None
) -> Line:
    return Line(
        metric=metric,
        value=statistics.median(values),
        low=min(values),
        high=max(values),
        unit=unit,
        baseline=baseline,
        ratio=ratio,
        **common,
    )


def verdicts(compared: Compared) -> list[str]:
    """What is asked of our loader, and whether it is met."""
    said = []
    for name, asked in ASKED.items():
        if name not in compared.turns or _OURS not in compared.turns:
            said.append(f"{compared.size_px} px: >= {asked:g} of {name}: not measured")
            continue
        ratio = statistics.median(compared.ratios(_OURS, name))
        said.append(f"{compared.size_px} px: >= {asked:g} of {name}: {ratio:.2f}, "
                    f"{'met' if ratio >= asked else 'NOT MET'}")  # fmt: skip
    return said


def _last_shard(shards: Path) -> int:
    return len(list(shards.glob("train-*.tar"))) - 1


def _num_studies(shards: Path) -> int:
    from vlp.data.manifest import read_manifest

    return sum(shard.num_samples for shard in read_manifest(shards).shards)


def main() -> None:
    parser = _parser()
    options = parser.parse_args()
    if options.workers > SHARDS:
        parser.error(f"--workers: there are {SHARDS} shards, and open_clip wants one for each worker at least")
    log.configure()
    found, said = [], []
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="vlp-loader-") as name:
        packages = options.packages or Path(name) / "packages"
        packages.mkdir(parents=True, exist_ok=True)
        for size in options.sizes:
            folder = Path(name) / str(size)
            folder.mkdir()
            shards = write_shards(folder / "shards", size_px=size, studies=options.studies or STUDIES[size])
            compared = compare(
                shards,
                options.contenders,
                size_px=size,
                workers=options.workers,
                rounds=options.rounds,
                packages=packages.resolve(),
                folder=folder,
            )
            found += make_lines(compared, workers=options.workers)
            said += [
                *verdicts(compared),
                *(f"{size} px: {peer} left out: {why}" for peer, why in compared.missing.items()),
            ]
    if options.append:
        append(found)
    if options.json:
        print_json({"lines": [asdict(line) for line in found], "verdicts": said})
        return
    rows = [
        (line.case, line.metric, f"{line.value:.4g} {line.unit}".strip(), f"{line.low:.3g} - {line.high:.3g}",
         "" if line.ratio is None else f"{line.ratio:.2f}")
        for line in found
    ]  # fmt: skip
    print_table(
        f"Loaders, {options.workers} workers", ("images", "what", "median", "range over rounds", "/ floor"), rows,
        note="\n".join(said),
    )  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", choices=tuple(STUDIES), default=list(STUDIES),
                        help="side of the stored images in pixels")  # fmt: skip
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--workers", type=int, default=2, help="processes each of them may load with")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--studies", type=int, default=0, help="an epoch; 0: 6,000 small or 2,400 large ones")
    parser.add_argument("--folder", type=Path, help="where shards and copies go for the time; default: the system's")
    parser.add_argument("--packages", type=Path, help="where other libraries are installed and kept; default: nowhere")
    parser.add_argument("--json", action="store_true", help="print for programs")
    parser.add_argument("--append", action="store_true", help="add the lines to benchmarks/results/")
    return parser


if __name__ == "__main__":
    main()
