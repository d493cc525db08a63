"""A contact sheet of a folder of shards: what went in, at a glance, with its boxes, masks and findings."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vlp.data.reader import ShardReader
from vlp.errors import DataError
from vlp.records import Box, Certainty, Mask, Region, Split, Study

_TILE_PX = 256
_CAPTION_PX = 62
_MARGIN_PX = 8
_COLOURS = ("#ffb000", "#00d0ff", "#ff5fa2", "#7dff5f", "#c79bff", "#ff7a4d")
_BACKGROUND, _INK, _DIM = "#14161a", "#f2f2f2", "#9aa0a8"


def contact_sheet(
    reader: ShardReader, out_png: Path, *, split: Split | None = None, count: int = 24, columns: int = 6
) -> int:
    """Draws `count` studies, evenly spread over the split (None: over all), to `out_png`; returns how many.

    Each tile shows the first image, outlines of its regions, and below it the view, the split and what is present.
    Study and patient ids are not shown.

    Raises:
        DataError: if there is nothing to draw or the picture cannot be written.
    """
    keys = reader.keys(split)
    if not keys or count < 1:
        raise DataError(f"{reader.folder}: no study to show" + (f" in split {split}" if split else ""))
    chosen = [keys[index] for index in np.unique(np.linspace(0, len(keys) - 1, min(count, len(keys))).astype(int))]
    columns = min(columns, len(chosen))
    rows = -(-len(chosen) // columns)
    step = _TILE_PX + _MARGIN_PX
    sheet = Image.new("RGB", (columns * step + _MARGIN_PX, rows * (step + _CAPTION_PX) + _MARGIN_PX), _BACKGROUND)
    for number, key in enumerate(chosen):
        across, down = number % columns, number // columns
        tile = _tile(reader.study(key), reader.image(key))
        sheet.paste(tile, (_MARGIN_PX + across * step, _MARGIN_PX + down * (step + _CAPTION_PX)))
    _save(sheet, out_png)
    return len(chosen)


def _tile(study: Study, pixels: np.ndarray) -> Image.Image:
    scale = _TILE_PX / max(pixels.shape)
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    picture = Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR).convert("RGB")
    tile = Image.new("RGB", (_TILE_PX, _TILE_PX + _CAPTION_PX), _BACKGROUND)
    left, top = (_TILE_PX - size[0]) // 2, (_TILE_PX - size[1]) // 2
    tile.paste(picture, (left, top))
    draw = ImageDraw.Draw(tile)
    first = study.images[0]
    regions = [region for region in study.regions if region.image == first.id]
    names = list(dict.fromkeys(region.finding for region in regions))
    for region in regions:
        colour = _COLOURS[names.index(region.finding) % len(_COLOURS)]
        _outline(draw, region, scale, (left, top), colour)
    _caption(draw, study, names)
    return tile


def _outline(draw: ImageDraw.ImageDraw, region: Region, scale: float, corner: tuple[int, int], colour: str) -> None:
    left, top = corner
    geometry = region.geometry
    if isinstance(geometry, Mask):
        box: Box | None = geometry.box()
    elif len(geometry) == 4:
        box = geometry
    else:
        x, y = geometry[0] * scale + left, geometry[1] * scale + top
        draw.ellipse((x - 4, y - 4, x + 4, y + 4), outline=colour, width=2)
        return
    if isinstance(geometry, Mask):
        _paint_edge(draw, geometry, scale, corner, colour)
    if box is not None and not isinstance(geometry, Mask):
        x0, y0, x1, y1 = (value * scale for value in box)
        draw.rectangle((x0 + left, y0 + top, x1 + left - 1, y1 + top - 1), outline=colour, width=2)


def _paint_edge(draw: ImageDraw.ImageDraw, mask: Mask, scale: float, corner: tuple[int, int], colour: str) -> None:
    inside = np.pad(mask.decode(), 1)
    edge = inside & ~(np.roll(inside, 1, 0) & np.roll(inside, -1, 0) & np.roll(inside, 1, 1) & np.roll(inside, -1, 1))
    rows, columns = np.nonzero(edge[1:-1, 1:-1])
    xs, ys = (columns + 0.5) * scale + corner[0], (rows + 0.5) * scale + corner[1]
    draw.point(np.stack((xs, ys), axis=1).ravel().tolist(), fill=colour)


def _caption(draw: ImageDraw.ImageDraw, study: Study, marked: Sequence[str]) -> None:
    present = [name for name, certainty in study.labels.items() if certainty is Certainty.PRESENT]
    font = ImageFont.load_default(size=12)
    views = "+".join(image.view for image in study.images)
    made = " (sentences from labels)" if study.sentences and study.sentences[0].origin == "labels" else ""
    head = f"{views}  {study.split}{'  synthetic' if study.synthetic else ''}{made}"
    draw.text((2, _TILE_PX + 2), _fitted(draw, head, font), fill=_DIM, font=font)
    draw.text((2, _TILE_PX + 20), _fitted(draw, ", ".join(present) or "nothing present", font), fill=_INK, font=font)
    x = 2.0
    for index, name in enumerate(marked):
        draw.text((x, _TILE_PX + 38), name, fill=_COLOURS[index % len(_COLOURS)], font=font)
        x += draw.textlength(name + "  ", font=font)


def _fitted(draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    if draw.textlength(text, font=font) <= _TILE_PX - 4:
        return text
    while draw.textlength(text + "…", font=font) > _TILE_PX - 4:
        text = text[:-1]
    return text + "…"


def _save(sheet: Image.Image, out_png: Path) -> None:
    temporary = out_png.with_name(f".{out_png.name}.partial")
    try:
        out_png.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(temporary, format="PNG")
        os.replace(temporary, out_png)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise DataError(f"{out_png}: cannot be written: {error.strerror}") from None
