"""`vlp shards`: validate, count and look at a folder of shards."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vlp.cli.console import FAILED_CHECK, print_json, print_table

if TYPE_CHECKING:
    from vlp.data.manifest import Manifest

app = typer.Typer(help="Validate, count and look at a folder of shards.", no_args_is_help=True, rich_markup_mode=None)

_MAX_SHOWN_FAULTS = 50

Folder = Annotated[Path, typer.Argument(help="A folder of shards, as vlp ingest writes it.")]
Json = Annotated[bool, typer.Option("--json", help="Print for programs.")]


@app.command()
def check(folder: Folder, *, json_: Json = False) -> None:
    """Read every byte and say what is wrong.

    Looks at sizes, checksums, members, descriptions, images, and patients in two splits; ends with status 1 if there
    is a fault.

    Example: vlp shards check runs/demo/shards
    """
    from dataclasses import asdict

    from vlp.data.validate import check as find_faults

    faults = find_faults(folder)
    if json_:
        print_json({"folder": str(folder), "ok": not faults, "faults": [asdict(fault) for fault in faults]})
    elif faults:
        rows = [(fault.shard, fault.key or "", fault.code, fault.message) for fault in faults[:_MAX_SHOWN_FAULTS]]
        note = f"{len(faults)} faults" + (f", the first {_MAX_SHOWN_FAULTS} shown" if len(faults) > len(rows) else "")
        print_table(str(folder), ("file", "study", "fault", "what is wrong"), rows, note=note)
    else:
        typer.echo(f"{folder}: every shard is as it was written")
    if faults:
        raise typer.Exit(FAILED_CHECK)


@app.command()
def stats(folder: Folder, *, json_: Json = False) -> None:
    """Count studies, sentences, findings per split.

    Example: vlp shards stats runs/demo/shards
    """
    from vlp.data import open_shards

    manifest = open_shards(folder).manifest
    if json_:
        print_json({"folder": str(folder), **manifest.summary()})
        return
    show_counts(folder, manifest)
    show_findings(manifest)


@app.command()
def preview(
    folder: Folder,
    out: Annotated[Path | None, typer.Option(help="PNG to write; default: beside the folder.")] = None,
    *,
    split: Annotated[Literal["train", "val", "test"] | None, typer.Option(help="Only this split.")] = None,
    count: Annotated[int, typer.Option(min=1, max=400, help="How many studies.")] = 24,
    json_: Json = False,
) -> None:
    """Draw a contact sheet of images with boxes and findings.

    Example: vlp shards preview runs/demo/shards --split test --count 12
    """
    from vlp.data import open_shards
    from vlp.data.preview import contact_sheet

    path = out or folder.resolve().parent / f"{folder.resolve().name}-preview.png"
    drawn = contact_sheet(open_shards(folder), path, split=split, count=count)
    if json_:
        print_json({"file": str(path), "studies": drawn})
        return
    typer.echo(f"{path}: {drawn} studies")


def show_counts(folder: Path, manifest: "Manifest") -> None:
    """A table of what each split holds, and where its sentences and labels come from."""
    rows = [
        (split, counts.studies, counts.images, counts.patients, counts.sentences, counts.without_sentences)
        for split, counts in manifest.splits.items()
    ]
    notes = [
        "sentences: " + ", ".join(f"{count} from {origin}" for origin, count in manifest.sentences_origin.items()),
        "studies with labels: "
        + ", ".join(
            f"{count} none" if origin == "none" else f"{count} from {origin}"
            for origin, count in manifest.labels_origin.items()
        ),
    ]
    if manifest.synthetic:
        notes.append("synthetic: drawn by a program, not taken from patients")
    columns = ("split", "studies", "images", "patients", "sentences", "without sentences")
    print_table(str(folder), columns, rows, note="\n".join(notes))


def show_findings(manifest: "Manifest") -> None:
    """A table of findings with their studies per split, as present / uncertain / absent."""
    names = sorted({name for counts in manifest.splits.values() for name in counts.findings})
    rows = []
    for name in names:
        cells = []
        for counts in manifest.splits.values():
            by_certainty = {str(certainty): number for certainty, number in counts.findings.get(name, {}).items()}
            cells.append(" / ".join(str(by_certainty.get(said, 0)) for said in ("present", "uncertain", "absent")))
        rows.append((name, *cells))
    print_table("Studies by label: present / uncertain / absent", ("finding", *manifest.splits), rows)
