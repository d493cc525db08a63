"""`vlp ground`: where on an image a sentence is answered."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlp.cli.console import print_json, print_table

if TYPE_CHECKING:
    from vlp.inference.ground import Grounding

_SOURCES = {
    "given": "given",
    "checkpoint": "calibrated, stored with the checkpoint",
    "otsu": "Otsu's on this very map, not calibrated",
}


def ground(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint or a run folder.")],
    image: Annotated[Path, typer.Argument(help="A radiograph, PNG or JPEG.")],
    texts: Annotated[list[str], typer.Argument(help='Sentences, e.g. "There is pleural effusion."')],
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The picture; default: IMAGE's name with .ground.png, here.")
    ] = None,
    threshold: Annotated[float | None, typer.Option(help="Cosine from which a pixel counts, -1 to 1.")] = None,
    combined: Annotated[
        bool, typer.Option("--combined", help="Also give each pixel to the sentence with the highest cosine there.")
    ] = False,
    save_map: Annotated[Path | None, typer.Option(help="Write the maps [text rows columns] as float32 .npy.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
    json_: Annotated[bool, typer.Option("--json", help="Print for programs, masks as run lengths.")] = False,
) -> None:
    """Similarity map, mask, box and peak of each sentence, in pixels of the image, and a picture of them.

    Example: vlp ground runs/demo chest.png "There is pleural effusion."
    """
    from vlp.inference.engine import load
    from vlp.inference.ground import ground_texts
    from vlp.inference.overlay import save_maps, write_overlay
    from vlp.ingest import read_image

    pixels = read_image(image)[1]
    answers = ground_texts(load(checkpoint, device=device), pixels, tuple(texts), threshold=threshold)
    picture = output if output is not None else Path(f"{image.stem}.ground.png")
    write_overlay(picture, pixels, answers, combined=combined)
    if save_map is not None:
        save_maps(save_map, answers)
    if json_:
        print_json({"picture": str(picture), "answers": [answer.to_json() for answer in answers]})
        return
    note = (
        f"Threshold: {_SOURCES[answers[0].threshold_source]}. Boxes and peaks in pixels, x right, y down.\n"
        f"Picture: {picture}\nResearch use, not a medical device."
    )
    columns = ("text", "peak cosine", "peak x, y", "box x0, y0, x1, y1", "mask", "threshold")
    print_table(image.name, columns, [_row(answer) for answer in answers], note=note)


def _row(answer: "Grounding") -> tuple[str, float, str, str, str, float]:
    return (
        answer.text,
        answer.peak_similarity,
        _numbers(answer.peak),
        _numbers(answer.box),
        f"{answer.mask.mean():.1%} of the image",
        answer.threshold,
    )


def _numbers(values: tuple[float, ...] | None) -> str:
    return "none" if values is None else ", ".join(f"{value:.1f}" for value in values)
