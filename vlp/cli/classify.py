"""`vlp classify`: what is to be seen on an image, with the evidence for and against."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vlp.cli.console import print_json, print_table

if TYPE_CHECKING:
    from vlp.inference.classify import DescriptorEvidence, Diagnosis

_NOTE = (
    "Scores are similarity-based and uncalibrated: they rank, they are not probabilities of disease.\n"
    "Research use, not a medical device."
)


def classify(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint or a run folder.")],
    image: Annotated[Path, typer.Argument(help="A radiograph, PNG or JPEG.")],
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
    why: Annotated[bool, typer.Option("--why", help="Show every descriptor of every finding.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
    json_: Annotated[bool, typer.Option("--json", help="Print for programs.")] = False,
) -> None:
    """Zero-shot diagnosis of an image, or of the images of one study, with the descriptors it follows from.

    Example: vlp classify runs/demo chest.png "pleural effusion" --why
    """
    from vlp.inference.engine import load
    from vlp.ingest import read_image
    from vlp.prompts.descriptors import load_descriptors

    # Small things first: a wrong name or file is told before a large model is loaded.
    vocabulary = load_descriptors(descriptors)
    for name in findings or ():
        vocabulary.of(name, prompts=prompts)
    pictures = [read_image(path)[1] for path in (image, *(view or ()))]
    diagnosis = load(checkpoint, device=device).classify(
        pictures, findings=findings or None, descriptors=vocabulary, prompts=prompts
    )
    if json_:
        print_json(diagnosis.to_json())
        return
    _print_findings(diagnosis, title=image.name)
    if why:
        _print_descriptors(diagnosis)


def _print_findings(diagnosis: "Diagnosis", *, title: str) -> None:
    rows = []
    for evidence in diagnosis.ranked():
        speaks_for, speaks_against = evidence.strongest()
        rows.append((evidence.finding, evidence.score, _told(speaks_for), _told(speaks_against)))
    note = f"{_NOTE}\nDescriptors: {diagnosis.vocabulary}."
    print_table(title, ("finding", "score", "most for it", "most against it"), rows, note=note)


def _print_descriptors(diagnosis: "Diagnosis") -> None:
    for evidence in diagnosis.ranked():
        rows = [
            (
                item.text,
                item.positive_similarity,
                item.negative_similarity,
                item.probability,
                f"{item.contribution:+.4f}",
            )
            for item in evidence.descriptors
        ]
        note = (
            f"there is, there is no: cosines; for it: sigma of their difference over the temperature, 0.5 undecided\n"
            f"log score {evidence.log_score:.4f} = log 1/2 + the sum of the contributions"
        )
        columns = ("descriptor", "there is", "there is no", "for it", "contribution")
        print_table(f"{evidence.finding}: {evidence.score:.3f}", columns, rows, note=note)


def _told(evidence: "DescriptorEvidence | None") -> str:
    return "-" if evidence is None else f"{evidence.text} ({evidence.contribution:+.3f})"
