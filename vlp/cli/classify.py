"""`vlp classify`: what is to be seen on an image, with the evidence for and against."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vlp.cli.console import FAILED_CHECK, print_json, print_table

if TYPE_CHECKING:
    import numpy as np

    from vlp.inference.diagnose import Request
    from vlp.inference.diagnosis import DescriptorEvidence, Diagnosis, FindingEvidence
    from vlp.inference.engine import Engine
    from vlp.inference.evidence import Where

_RESEARCH = "Research use, not a medical device."
_UNCALIBRATED = "Similarities are uncalibrated: they rank images, they are not probabilities of disease."


def classify(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint or a run folder.")],
    image: Annotated[Path, typer.Argument(help="A radiograph: PNG, JPEG or DICOM.")],
    findings: Annotated[
        list[str] | None, typer.Argument(help="Which findings; none: all that have descriptors.")
    ] = None,
    *,
    view: Annotated[
        list[Path] | None, typer.Option("--view", help="Another image of the same study; may be repeated.")
    ] = None,
    descriptors: Annotated[Path | None, typer.Option(help="A descriptor file instead of the package's own.")] = None,
    prompts: Annotated[
        Literal["descriptors", "finding", "both"],
        typer.Option(help="What a score follows from: the descriptors, the finding's own name, or both."),
    ] = "both",
    protocol: Annotated[
        str | None, typer.Option(help="Ask as published work does: radzero, xplainer, chexzero, carzero, biovil.")
    ] = None,
    fusion: Annotated[
        Literal["mean", "max", "frontal"], typer.Option(help="How several images of a study are brought together.")
    ] = "mean",
    pooling: Annotated[
        Literal["geometric_mean", "calibrated"] | None,
        typer.Option(help="How descriptors become a score; default: as the calibration says, else geometric_mean."),
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="A calibration file; default: the one beside the checkpoint, if any.")
    ] = None,
    no_gate: Annotated[
        bool, typer.Option("--no-gate", help="Answer for any picture, chest radiograph or not.")
    ] = False,
    why: Annotated[bool, typer.Option("--why", help="Show every descriptor, and each finding in words.")] = False,
    where: Annotated[
        bool, typer.Option("--where", help="Say where each descriptor is: box, side, zone; costs a map each.")
    ] = False,
    maps: Annotated[
        Path | None, typer.Option(help="Draw the descriptors' maps on IMAGE, one picture per finding, in this folder.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the whole answer as JSON.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
    json_: Annotated[bool, typer.Option("--json", help="Print for programs.")] = False,
) -> None:
    """Zero-shot diagnosis of an image, or of the images of one study, with the descriptors it follows from.

    Exit status 1: the gate refused every image, so nothing was answered.

    Example: vlp classify runs/demo chest.png "pleural effusion" --why
    """
    from vlp.inference.diagnose import OWN_PROTOCOL, Request, diagnose, load_calibration
    from vlp.inference.engine import load
    from vlp.inference.pooling import GeometricMean
    from vlp.ingest import read_image
    from vlp.prompts.descriptors import load_descriptors
    from vlp.prompts.protocols import protocol as protocol_named

    # Small things first: a wrong name or file is told before a large model is loaded.
    vocabulary = load_descriptors(descriptors)
    for name in findings or ():
        vocabulary.of(name, prompts=prompts)
    asking = None if protocol is None or protocol.strip().lower() == OWN_PROTOCOL else protocol_named(protocol)
    files = [read_image(path) for path in (image, *(view or ()))]
    fitted = load_calibration(calibration)
    engine = load(checkpoint, device=device)
    request = Request(
        findings=tuple(findings) if findings else None,
        descriptors=vocabulary,
        prompts=prompts,
        protocol=asking,
        fusion=fusion,
        views=tuple(file.view for file, _ in files),
        pooling=GeometricMean() if pooling == "geometric_mean" else pooling,
        calibration=fitted,
        gate=None if no_gate else "auto",
        where=where,
    )
    diagnosis = diagnose(engine, [pixels for _, pixels in files], request)
    if output is not None:
        _write(output, diagnosis)
    if maps is not None:
        _draw(maps, engine, [pixels for _, pixels in files], diagnosis, request)
    if json_:
        print_json(diagnosis.to_json())
    elif diagnosis.refused:
        _print_refusal(diagnosis, title=image.name)
    else:
        _print_findings(diagnosis, title=image.name)
        if why or where:
            _print_descriptors(diagnosis)
    if diagnosis.refused:
        raise typer.Exit(FAILED_CHECK)


def _print_refusal(diagnosis: "Diagnosis", *, title: str) -> None:
    assert diagnosis.gate is not None
    rows = [(number, str(image["reason"]), image["message"]) for number, image in enumerate(diagnosis.gate.images, 1)]
    note = f"Not assessable: nothing was answered. --no-gate answers all the same.\n{_RESEARCH}"
    print_table(f"{title}: refused", ("image", "reason", "what it means"), rows, note=note)


def _print_findings(diagnosis: "Diagnosis", *, title: str) -> None:
    rows: list[tuple[object, ...]] = []
    for evidence in diagnosis.ranked():
        speaks_for, speaks_against = evidence.strongest()
        row: tuple[object, ...] = (evidence.finding, evidence.score, _told(speaks_for), _told(speaks_against))
        rows.append((evidence.finding, evidence.state, _percent(evidence), *row[1:]) if diagnosis.calibrated else row)
    columns: tuple[str, ...] = ("finding", "similarity", "most for it", "most against it")
    if diagnosis.calibrated:
        columns = ("finding", "state", "probability (calibrated)", *columns[1:])
    lines = [
        _UNCALIBRATED,
        f"Descriptors: {diagnosis.vocabulary}.",
        *(f"Note: {warning}." for warning in diagnosis.warnings),
        _RESEARCH,
    ]
    print_table(title, columns, rows, note="\n".join(lines))


def _print_descriptors(diagnosis: "Diagnosis") -> None:
    for evidence in diagnosis.ranked():
        placed = any(item.where for item in evidence.descriptors)
        rows = [_descriptor_row(item, placed=placed) for item in evidence.descriptors]
        columns: tuple[str, ...] = ("descriptor", "there is", "there is no", "for it", "contribution")
        columns += ("where",) if placed else ()
        note = (
            f"{evidence.statement.text}\n"
            "there is, there is no: cosines; for it: the softmax over the two, 0.5 undecided\n"
            f"{'log' if evidence.scale == 'log' else 'logit of'} similarity {evidence.total:.4f} = "
            f"{evidence.offset:.4f} + the sum of the contributions"
        )
        print_table(f"{evidence.finding}: {evidence.score:.3f}", columns, rows, note=note)


def _descriptor_row(item: "DescriptorEvidence", *, placed: bool) -> tuple[object, ...]:
    negative = "-" if item.negative_similarity is None else item.negative_similarity
    row = (item.text, item.positive_similarity, negative, item.probability, f"{item.contribution:+.4f}")
    return (*row, "; ".join(_place(place) for place in item.where)) if placed else row


def _place(place: "Where") -> str:
    if place.box is None:
        return "nowhere"
    box = ", ".join(f"{value:.0f}" for value in place.box)
    inside = "" if place.lung_share is None else f", {place.lung_share:.0%} inside the lungs"
    return f"{place.words or 'side and zone unclear'} ({box}){inside}"


def _told(evidence: "DescriptorEvidence | None") -> str:
    return "-" if evidence is None else f"{evidence.text} ({evidence.contribution:+.3f})"


def _percent(evidence: "FindingEvidence") -> str:
    return "-" if evidence.probability is None else f"{evidence.probability:.1%}"


def _write(path: Path, diagnosis: "Diagnosis") -> None:
    import json
    import os

    from vlp.errors import DataError

    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        partial.write_text(json.dumps(diagnosis.to_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise DataError(f"{path}: cannot write the answer: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)


def _draw(
    folder: Path, engine: "Engine", pictures: "list[np.ndarray]", diagnosis: "Diagnosis", request: "Request"
) -> None:
    """One picture per finding: the maps of its descriptors on the first image that was answered for."""
    from vlp.errors import DataError
    from vlp.inference.diagnose import calibration_for
    from vlp.inference.overlay import write_overlay
    from vlp.inference.places import groundings

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot make the folder: {error.strerror}") from None
    accepted = [True] * len(pictures) if diagnosis.gate is None else [one["accepted"] for one in diagnosis.gate.images]
    for evidence in diagnosis.ranked():
        pixels = pictures[accepted.index(True)]
        answers = groundings(engine, pixels, evidence, calibration=calibration_for(engine, request)[0])
        if answers:
            write_overlay(folder / f"{evidence.finding.replace(' ', '-')}.png", pixels, answers)
