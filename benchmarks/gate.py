"""How often a gate refuses what it should, and good films, by kind of picture.

    python -m benchmarks.gate RUN [--shards FOLDER] [--fit val] [--split test] [--gate FILE] [--data ../shared/data]
                              [--pictures FOLDER] [--per-kind 80] [--films 400] [--json] [--append]

A gate is fitted on the split `--fit` (or read with `--gate`) and judges the films of `--split`: as they are, otherwise
exposed, with white lungs, and spoiled.  Pictures that are no chest are of kinds it was fitted on, drawn anew, and of
kinds it was never fitted on (`gate_pictures.py`): drawings, and real ones: photographs of scikit-learn and matplotlib,
CT, MR, ultrasound and scintigraphy of pydicom's test files, a leg of `--data`, and whatever lies in `--pictures` (PNG
and JPEG).  There are few real ones, so random parts of them are shown: their intervals are narrower than those of a
like number of different pictures would be.  Intervals are Wilson's, 95 %, over pictures.  Kinds that are not at hand
are named.
"""

import argparse
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.gate_pictures import HELD_OUT, Generator, Pixels, parts, real_pictures
from benchmarks.line import Line, append
from vlp import log
from vlp.calibrate.gate import films_of, fit_gate
from vlp.calibrate.spoiled import DRAWINGS, SPOILINGS, drawn, exposed, whitened
from vlp.cli.console import print_json, print_table
from vlp.data import ShardReader, open_shards
from vlp.inference import gate as gates
from vlp.inference.engine import Engine, load
from vlp.metrics.proportion import wilson
from vlp.records import FRONTAL, Split


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What became of the pictures of one kind."""

    group: str
    """"good", "spoiled", "no chest, kinds it was fitted on", "no chest, other kinds"."""
    kind: str
    refused: int
    pictures: int
    reasons: Mapping[str, int]

    def values(self) -> tuple[str, str, float, float, float, int, str]:
        """The row as a table shows it."""
        low, high = wilson(self.refused, self.pictures)
        named = ", ".join(f"{reason} {count}" for reason, count in self.reasons.items())
        return self.group, self.kind, self.refused / self.pictures, low, high, self.pictures, named

    def line(self, case: str) -> Line:
        """The row as a result that is kept."""
        low, high = wilson(self.refused, self.pictures)
        metric = f"refused: {self.group}: {self.kind} ({self.pictures})"
        return Line(benchmark="gate", case=case, metric=metric, value=self.refused / self.pictures, low=low, high=high)


GOOD, SPOILED, SEEN, UNSEEN = "good", "spoiled", "no chest, kinds it was fitted on", "no chest, other kinds"


def judged(engine: Engine, gate: gates.Gate, group: str, kind: str, pictures: Sequence[Pixels]) -> Row:
    """What the gate says of some pictures of one kind."""
    verdicts = gate.judge(engine.looked(pictures))
    reasons = Counter(verdict.reason for verdict in verdicts if verdict.reason is not None)
    return Row(
        group=group,
        kind=kind,
        refused=sum(reasons.values()),
        pictures=len(pictures),
        reasons=dict(reasons.most_common()),
    )


def kinds_of(
    reader: ShardReader, *, split: Split, real: Mapping[str, Sequence[Pixels]], per_kind: int, most_films: int
) -> list[tuple[str, str, Callable[[], list[Pixels]]]]:
    """(group, kind, what makes its pictures) of everything that is shown to a gate."""
    chosen = films_of(reader, split=split, views=FRONTAL)
    chosen = [chosen[place] for place in np.random.default_rng(0).permutation(len(chosen))[:most_films]]
    films = [reader.image(film.key, film.index) for film in chosen]
    laterals = films_of(reader, split=split, views=frozenset({"lateral"}))[:most_films]

    def changed(kind: str, change: Callable[[Pixels, Generator], Pixels]) -> Callable[[], list[Pixels]]:
        rng = seeded(kind)
        return lambda: [change(film, rng) for film in films]

    def made(kind: str, draw: Callable[[Generator], Pixels]) -> Callable[[], list[Pixels]]:
        rng = seeded(kind)
        return lambda: [draw(rng) for _ in range(per_kind)]

    def shown(kind: str, pictures: Sequence[Pixels]) -> Callable[[], list[Pixels]]:
        return lambda: parts(pictures, seeded(kind), per_kind)

    return [
        (GOOD, "as they are", lambda: films),
        (GOOD, "otherwise exposed", changed("exposed", exposed)),
        (GOOD, "lungs made white", changed("white", whitened)),
        *((SPOILED, name, changed(name, spoiling.change)) for name, spoiling in SPOILINGS.items()),
        (SPOILED, "lateral", lambda: [reader.image(film.key, film.index) for film in laterals]),
        *((SEEN, name, made(name, partial(drawn, name))) for name in DRAWINGS),
        *((UNSEEN, name, made(name, draw)) for name, draw in HELD_OUT.items()),
        *((UNSEEN, name, shown(name, pictures)) for name, pictures in real.items()),
    ]


def seeded(kind: str) -> Generator:
    """The same numbers for a kind in every run."""
    return np.random.default_rng(zlib.crc32(kind.encode()))


def in_all(rows: Sequence[Row]) -> list[Row]:
    """Per group of pictures that are no chest, and of quarter turns, all kinds taken together."""
    found = []
    for group, kind, chosen in (
        (SPOILED, "turned, all", [row for row in rows if row.kind.startswith("turned")]),
        (SEEN, "all", [row for row in rows if row.group == SEEN]),
        (UNSEEN, "all", [row for row in rows if row.group == UNSEEN]),
    ):
        reasons: Counter[str] = Counter()
        for row in chosen:
            reasons.update(row.reasons)
        found.append(
            Row(
                group=group,
                kind=kind,
                refused=sum(row.refused for row in chosen),
                pictures=sum(row.pictures for row in chosen),
                reasons=dict(reasons.most_common()),
            )
        )
    return found


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a run, or a checkpoint's")
    parser.add_argument("--shards", type=Path, help="default: RUN/shards")
    parser.add_argument("--fit", default="val", choices=("train", "val", "test"), help="split the gate is fitted on")
    parser.add_argument("--split", default="test", choices=("train", "val", "test"), help="split that is judged")
    parser.add_argument("--gate", type=Path, help="a gate.json to judge with instead of fitting one")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--pictures", type=Path, help="a folder of further pictures that are no chest")
    parser.add_argument("--per-kind", type=int, default=80, help="pictures of each kind that is no chest")
    parser.add_argument("--films", type=int, default=400, help="most films that are judged")
    parser.add_argument("--case", help="what the lines are called; default: the name of the run")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--append", action="store_true")
    options = parser.parse_args()
    engine, reader = load(options.run), open_shards(options.shards or options.run / "shards")
    if options.gate is None and options.fit == options.split:
        parser.error("a gate is not judged on the split that it was fitted on")
    gate = fit_gate(engine, reader, split=options.fit) if options.gate is None else gates.load(options.gate)
    gate.refuse_other(engine)
    real = real_pictures(options.data, options.pictures)
    rows, absent = [], []
    kinds = kinds_of(reader, split=options.split, real=real, per_kind=options.per_kind, most_films=options.films)
    for group, kind, make in log.progress(kinds, description="judging", unit="kinds"):
        pictures = make()
        if pictures:
            rows.append(judged(engine, gate, group, kind, pictures))
        else:
            absent.append(kind)
    rows += in_all(rows)
    if options.append:
        append([row.line(options.case or options.run.name) for row in rows])
    if options.json:
        print_json({"rows": [asdict(row) for row in rows], "not_at_hand": absent, "gate": dict(gate.facts)})
        return
    print_table(
        f"Refused, {options.run.name}, films of {options.split}",
        ("group", "kind", "refused", "low", "high", "pictures", "reasons"),
        [row.values() for row in rows],
        note="Research use, not a medical device.",
    )
    if absent:
        print(f"Not at hand: {', '.join(absent)}", file=sys.stderr)


if __name__ == "__main__":
    main()
