"""How well the privacy checks find what they should, and how often they cry wolf.

    python -m benchmarks.privacy [--data ../shared/data] [--json] [--append] [--page]

* `sentences`: invented sentences with marked spans (`tests/ingest/privacy/phi_sentences.txt`).  A span counts as found
  if every letter and digit of it lies in a hit.  Every second line is held out: no rule was written or changed for it.
* `reports`: hits in the de-identified reports of the Indiana collection (`text/iu_xray_reports.jsonl.gz`), in which
  there should be next to nothing to find.  Split in two by a hash of their number, as in `benchmarks.labeler`.
* `images`: real radiographs of `manifest.jsonl` in which a line of text is found (many have one: a time of day); then
  those without, one line of invented text drawn near a border of each: how often it is found.

Images are split in two by a hash of their file; limits were chosen on `dev`.  Intervals are Wilson's, 95 %.
"""

import argparse
import gzip
import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from benchmarks.labeler import half_of
from vlp.cli.console import print_json, print_table
from vlp.ingest.privacy.burned_in import find_text
from vlp.ingest.privacy.phi import KINDS, Hit, Scanner
from vlp.ingest.privacy.rules import RuleScanner
from vlp.metrics.proportion import wilson

SENTENCES = Path(__file__).parents[1] / "tests" / "ingest" / "privacy" / "phi_sentences.txt"
PAGE = Path(__file__).parents[1] / "docs" / "explanation" / "privacy.md"
_BEGIN = "<!-- measured: written by `python -m benchmarks.privacy --page` -->"
_END = "<!-- end of what was measured -->"
Half = Literal["dev", "held-out"]
HALVES: tuple[Half, Half] = ("dev", "held-out")
_MARK = re.compile(r"\{(\w+)\|([^{}]*)\}")
_SECTIONS = ("exam", "indication", "comparison", "findings", "impression")


@dataclass(frozen=True, slots=True, kw_only=True)
class Marked:
    """A text and what in it identifies a person."""

    text: str
    spans: tuple[Hit, ...]
    half: Half


def load_sentences(path: Path = SENTENCES) -> list[Marked]:
    """The marked sentences of `path`."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    return [_parse(line.replace("\\n", "\n"), HALVES[number % 2]) for number, line in enumerate(lines)]


def _parse(line: str, half: Half) -> Marked:
    text, spans, position = "", [], 0
    for mark in _MARK.finditer(line):
        kind = next(kind for kind in KINDS if kind == mark[1])
        text += line[position : mark.start()]
        spans.append(Hit(len(text), len(text) + len(mark[2]), kind))
        text += mark[2]
        position = mark.end()
    return Marked(text=text + line[position:], spans=tuple(spans), half=half)


def covered(text: str, span: Hit, hits: Iterable[Hit]) -> bool:
    """Whether every letter and digit of `span` lies in a hit."""
    inside = {index for hit in hits for index in range(hit.start, hit.end)}
    return all(index in inside for index in range(span.start, span.end) if text[index].isalnum())


def measure_sentences(scanner: Scanner, marked: Sequence[Marked]) -> dict[str, Any]:
    """Spans by kind, those found, and hits that touch no span."""
    spans: Counter[str] = Counter()
    found: Counter[str] = Counter()
    alarms = 0
    for item in marked:
        hits = scanner.scan(item.text)
        for span in item.spans:
            spans[span.kind] += 1
            found[span.kind] += covered(item.text, span, hits)
        alarms += sum(not any(hit.start < span.end and span.start < hit.end for span in item.spans) for hit in hits)
    return {"texts": len(marked), "spans": spans, "found": found, "alarms": alarms}


def load_reports(data: Path, half: Half) -> list[str]:
    """The Indiana reports of one half, with the sections they have."""
    with gzip.open(data / "text" / "iu_xray_reports.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [row for row in map(json.loads, lines) if half_of(row["uid"]) == half]
    return ["\n\n".join(f"{name.upper()}: {row[name]}" for name in _SECTIONS if row[name]) for row in rows]


def measure_reports(scanner: Scanner, texts: Sequence[str]) -> dict[str, Any]:
    """Hits by kind in `texts` and milliseconds a text."""
    started = time.perf_counter()
    hits = Counter(hit.kind for text in texts for hit in scanner.scan(text))
    elapsed_ms = (time.perf_counter() - started) * 1e3
    return {"texts": len(texts), "hits": hits, "ms": elapsed_ms / len(texts)}


LINES = (
    "DOE^JANE 02/03/1961", "SMITHSON, PETER A", "MRN 00482913", "ACC CR7719283", "MERCY GENERAL HOSPITAL",
    "KOWALSKA MARIA 54Y", "10/12/2011 14:32:10", "ID: 4481937 F", "Dr. Harriet Lindqvist", "Okafor, Ben  12-Mar-1948",
)  # fmt: skip
HEIGHTS = (0.016, 0.022, 0.03, 0.045)
"""Heights of capitals, as shares of the longer side."""
Style = Literal["bright", "grey", "boxed", "dark"]
STYLES: tuple[Style, ...] = ("bright", "grey", "boxed", "dark")
_HERSHEY = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX)


def draw_line(
    pixels: UInt8[np.ndarray, "rows columns"],
    text: str,
    *,
    height_px: int,
    style: Style,
    font: int,
    place: tuple[float, float],
) -> UInt8[np.ndarray, "rows columns"]:
    """`pixels` with `text`, capitals `height_px` tall, in one of four fonts.

    `place` is (x, y), each a share in [0, 1] of the room there is.  "bright" is white, or black where the image is
    bright; "grey" stands out by 70 grey levels; "boxed" is white in a black box; "dark" is black.
    """
    glyphs = _glyphs(text, height_px, font)
    rows, columns = pixels.shape
    glyphs = glyphs[: rows - 4, : columns - 4]
    y, x = (
        round(share * (free - size - 4)) + 2
        for share, free, size in zip(place[::-1], pixels.shape, glyphs.shape, strict=True)
    )
    drawn = pixels.astype(np.float32)
    window = drawn[y : y + glyphs.shape[0], x : x + glyphs.shape[1]]
    background = float(window.mean())
    if style == "boxed":
        window[:] = 0
    ink = {
        "bright": 255.0 if background < 150 else 0.0,
        "grey": background + 70 if background < 150 else background - 70,
        "boxed": 255.0,
        "dark": 0.0,
    }[style]
    alpha = glyphs.astype(np.float32) / 255
    window[:] = window * (1 - alpha) + ink * alpha
    return np.clip(np.rint(drawn), 0, 255).astype(np.uint8)


def _glyphs(text: str, height_px: int, font: int) -> UInt8[np.ndarray, "rows columns"]:
    """White on black: Pillow's own font (0), or one of OpenCV's."""
    if font == 0:
        letters = ImageFont.load_default(round(height_px / 0.71))
        left, top, right, bottom = letters.getbbox(text)
        canvas = Image.new("L", (int(right - left) + 4, int(bottom - top) + 4))
        ImageDraw.Draw(canvas).text((2 - left, 2 - top), text, fill=255, font=letters)
        return np.asarray(canvas)
    face = _HERSHEY[font - 1]
    scale = height_px / 21
    (width, height), base = cv2.getTextSize(text, face, scale, 1)
    canvas_ = np.zeros((height + base + 4, width + 4), dtype=np.uint8)
    cv2.putText(canvas_, text, (2, height + 2), face, scale, 255, max(1, round(height_px / 12)), cv2.LINE_AA)
    return canvas_


def measure_images(data: Path, half: Half, *, every: int = 1) -> dict[str, Any]:
    """Images with a line of text by source; lines found that were drawn into the others, by height and style.

    Only every so many images of the half are looked at.
    """
    images: Counter[str] = Counter()
    flagged: dict[str, list[str]] = {}
    drawn: Counter[tuple[float, str]] = Counter()
    found: Counter[tuple[float, str]] = Counter()
    spent_ms = 0.0
    generator = np.random.default_rng(0)
    rows = map(json.loads, (data / "manifest.jsonl").read_text(encoding="utf-8").splitlines())
    chosen = [row for row in rows if (hashlib.sha256(row["file"].encode()).digest()[0] % 2 == 0) == (half == "dev")]
    for row in chosen[::every]:
        pixels = cv2.imread(str(data / row["file"]), cv2.IMREAD_GRAYSCALE)
        images[row["source"]] += 1
        started = time.perf_counter()
        boxes = find_text(pixels)
        spent_ms += (time.perf_counter() - started) * 1e3
        if boxes:
            flagged.setdefault(row["source"], []).append(row["file"])
            continue
        case = (HEIGHTS[int(generator.integers(len(HEIGHTS)))], STYLES[int(generator.integers(len(STYLES)))])
        drawn[case] += 1
        found[case] += bool(find_text(_overlaid(pixels, *case, generator)))
    return {"images": images, "flagged": flagged, "drawn": drawn, "found": found, "ms": spent_ms / images.total()}


def _overlaid(
    pixels: UInt8[np.ndarray, "rows columns"], height: float, style: Style, generator: np.random.Generator
) -> UInt8[np.ndarray, "rows columns"]:
    along, depth = generator.uniform(0, 1), generator.uniform(0, 0.12)
    place = [(along, depth), (along, 1 - depth), (depth, along), (1 - depth, along)][int(generator.integers(4))]
    return draw_line(
        pixels,
        LINES[int(generator.integers(len(LINES)))],
        height_px=max(6, round(height * max(pixels.shape))),
        style=style,
        font=int(generator.integers(1 + len(_HERSHEY))),
        place=place,
    )


def _share(case: str, part: int, whole: int) -> dict[str, Any]:
    low, high = wilson(part, whole)
    return {"case": case, "found": part, "of": whole, "share": part / whole, "low": low, "high": high}


def sentence_rows(half: Half) -> list[dict[str, Any]]:
    """Recall by kind and over all."""
    result = measure_sentences(RuleScanner(), [item for item in load_sentences() if item.half == half])
    spans, found = result["spans"], result["found"]
    rows = [_share(f"{half} {kind}", found[kind], spans[kind]) for kind in KINDS]
    rows.append(_share(f"{half} all kinds", found.total(), spans.total()))
    rows.append({"case": f"{half} false alarms", "found": result["alarms"], "of": result["texts"]})
    return rows


def image_rows(data: Path, half: Half) -> list[dict[str, Any]]:
    """Images with text by source, lines found by height and by style, over all, and the time an image takes."""
    result = measure_images(data, half)
    drawn, found = result["drawn"], result["found"]
    rows = [
        _share(f"{half} {source}: has a line of text", len(result["flagged"].get(source, ())), count)
        for source, count in result["images"].items()
    ]
    for height in HEIGHTS:
        cases = [case for case in drawn if case[0] == height]
        rows.append(
            _share(f"{half} drawn, {height:.1%} tall", sum(found[c] for c in cases), sum(drawn[c] for c in cases))
        )
    for style in STYLES:
        cases = [case for case in drawn if case[1] == style]
        rows.append(_share(f"{half} drawn, {style}", sum(found[c] for c in cases), sum(drawn[c] for c in cases)))
    rows.append(_share(f"{half} drawn, all", found.total(), drawn.total()))
    rows.append({"case": f"{half} time", "ms": result["ms"]})
    return rows


def report_row(data: Path, half: Half) -> dict[str, Any]:
    """Hits per 1,000 reports."""
    result = measure_reports(RuleScanner(), load_reports(data, half))
    hits = result["hits"].total()
    return {"case": f"{half} reports", "found": hits, "of": result["texts"], "share": 1000 * hits / result["texts"],
            "kinds": dict(result["hits"]), "ms": result["ms"]}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="folder with text/ and manifest.jsonl"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    parser.add_argument("--append", action="store_true", help="add the figures to results/privacy.jsonl")
    parser.add_argument("--page", action="store_true", help="write the figures into docs/explanation/privacy.md")
    arguments = parser.parse_args()
    if not (arguments.data / "text" / "iu_xray_reports.jsonl.gz").is_file():
        parser.error(f"no text/iu_xray_reports.jsonl.gz in {arguments.data}; give the folder with --data")
    tables = {
        "sentences": [row for half in HALVES for row in sentence_rows(half)],
        "reports": [report_row(arguments.data, half) for half in HALVES],
        "images": [row for half in HALVES for row in image_rows(arguments.data, half)],
    }
    if arguments.append:
        _append(tables)
    if arguments.page:
        write_page(tables)
    if arguments.json:
        print_json(tables)
        return
    for title, rows in tables.items():
        columns = ("case", "found", "of", "share", "low", "high", "ms")
        print_table(title, columns, [[row.get(column, "") for column in columns] for row in rows],
                    note="share of reports: hits per 1,000. Research use, not a medical device.")  # fmt: skip


def write_page(tables: dict[str, list[dict[str, Any]]], page: Path = PAGE) -> None:
    """Puts the figures between the markers of the page."""
    lines = ["| what | found | of | share | 95 % |", "| --- | ---: | ---: | ---: | --- |"]
    for row in (row for rows in tables.values() for row in rows):
        if "found" in row:
            per_thousand = (
                f"{row['share']:.2f} per 1,000" if "kinds" in row else f"{row['share']:.3f}" if "share" in row else ""
            )
            spread = f"{row['low']:.3f} - {row['high']:.3f}" if "low" in row else ""
            lines.append(f"| {row['case']} | {row['found']} | {row['of']} | {per_thousand} | {spread} |")
    times = {row["case"]: row["ms"] for rows in tables.values() for row in rows if "ms" in row}
    lines += ["", "Milliseconds, one thread: " + ", ".join(f"{case} {ms:.1f}" for case, ms in times.items()) + "."]
    head, _, rest = page.read_text(encoding="utf-8").partition(_BEGIN)
    _, _, tail = rest.partition(_END)
    page.write_text(f"{head}{_BEGIN}\n\n" + "\n".join(lines) + f"\n\n{_END}{tail}", encoding="utf-8")


def _append(tables: dict[str, list[dict[str, Any]]]) -> None:
    from benchmarks.line import Line, append

    lines: list[Line] = []
    for title, rows in tables.items():
        for row in rows:
            where: dict[str, Any] = {"benchmark": "privacy", "case": f"{title}: {row['case']}"}
            if "share" in row:
                unit = "hits per 1,000" if title == "reports" else ""
                lines.append(
                    Line(
                        **where, metric="share", value=row["share"], low=row.get("low"), high=row.get("high"), unit=unit
                    )
                )
            if "ms" in row:
                lines.append(Line(**where, metric="time", value=row["ms"], unit="ms"))
    append(lines)


if __name__ == "__main__":
    main()
