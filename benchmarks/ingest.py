"""Studies/s of a whole ingest, as a share of what decoding, resizing and encoding the same pixels allows.

    python -m benchmarks.ingest [--data ../shared/data] [--cases published ...] [--workers 2] [--rounds 5] [--append]

The limit is a bare loop in as many processes: `read_image`, resize, JPEG; nothing is read but images and nothing is
written.  Limit and ingest take turns in one run, a process of its own each time, so a slow moment of the machine hits
both alike; a round's ratio compares the ingest with the limits just before and just after it.  Times begin when the
program is loaded and hold everything else: starting processes, reading tables and reports, JSON, checksums, fsync.
Processor time is compared, too: it does not mind what else the machine does.

Cases: `published`, radiographs as PNGs of 1,024 px, the size ChestX-ray14 is published in, resized to 512; `small`,
as JPEGs of 448 px that are not resized, where an image takes a millisecond and everything else weighs most.  With
`_reports` every study has one to read; the limit stays the same.  The pictures are the NIH's under --data (enlarged
for `published`), else drawn ones.  Every image is used many times under different ids.  Memory is the resident size
of all processes of the ingest, sampled while it runs.
"""

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.line import Line, append
from benchmarks.processes import family
from vlp.cli.console import print_json, print_table
from vlp.config import load
from vlp.ingest.images import read_image
from vlp.ingest.pipeline import IngestConfig, ingest

CASES = ("published", "published_reports", "small", "small_reports")
MIB = 1 << 20
_IMAGES = 200
"""Different ones; the others are these again."""
_SMALL_PX, _PUBLISHED_PX, _MODEL_PX = 448, 1024, 512
_STUDIES = {"published": 1500, "small": 12_000}
"""Per turn: about ten seconds' worth of two cores."""
_SAMPLE_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One turn of one contender."""

    studies: int
    seconds: float
    cpu_seconds: float
    """Of all its processes; other people's work on the machine does not count."""
    memory: tuple[int, ...] = ()
    """Bytes of all its processes, over time."""

    @property
    def rate(self) -> float:
        """Studies a second."""
        return self.studies / self.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A case: rates per round, and the ingest's memory."""

    case: str
    limits: tuple[Turn, ...]
    """One more than ingests: before, between and after them."""
    ingests: tuple[Turn, ...]

    @property
    def ratios(self) -> list[float]:
        """Of every ingest to the mean of the limits around it."""
        around = zip(self.limits, self.limits[1:], strict=False)
        return [
            turn.rate / statistics.mean((before.rate, after.rate))
            for turn, (before, after) in zip(self.ingests, around, strict=True)
        ]

    @property
    def cpu_ratio(self) -> float:
        """Processor time a study takes at the limit, over what it takes in the ingest."""
        limit, whole = (
            statistics.median(turn.cpu_seconds / turn.studies for turn in turns)
            for turns in (self.limits, self.ingests)
        )
        return limit / whole

    def peak(self, start: float, end: float) -> float:
        """Median over rounds of the peak in one stretch of the time, 0 to 1, in MiB."""
        peaks = []
        for turn in self.ingests:
            first = int(start * len(turn.memory))
            peaks.append(max(turn.memory[first : max(first + 1, int(end * len(turn.memory)))]))
        return statistics.median(peaks) / MIB


def measure(case: str, recipe: Path, *, rounds: int) -> Measured:
    """Lets limit and ingest take turns."""
    limits, ingests = [_turn("limit", recipe)], []
    for _ in range(rounds):
        ingests.append(_turn("ingest", recipe))
        limits.append(_turn("limit", recipe))
    return Measured(case=case, limits=tuple(limits), ingests=tuple(ingests))


def lines(measured: Measured, *, workers: int) -> list[Line]:
    """The figures as benchmark lines."""
    ratios, rates = measured.ratios, [turn.rate for turn in measured.ingests]
    limit = statistics.median(turn.rate for turn in measured.limits)
    common: dict[str, Any] = {"benchmark": "ingest", "case": measured.case, "threads": workers}
    return [
        Line(metric="whole pipeline", value=statistics.median(rates), low=min(rates), high=max(rates), unit="studies/s",
             baseline="limit", ratio=statistics.median(ratios), **common),
        Line(metric="share of the limit", value=statistics.median(ratios), low=min(ratios), high=max(ratios), **common),
        Line(metric="processor time, limit / pipeline", value=measured.cpu_ratio, **common),
        Line(metric="limit", value=limit, unit="studies/s", **common),
        Line(metric="memory, 2nd quarter", value=measured.peak(0.25, 0.5), unit="MiB", **common),
        Line(metric="memory, 4th quarter", value=measured.peak(0.75, 1.0), unit="MiB", **common),
    ]  # fmt: skip


def write_archive(folder: Path, case: str, *, data: Path, studies: int) -> Path:
    """An archive of that many studies, whose rows share their images, and the recipe that makes shards of it."""
    size, _, reports = case.partition("_")
    archive = folder / case
    archive.mkdir()
    ending = "png" if size == "published" else "jpg"
    count = 0
    for pixels in _pictures(data):
        if size == "published":
            pixels = cv2.resize(pixels, (_PUBLISHED_PX, _PUBLISHED_PX), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(archive / f"{count}.{ending}"), pixels)
        count += 1
    texts = _texts() if reports else [None]
    with (archive / "manifest.jsonl").open("w", encoding="utf-8") as table:
        for number in range(studies):
            row = {
                "file": f"{number % count}.{ending}", "id": f"image-{number}", "study_id": f"study-{number}",
                "patient_id": f"patient-{number // 2}", "view": "PA", "text": texts[number % len(texts)],
                "labels": {"Edema": number % 2, "Mass": 0, "Nodule": 1},
            }  # fmt: skip
            table.write(json.dumps(row) + "\n")
    recipe = folder / f"{case}.yaml"
    recipe.write_text(
        f"source: {{kind: folder, path: {archive}}}\noutput: {folder / 'shards'}\nmax_side_px: {_MODEL_PX}\n"
    )
    return recipe


def _pictures(data: Path) -> Iterator[np.ndarray]:
    files = sorted((data / "images" / "nih").glob("*.jpg"))[:_IMAGES]
    if files:
        yield from (read_image(file)[1] for file in files)
        return
    from vlp.ingest.phantom.source import PhantomSource

    source = PhantomSource(patients=max(1, _IMAGES // 8), size_px=_SMALL_PX)
    yield from (pixels for unit in source.units() for loaded in source.load(unit) for pixels in loaded.pixels)


def _texts() -> list[str]:
    from vlp.ingest.phantom.history import HistoryConfig, person
    from vlp.ingest.phantom.prose import write_report

    return [write_report(truth) for number in range(100) for truth in person(number, seed=1, settings=HistoryConfig())]


def _turn(kind: str, recipe: Path) -> Turn:
    """One contender in a process of its own, its memory watched."""
    command = [sys.executable, "-m", "benchmarks.ingest", "--turn", kind, "--recipe", str(recipe)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        samples: list[int] = []
        watcher = threading.Thread(target=_watch, args=(process.pid, samples, lambda: process.poll() is None))
        watcher.start()
        output, _ = process.communicate()
        watcher.join()
    if process.returncode:
        raise RuntimeError(f"the {kind} ended with status {process.returncode}")
    return Turn(**json.loads(output), memory=tuple(samples))


def _watch(pid: int, samples: list[int], going: Callable[[], bool]) -> None:
    while going():
        samples.append(sum(_resident(each) for each in family(pid)))
        time.sleep(_SAMPLE_SECONDS)


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def run_turn(kind: str, recipe: Path) -> None:
    """What a contender's process does."""
    config = load(IngestConfig, recipe)
    started = time.perf_counter()
    studies = _limit(config) if kind == "limit" else ingest(config, again=True).num_studies
    seconds = time.perf_counter() - started
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(each.ru_utime + each.ru_stime for each in used)
    print(json.dumps({"studies": studies, "seconds": seconds, "cpu_seconds": cpu}))


def _limit(config: IngestConfig) -> int:
    assert config.source.kind == "folder"
    folder = config.source.path
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    files = [str(folder / row["file"]) for row in rows]
    context = multiprocessing.get_context("spawn")
    with context.Pool(config.num_workers(), initializer=cv2.setNumThreads, initargs=(0,)) as pool:
        return sum(size > 0 for size in pool.imap(_bare, files, chunksize=16))


def _bare(file: str) -> int:
    _, pixels = read_image(file)
    scale = _MODEL_PX / max(pixels.shape)
    if scale < 1.0:
        size = round(pixels.shape[1] * scale), round(pixels.shape[0] * scale)
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return len(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 95])[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="folder with images/nih/*.jpg, if there is one"
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--studies", type=int, default=0, help="per turn; 0: 1,500 large or 12,000 small ones")
    parser.add_argument("--folder", type=Path, help="where archive and shards go; default: the system's")
    parser.add_argument("--json", action="store_true", help="print for programs")
    parser.add_argument("--append", action="store_true", help="add the lines to benchmarks/results/")
    parser.add_argument("--turn", choices=("limit", "ingest"), help=argparse.SUPPRESS)
    parser.add_argument("--recipe", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.turn:
        run_turn(options.turn, options.recipe)
        return
    found = [line for case in options.cases for line in _measure_case(case, options)]
    if options.append:
        append(found)
    if options.json:
        print_json([asdict(line) for line in found])
        return
    _show(found)


def _measure_case(case: str, options: argparse.Namespace) -> list[Line]:
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="vlp-ingest-") as name:
        studies = options.studies or _STUDIES[case.partition("_")[0]]
        recipe = write_archive(Path(name), case, data=options.data.resolve(), studies=studies)
        with recipe.open("a") as file:
            file.write(f"workers: {options.workers}\n")
        return lines(measure(case, recipe, rounds=options.rounds), workers=options.workers)


def _show(found: Sequence[Line]) -> None:
    rows = [
        (line.case, line.metric, f"{line.value:.4g} {line.unit}".strip(),
         "" if line.low is None else f"{line.low:.3g} - {line.high:.3g}",
         "" if line.ratio is None else f"{line.ratio:.3f}")
        for line in found
    ]  # fmt: skip
    note = "The limit reads no table and writes nothing; memory is of all processes together."
    print_table("Ingest", ("case", "what", "median", "range over rounds", "/ limit"), rows, note=note)


if __name__ == "__main__":
    main()
