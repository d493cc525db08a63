"""A contact sheet of a search: the query, the cases, and why each was found; a picture, or one page that holds all.

Sheets travel.  They name cases by their shard keys and nothing else: no pseudonym, no study, no age, no sex.  The page
loads nothing, runs nothing and shows every text as text.
"""

import base64
import hashlib
import io
import os
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from vlp.data.reader import ShardReader
from vlp.errors import DataError
from vlp.log import progress
from vlp.records import Box
from vlp.retrieval.search import Hit, Hits
from vlp.retrieval.why import Asked, SimilarityMap, Why, explain

if TYPE_CHECKING:
    from vlp.inference.engine import Engine

TEMPLATE = "sheet.html"
"""Beside this file."""
MOST_CASES = 100
"""Cases on one sheet; of a longer list the first ones are shown, and the sheet says so."""
SIDE_PX = 336
"""Longer side of a radiograph on a sheet."""
NOTE = "AI output, research use, not a medical device"
UNLABELLED = "no labels, so nothing to compare those of the cases with"
COLOURS = "viridis"
_STRONGEST = 0.6
"""Opacity of a map where it is highest; where it is lowest the radiograph shows unveiled."""
_SPAN = (1.0, 99.5)
"""Percentiles of all maps on a sheet that its one scale of colours spans."""
_JPEG_QUALITY, _FRAME = 88, (255, 92, 92)

Picture: TypeAlias = np.ndarray
"""RGB as uint8 [rows columns 3]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One case as a sheet shows it."""

    rank: int
    hit: Hit
    why: Why
    plain: Picture
    veiled: Picture | None
    """Under its map; None without a model."""
    query_veiled: Picture | None
    """The query under its map for this case; None without a model or where the query is no image."""

    @property
    def findings(self) -> tuple[tuple[str, bool], ...]:
        """(finding labelled present, whether the query has it too), those in common first."""
        shared = self.why.overlap.shared if self.why.overlap is not None else ()
        return tuple((name, name in shared) for name in sorted(self.hit.present, key=lambda name: name not in shared))

    @property
    def facts(self) -> str:
        """View and split, and what else must be known of the case."""
        parts = [self.hit.view, self.hit.split]
        parts += ["the same image"] if self.hit.same_image else []
        return ", ".join([*parts, "synthetic"] if self.hit.synthetic else parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """Everything a contact sheet shows."""

    asked: Asked
    query: Picture | None
    """None where only words were asked."""
    cases: tuple[Case, ...]
    scale: tuple[float, float] | None
    """Cosines of the darkest and the brightest colour of all maps; None where there is no map."""
    lines: tuple[str, ...]
    """What the scores and the maps are, how many studies were searched, who was left out."""


def write_sheet(
    path: Path,
    asked: Asked,
    hits: Hits,
    *,
    reader: ShardReader,
    engine: "Engine | None" = None,
    remarks: Sequence[str] = (),
) -> Sheet:
    """Draws the sheet of a search into a file; written whole or not at all.

    Args:
        path: ends with .png for a picture, or with .html for a page that needs nothing else.
        asked: what was searched by.
        hits: what was found.
        reader: the shards the cases lie in.
        engine: of the model that made the index; without it the sheet has no maps and no sentences, and says so.
        remarks: what else must stand at its head, e.g. a filter, or who was left out for which reason.

    Raises:
        DataError: for another ending, a case that the shards do not hold, or a file that cannot be written.
    """
    writers = {".png": _png, ".html": _html}
    if path.suffix.lower() not in writers:
        raise DataError(f"{path}: a sheet is a .png or a .html file; name it so")
    if not path.parent.is_dir():
        raise DataError(f"{path.parent}: there is no such folder for the sheet; make it first")
    sheet = gather(asked, hits, reader=reader, engine=engine, remarks=remarks)
    content = writers[path.suffix.lower()](sheet)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    except OSError as error:
        raise DataError(f"{path}: cannot write the sheet: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)
    return sheet


def gather(
    asked: Asked, hits: Hits, *, reader: ShardReader, engine: "Engine | None" = None, remarks: Sequence[str] = ()
) -> Sheet:
    """What the sheet of a search shows; arguments and errors as in `write_sheet`."""
    shown = hits[:MOST_CASES]
    whys = explain(asked, shown, reader, engine=engine)
    scale = _scale([found for why in whys for found in (why.query_map, why.case_map) if found is not None])
    query = radiograph(asked.pixels, box=asked.box) if asked.pixels is not None else None
    pairs = list(zip(shown, whys, strict=True))
    cases = [
        _case(rank, hit, why, query, scale, reader)
        for rank, (hit, why) in enumerate(progress(pairs, description="drawing", unit="cases"), start=1)
    ]
    return Sheet(
        asked=asked,
        query=query,
        cases=tuple(cases),
        scale=scale,
        lines=(*_lines(asked, hits, scale), *remarks),
    )


def radiograph(pixels: UInt8[np.ndarray, "rows columns"], *, box: Box | None = None) -> Picture:
    """The image as RGB with the longer side a sheet shows, and with a frame around a part of it."""
    scale = SIDE_PX / max(pixels.shape)
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    grey = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    picture = np.repeat(grey[..., None], 3, axis=2)
    if box is not None:
        left, top, right, bottom = (round(edge * scale) for edge in box)
        for colour, thickness in (((0, 0, 0), 4), (_FRAME, 2)):
            cv2.rectangle(picture, (left, top), (right - 1, bottom - 1), colour, thickness, cv2.LINE_AA)
    return picture


def veil(picture: Picture, values: Float[np.ndarray, "rows columns"], scale: tuple[float, float]) -> Picture:
    """The picture under a map of its size: the higher the cosine, the brighter and the denser the colour.

    Pixels the model never saw (NaN) stay unveiled.
    """
    import matplotlib

    share = np.nan_to_num((values - scale[0]) / max(scale[1] - scale[0], 1e-9)).clip(0.0, 1.0)
    colours = matplotlib.colormaps[COLOURS](share)[..., :3] * 255
    opacity = (_STRONGEST * share)[..., None]
    return np.asarray((picture * (1 - opacity) + colours * opacity).round(), dtype=np.uint8)


def _case(
    rank: int, hit: Hit, why: Why, query: Picture | None, scale: tuple[float, float] | None, reader: ShardReader
) -> Case:
    plain = radiograph(reader.image(hit.key, hit.image, at_least=(SIDE_PX, SIDE_PX)))

    def veiled(picture: Picture | None, found: SimilarityMap | None) -> Picture | None:
        if picture is None or found is None or scale is None:
            return None
        return veil(picture, found.resized(*picture.shape[:2]), scale)

    return Case(
        rank=rank,
        hit=hit,
        why=why,
        plain=plain,
        veiled=veiled(plain, why.case_map),
        query_veiled=veiled(query, why.query_map),
    )


def _scale(maps: Sequence[SimilarityMap]) -> tuple[float, float] | None:
    """One scale for all, so that a colour means the same cosine everywhere on the sheet."""
    if not maps:
        return None
    low, high = np.percentile(np.concatenate([found.values.ravel() for found in maps]), _SPAN)
    return float(low), float(high)


def _lines(asked: Asked, hits: Hits, scale: tuple[float, float] | None) -> list[str]:
    weights = f" (weights {', '.join(f'{weight:g}' for weight in hits.weights)})" if hits.weights else ""
    reasons = ", ".join(f"{reason} {count}" for reason, count in hits.excluded_why.items() if count)
    parts = [f"{hits.studies} studies searched", f"{hits.excluded} left out" + (f" ({reasons})" if reasons else "")]
    parts += [f"{hits.filtered} not let through by the filter"] if hits.filtered else []
    parts += [f"the first {MOST_CASES} of {len(hits)} are shown"] if len(hits) > MOST_CASES else []
    lines = [f"Score: cosine of {hits.query} with {hits.with_what}{weights}. {', '.join(parts)}."]
    if scale is None:
        return [*lines, "No maps and no matched sentences: they need the checkpoint that built the index."]
    if asked.finding is not None:
        lines.append(f"Maps: where each image fits the words for {asked.finding}.")
    elif asked.pixels is None:
        lines.append("Maps: where each case fits the words.")
    else:
        lines.append("Maps: which parts of each image are like what the other one was compared by.")
    return [*lines, "One scale of colours for all maps; a cosine is no probability."]


def _html(sheet: Sheet) -> bytes:
    """The page; every text is escaped, and what it may load or run is nothing."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"sha256": _digest, "embedded": _embedded, "colour_bar": _colour_bar}
    page = environment.get_template(TEMPLATE).render(sheet=sheet, note=NOTE, unlabelled=UNLABELLED)
    # A text from a command line may hold bytes that are no characters.
    return page.encode("utf-8", errors="replace")


def _digest(text: str) -> str:
    """As a content security policy names the one style it allows."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _embedded(picture: Picture) -> str:
    done, content = cv2.imencode(
        ".jpg", np.ascontiguousarray(picture[..., ::-1]), (cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY)
    )
    assert done
    return "data:image/jpeg;base64," + base64.b64encode(content.tobytes()).decode("ascii")


def _colour_bar(scale: tuple[float, float]) -> Picture:
    """The colours of the maps over mid grey, from the lowest cosine on the left to the highest."""
    ramp = np.tile(np.linspace(*scale, 160), (12, 1))
    return veil(np.full((12, 160, 3), 110, dtype=np.uint8), ramp, scale)


# ---- the picture: everything is placed in inches from the top left corner

_COLUMNS = 5
_WIDTH, _GAP, _MARGIN = 2.5, 0.25, 0.3
_HEAD, _BIG, _SMALL, _WORDS = 0.42, 2.5, 1.22, 1.3
_DPI = 100
_LINE, _LINE_CHARACTERS, _HEAD_CHARACTERS = 0.135, 46, 120
_INK, _SOFT, _SHARED = "#19202a", "#5b6775", "#0f766e"


class _Canvas:
    """A figure of so many inches that pictures and words are put on."""

    def __init__(self, width: float, height: float) -> None:
        # An own figure with its own canvas: no global state of pyplot, no display.
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self._width, self._height = width, height
        self._figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
        FigureCanvasAgg(self._figure)

    def words(self, x: float, y: float, text: str, *, size: float = 7.0, color: str = _INK, bold: bool = False) -> None:
        drawn = text.encode("utf-8", errors="replace").decode("utf-8")  # as for the page
        self._figure.text(
            x / self._width, 1 - y / self._height, drawn, size=size, color=color, va="top", linespacing=1.25,
            weight="bold" if bold else "normal", parse_math=False,
        )  # fmt: skip

    def picture(self, x: float, y: float, picture: Picture, *, width: float, height: float) -> None:
        """Within width x height, at the top in the middle."""
        scale = min(width / picture.shape[1], height / picture.shape[0])
        across, down = picture.shape[1] * scale, picture.shape[0] * scale
        left, bottom = x + (width - across) / 2, y + down
        corner = (left / self._width, 1 - bottom / self._height)
        axis = self._figure.add_axes((*corner, across / self._width, down / self._height))
        axis.imshow(picture, aspect="auto", interpolation="bilinear")
        axis.set_axis_off()

    def stack(self, x: float, y: float, parts: Sequence[tuple[str, str, int]]) -> float:
        """Puts (text, colour, most lines) under each other, each wrapped; gives where the next would stand."""
        for text, color, most in parts:
            lines = textwrap.wrap(text, width=_LINE_CHARACTERS, max_lines=most, placeholder=" \u2026")
            self.words(x, y, "\n".join(lines), color=color)
            y += _LINE * len(lines) + 0.02
        return y

    def png(self) -> bytes:
        content = io.BytesIO()
        with warnings.catch_warnings():
            # A letter that the font lacks is drawn as a box, which says it all.
            warnings.filterwarnings("ignore", message="Glyph")
            self._figure.savefig(content, format="png", metadata={"Software": None})
        return content.getvalue()


def _png(sheet: Sheet) -> bytes:
    """The query first, then the cases in rows; with a model, each with its pair of maps below it."""
    maps = _SMALL + 0.2 if sheet.scale is not None else 0.0
    height = _HEAD + _BIG + maps + _WORDS
    columns = min(_COLUMNS, 1 + len(sheet.cases))
    rows = -(-(1 + len(sheet.cases)) // columns)
    lines = [part for line in sheet.lines for part in textwrap.wrap(line, width=_HEAD_CHARACTERS)]
    top = 0.75 + 0.16 * len(lines)
    canvas = _Canvas(max(2 * _MARGIN + columns * (_WIDTH + _GAP) - _GAP, 8.0), top + rows * height + 0.35)
    canvas.words(_MARGIN, 0.2, "Similar cases", size=15, bold=True)
    canvas.words(_MARGIN, 0.55, "\n".join(lines), size=7.5, color=_SOFT)
    _draw_query(canvas, sheet, _MARGIN, top)
    for place, case in enumerate(sheet.cases, start=1):
        row, column = divmod(place, columns)
        _draw_case(canvas, case, _MARGIN + column * (_WIDTH + _GAP), top + row * height)
    canvas.words(_MARGIN, top + rows * height + 0.05, f"{NOTE}.", size=7.5, color=_SOFT)
    return canvas.png()


def _draw_query(canvas: _Canvas, sheet: Sheet, x: float, y: float) -> None:
    asked = sheet.asked
    canvas.words(x, y, "Query", size=9.5, bold=True)
    canvas.words(x, y + 0.2, asked.key or "", size=6.5, color=_SOFT)
    below = y + _HEAD
    if sheet.query is not None:
        canvas.picture(x, below, sheet.query, width=_WIDTH, height=_BIG)
        below += _BIG + 0.08
    below = canvas.stack(x, below, _query_words(asked))
    if sheet.scale is not None:
        low, high = sheet.scale
        canvas.words(x, below + 0.06, f"cosine {low:.2f}", color=_SOFT)
        canvas.picture(x + 0.75, below + 0.07, _colour_bar(sheet.scale), width=1.15, height=0.12)
        canvas.words(x + 2.0, below + 0.06, f"{high:.2f}", color=_SOFT)


def _query_words(asked: Asked) -> list[tuple[str, str, int]]:
    """What the query says, and what it is known to show."""
    words = [(f"\u201c{asked.text}\u201d", _INK, 4)] if asked.text is not None else []
    words += [(f"alike in: {asked.finding}", _INK, 2)] if asked.finding is not None else []
    words += [("searched by the part in the frame", _INK, 1)] if asked.box is not None else []
    if asked.present is not None:
        words.append((f"labelled: {', '.join(asked.present) or 'nothing present'}", _SHARED, 4))
    elif asked.pixels is not None:
        words.append((UNLABELLED, _SOFT, 2))
    return words


def _draw_case(canvas: _Canvas, case: Case, x: float, y: float) -> None:
    canvas.words(x, y, f"{case.rank}.  {case.hit.score:.3f}", size=9.5, bold=True)
    canvas.words(x + 1.0, y + 0.03, case.facts, color=_SOFT)
    canvas.words(x, y + 0.2, case.hit.key, size=6.5, color=_SOFT)
    below = y + _HEAD
    canvas.picture(x, below, case.plain, width=_WIDTH, height=_BIG)
    below += _BIG + 0.06
    half = (_WIDTH - 0.06) / 2
    for place, (picture, name) in enumerate(((case.veiled, "in this case"), (case.query_veiled, "in the query"))):
        if picture is not None:
            left = x + place * (half + 0.06)
            canvas.picture(left, below, picture, width=half, height=_SMALL)
            canvas.words(left, below + _SMALL + 0.01, name, size=6, color=_SOFT)
    below += _SMALL + 0.2 if case.veiled is not None else 0.04
    canvas.stack(x, below, _case_words(case))


def _case_words(case: Case) -> list[tuple[str, str, int]]:
    shared = ", ".join(name for name, both in case.findings if both)
    others = ", ".join(name for name, both in case.findings if not both)
    words = [(f"in common: {shared}", _SHARED, 2)] if shared else []
    words += [(f"{'also' if shared else 'labelled'}: {others}", _INK, 2)] if others else []
    words += [("no finding labelled present", _INK, 1)] if not case.findings else []
    words += [(case.why.overlap.words, _SOFT, 1)] if case.why.overlap is not None else []
    return [*words, (case.why.sentence.words, _INK, 3)] if case.why.sentence is not None else words
