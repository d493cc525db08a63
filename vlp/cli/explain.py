"""`vlp explain`: whether explanations are ones: evidence adds up, and maps depend on what they must depend on."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vlp.cli.console import FAILED_CHECK, print_json, print_table

if TYPE_CHECKING:
    from vlp.evaluate.explain.run import Explained


def explain(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint or a run folder.")],
    shards: Annotated[Path, typer.Argument(help="Folder of shards with labelled studies the model has not seen.")],
    *,
    split: Annotated[Literal["train", "val", "test"], typer.Option(help="Which studies.")] = "test",
    studies: Annotated[int, typer.Option(min=2, help="How many of them, in key order.")] = 100,
    calibration: Annotated[
        Path | None, typer.Option(help="calibration.json; by default the one beside the checkpoint, if it fits.")
    ] = None,
    other: Annotated[
        Path | None, typer.Option(help="A second checkpoint, e.g. of another seed: are its maps alike?")
    ] = None,
    resamples: Annotated[int, typer.Option(min=100, help="Of patients, behind every interval.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of shuffles, random orders and resamples.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for explain.json and the curves as pictures.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print for programs.")] = False,
) -> None:
    """Test the explanations: sums, ablation, shuffled weights, patches in and out, sides, denials, absent findings.

    Exit status 1 if a test that has a rule fails it.

    Example: vlp explain runs/demo runs/demo/shards --studies 40 -o runs/demo/explain
    """
    from vlp.evaluate.explain.run import Options, write
    from vlp.evaluate.explain.run import explain as run

    options = Options(
        split=split,
        studies=studies,
        calibration=calibration,
        other=other,
        resamples=resamples,
        seed=seed,
        device=device,
    )
    explained = run(checkpoint, shards, options=options)
    written = write(explained, output) if output is not None else []
    if json_:
        print_json(explained.to_json())
    else:
        _print(explained, title=f"Explanations of {checkpoint.name}", written=written)
    if explained.failed:
        raise typer.Exit(FAILED_CHECK)


def _print(explained: "Explained", *, title: str, written: list[Path]) -> None:
    rows = [
        (row.test, row.what, row.shown, row.rule or "-", row.outcome, row.n if row.outcome != "not run" else "-")
        for row in explained.rows
    ]
    facts = explained.facts
    notes = [
        f"{facts['studies']} studies of {facts['patients']} patients, split {facts['split']}"
        + ("; synthetic studies, which say nothing about patients." if facts["synthetic"] else "."),
        *(f"not run: {row.test}, {row.what}: {row.method}" for row in explained.rows if row.outcome == "not run"),
        *(f"written: {path}" for path in written),
        "Research use, not a medical device.",
    ]
    print_table(title, ("test", "figure", "value [interval]", "rule", "outcome", "n"), rows, note="\n".join(notes))
