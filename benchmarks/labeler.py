"""How well reports are read: F1 on the gold labels of Open-I, the commonest errors, a hand-checked list.

    python -m benchmarks.labeler [--data ../shared/data] [--errors 50] [--json] [--append]

Reads `text/iu_xray_reports.jsonl.gz` under the data folder: reports of the Indiana collection with the 14 gold labels
of Peng et al. (2018).  Only findings and impression are handed to the reader; the labels come from the collection's
human indexing, which is in the same file and is not read.  The reports are split in two by a hash of their number:
wordings were chosen on `dev` alone, the texts of `held-out` were not read.  Present counts as present, all else as not.
Intervals: percentile bootstrap over reports.  Hernia has no positive and is left out.

The errors are those of `dev`: who looks at the others tunes on them.  The hand-checked sentences (`--checked`) were
written for this project; a sentence is right where its span, section, findings, certainties, places, degrees and
training texts all are.  Speed is reports per second of processor time, on one core.
"""

import argparse
import gzip
import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from jaxtyping import Bool, Int

from vlp.cli.console import print_json, print_table
from vlp.records import Certainty, Sentence
from vlp.reports import label, read, resolve
from vlp.reports.findings import LABEL_SETS, VOCABULARY

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
        started = time.process_time()
        found = predict(chosen)
        speed = len(chosen) / (time.process_time() - started)
        gold = np.array([report.gold for report in chosen])
        results += [
            {"half": half, "reports": len(chosen), "reports_per_s": speed, **row} for row in measure(gold, found)
        ]
    return results


@dataclass(frozen=True, slots=True, kw_only=True)
class Error:
    """One way to be wrong about a label: what the reader made of which words."""

    name: str
    kind: Literal["missed", "false alarm"]
    read_as: str
    """The certainty the reader gave its words; "not read" where it saw none."""
    words: str
    """The sentence; where none was read as being about it, one that holds the stem of its name, if any."""


def find_errors(reports: Sequence[GoldReport]) -> list[tuple[int, Error]]:
    """(how often, error), commonest first."""
    counts: Counter[Error] = Counter()
    for report in reports:
        sentences = read(report.text)
        labels = resolve(sentences, names="nih14")
        for name, wanted in zip(NAMES, report.gold, strict=True):
            found = labels.get(name)
            if (found is Certainty.PRESENT) == wanted:
                continue
            about = [one for one in sentences if one.finding and VOCABULARY[one.finding].labels.get("nih14") == name]
            said = [one for one in about if one.certainty is found] or _likely(report.text, sentences, name)
            words = " ".join(report.text[said[0].start : said[0].end].split()) if said else ""
            counts[
                Error(
                    name=name,
                    kind="missed" if wanted else "false alarm",
                    read_as=found.value if found else "not read",
                    words=words,
                )
            ] += 1
    return [(count, error) for error, count in counts.most_common()]


def _likely(text: str, sentences: Sequence[Sentence], name: str) -> list[Sentence]:
    """The sentences that hold the stem of a label's name ("nodul" for "Nodule")."""
    stem = name.rpartition("_")[2][:5].lower()
    return [one for one in sentences if stem in text[one.start : one.end].lower()]


CHECKED = Path(__file__).parent.parent / "tests" / "reports" / "hand_checked.yaml"
FIELDS = ("span", "section", "finding", "certainty", "location", "severity", "text")
Row = tuple[tuple[int, int], str, str | None, str, str | None, str | None, str]
"""The `FIELDS` of one statement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """One written sentence of a hand-checked text: what should be read there, and what is."""

    written: str
    expected: tuple[Row, ...]
    found: tuple[Row, ...]


def load_checked(path: Path = CHECKED) -> Iterator[Checked]:
    """Every sentence of the hand-checked list; what is read outside of them comes as one without words."""
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    texts = [(report["text"], report["sentences"]) for report in data["reports"]]
    texts += [(one["written"], [{**one, "section": "report"}]) for one in data["sentences"]]
    for text, sentences in texts:
        rest = [
            ((one.start, one.end), one.section, one.finding, one.certainty.value, one.location, one.severity, one.text)
            for one in read(text)
        ]
        position = 0
        for one in sentences:
            match = re.compile(r"\s+".join(map(re.escape, one["written"].split()))).search(text, position)
            assert match is not None, f"{path}: not in its text: {one['written']}"
            position = match.end()
            here = [row for row in rest if row[0][0] < match.end() and match.start() < row[0][1]]
            rest = [row for row in rest if row not in here]
            expected = tuple((match.span(), one["section"], *row) for row in one["says"])
            yield Checked(written=one["written"], expected=expected, found=tuple(here))
        if rest:
            yield Checked(written="", expected=(), found=tuple(rest))


def agreement(checked: Sequence[Checked]) -> list[dict[str, Any]]:
    """Per field the share of sentences in which all statements have it right; then of whole sentences."""
    rows: list[dict[str, Any]] = []
    for index, field in enumerate(FIELDS):
        right = sum([row[index] for row in one.expected] == [row[index] for row in one.found] for one in checked)
        rows.append({"field": field, "sentences": len(checked), "right": right, "share": right / len(checked)})
    right = sum(one.expected == one.found for one in checked)
    return [*rows, {"field": "all", "sentences": len(checked), "right": right, "share": right / len(checked)}]


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
    parser.add_argument("--errors", type=int, default=50, help="print so many of the commonest errors on dev")
    parser.add_argument("--checked", type=Path, default=CHECKED, help="the list of hand-checked sentences")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    parser.add_argument("--append", action="store_true", help="add the figures to results/labeler.jsonl")
    arguments = parser.parse_args()
    if not (arguments.data / "text" / "iu_xray_reports.jsonl.gz").is_file():
        parser.error(f"no text/iu_xray_reports.jsonl.gz in {arguments.data}; give the folder with --data")
    rows = evaluate(arguments.data)
    errors = find_errors([report for report in load_reports(arguments.data) if report.half == "dev"])
    checked = list(load_checked(arguments.checked))
    if arguments.append:
        _append(rows)
    if arguments.json:
        shown = [{"count": count, **asdict(error)} for count, error in errors[: arguments.errors]]
        print_json({"gold": rows, "errors": shown, "hand_checked": agreement(checked)})
        return
    _print(rows, errors[: arguments.errors], checked)


def _print(rows: Sequence[dict[str, Any]], errors: Sequence[tuple[int, Error]], checked: Sequence[Checked]) -> None:
    columns = ("name", "positives", "precision", "recall", "f1", "low", "high")
    for half in ("dev", "held-out"):
        chosen = [row for row in rows if row["half"] == half]
        print_table(
            f"Open-I gold labels, {half}: {chosen[0]['reports']} reports at {chosen[0]['reports_per_s']:.0f} a second",
            columns,
            [tuple(row[column] for column in columns) for row in chosen],
            note="F1 with a 95 % bootstrap interval over reports. Research use, not a medical device.",
        )
    if errors:
        print_table(
            f"The {len(errors)} commonest errors on dev",
            ("count", "name", "kind", "read as", "words"),
            [(count, error.name, error.kind, error.read_as, error.words[:90]) for count, error in errors],
        )
    agreed = agreement(checked)
    print_table(
        f"Hand-checked sentences: {agreed[-1]['right']} of {agreed[-1]['sentences']} right in everything",
        ("field", "sentences", "right", "share"),
        [tuple(row.values()) for row in agreed],
    )
    wrong = [(one.written[:60], str(one.expected), str(one.found)) for one in checked if one.expected != one.found]
    if wrong:
        print_table("Read otherwise than expected", ("sentence", "expected", "read"), wrong)


if __name__ == "__main__":
    main()
