"""`vlp ground`: where on an image a sentence is answered."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vlp.cli.console import print_json, print_table
from vlp.errors import ConfigError
from vlp.log import get_logger

if TYPE_CHECKING:
    from vlp.heads import Head
    from vlp.inference.calibration import Calibration
    from vlp.inference.engine import Engine
    from vlp.inference.ground import Grounding

_logger = get_logger(__name__)
_SOURCES = {
    "given": "given",
    "calibration": "calibrated per finding, from the calibration file",
    "checkpoint": "calibrated, stored with the checkpoint",
    "otsu": "Otsu's on this very map, not calibrated",
    "head": "chosen on validation masks, stored with the head",
}


def ground(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint or a run folder.")],
    image: Annotated[Path, typer.Argument(help="A radiograph: PNG, JPEG or DICOM.")],
    texts: Annotated[list[str], typer.Argument(help='Sentences, e.g. "There is pleural effusion."')],
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The picture; default: IMAGE's name with .ground.png, here.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Cosine from which a pixel counts, -1 to 1; with --head its score, 0 to 1.")
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="A calibration file; default: the one beside the checkpoint, if any.")
    ] = None,
    resolution: Annotated[
        Literal["image", "windows", "both"],
        typer.Option(help="The whole image's map, that of overlapping windows of it (for small things), or both."),
    ] = "image",
    window: Annotated[
        float | None,
        typer.Option(help="Size of a window: a share of the image up to 1, above that its rows in pixels."),
    ] = None,
    whole: Annotated[
        Literal["mean", "max"], typer.Option(help="How --resolution both combines: mean of the cosines, or the higher.")
    ] = "mean",
    head: Annotated[
        Path | None, typer.Option(help="A segmentation head on this checkpoint; its masks instead of similarity maps.")
    ] = None,
    lungs: Annotated[
        Path | None, typer.Option(help="A segmentation head that knows the lungs, to say what lies inside them.")
    ] = None,
    combined: Annotated[
        bool, typer.Option("--combined", help="Also give each pixel to the sentence with the highest value there.")
    ] = False,
    save_map: Annotated[Path | None, typer.Option(help="Write the maps [text rows columns] as float32 .npy.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
    json_: Annotated[bool, typer.Option("--json", help="Print for programs, masks as run lengths.")] = False,
) -> None:
    """Map, mask, outlines, boxes and peak of each sentence, in pixels of the image, and a picture of them.

    Example: vlp ground runs/demo chest.png "There is pleural effusion."
    """
    from vlp.inference.engine import load
    from vlp.inference.ground import ground_texts, segment_texts
    from vlp.inference.lungs import lung_field
    from vlp.inference.overlay import save_maps, write_overlay
    from vlp.ingest import read_image

    if head is not None and resolution != "image":
        raise ConfigError("--head answers at the whole image's resolution; leave --resolution out")
    pixels = read_image(image)[1]
    engine = load(checkpoint, device=device)
    if head is None:
        field = lung_field(engine, pixels, head=_head(lungs, engine) if lungs is not None else None)
        answers = ground_texts(
            engine,
            pixels,
            tuple(texts),
            threshold=threshold,
            calibration=_calibration(calibration, engine),
            lungs=field,
            resolution=resolution,
            window=window,
            whole=whole,
        )
    else:
        masks = _head(head, engine)
        field = lung_field(engine, pixels, head=_head(lungs, engine) if lungs is not None else masks)
        answers = segment_texts(masks, pixels, tuple(texts), threshold=threshold, lungs=field)
    picture = output if output is not None else Path(f"{image.stem}.ground.png")
    write_overlay(picture, pixels, answers, combined=combined, lungs=field)
    if save_map is not None:
        save_maps(save_map, answers)
    if json_:
        print_json({"picture": str(picture), "answers": [answer.to_json() for answer in answers]})
    else:
        _print_answers(answers, title=image.name, picture=picture)


def _head(path: Path, engine: "Engine") -> "Head":
    from vlp.heads import load_head

    return load_head(path, engine)


def _calibration(path: Path | None, engine: "Engine") -> "Calibration | None":
    """The calibration that was named, or the one beside the checkpoint if it is of this model."""
    from vlp.inference.calibration import Calibration, find

    if path is not None:
        given = Calibration.load(path)
        given.refuse_other(engine)
        return given
    beside = find(engine.folder) if engine.folder is not None else None
    if beside is None:
        return None
    found = Calibration.load(beside)
    if found.misfit(engine) is not None:
        _logger.warning("%s is of another model and is left out", beside)
        return None
    return found


def _print_answers(answers: "tuple[Grounding, ...]", *, title: str, picture: Path) -> None:
    unit = "cosine" if answers[0].quantity == "cosine" else "score"
    in_lungs = any(answer.where.lungs is not None for answer in answers)
    columns = ("text", f"peak {unit}", "peak x, y", "box x0, y0, x1, y1", "where", "mask", "in lungs", "threshold")
    notes = [f"{answer.text}: {note.message}" for answer in answers for note in answer.notes]
    notes += [answer.threshold_note for answer in answers if answer.threshold_note is not None][:1]
    sources = dict.fromkeys(_SOURCES[answer.threshold_source] for answer in answers)
    notes += [
        f"Threshold: {'; '.join(sources)}. Boxes and peaks in pixels, x right, y down.",
        "Sides are the patient's own; "
        + (
            "zones are thirds of the lungs."
            if in_lungs
            else "sides and zones are the image's, for want of a lung field."
        ),
        f"Picture: {picture}",
        "Research use, not a medical device.",
    ]
    print_table(title, columns, [_row(answer) for answer in answers], note="\n".join(notes))


def _row(answer: "Grounding") -> tuple[str, float, str, str, str, str, str, float]:
    more = len(answer.boxes) - 1
    inside = answer.where.lung_share
    return (
        answer.text,
        answer.peak_similarity,
        _numbers(answer.peak),
        _numbers(answer.box) + (f" and {more} more" if more > 0 else ""),
        answer.where.words or "-",
        f"{answer.mask.mean():.1%} of the image",
        "-" if inside is None else f"{inside:.0%}",
        answer.threshold,
    )


def _numbers(values: tuple[float, ...] | None) -> str:
    return "none" if values is None else ", ".join(f"{value:.1f}" for value in values)
