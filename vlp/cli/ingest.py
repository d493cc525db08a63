"""`vlp ingest`: an archive of studies to shards."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlp.cli.console import print_json, print_table

if TYPE_CHECKING:
    from vlp.data.manifest import Manifest


def ingest(
    config: Annotated[Path, typer.Argument(help="Configuration, e.g. configs/ingest/shared_sample.yaml.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key.path=value ...")] = None,
    *,
    output: Annotated[str | None, typer.Option(help="Folder or URL of the shards, not the configuration's.")] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Start afresh, even if the shards are there or half made.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the manifest, without its index, as JSON.")] = False,
) -> None:
    """Read studies from an archive, turn reports into sentences, and write shards with a manifest.

    Running the same configuration again finds the finished shards and returns at once; a run that was broken off, by
    whatever, goes on from its last closed shards.  Studies that cannot be used are listed in quarantine.jsonl and stop
    the run when there are more of them than error_budget allows; nothing half-written takes the place of the output.
    On a cluster, part=3/16 makes the third of sixteen parts, and merge=16 joins them.

    Example: vlp ingest configs/ingest/shared_sample.yaml max_side_px=320 --output runs/small/shards
    """
    from vlp.cli.shards import show_counts
    from vlp.config import load
    from vlp.data.manifest import QUARANTINE_NAME
    from vlp.ingest.pipeline import IngestConfig
    from vlp.ingest.pipeline import ingest as run

    settings = load(IngestConfig, config, overrides or [])
    manifest = run(settings, output=output, again=again)
    folder = settings.target_for_part(output).name
    quarantine = f"{folder}/{QUARANTINE_NAME}" if manifest.faults else None
    if json_:
        print_json({"folder": folder, "quarantine": quarantine, "flow": flow(manifest), **manifest.summary()})
        return
    show_counts(Path(folder), manifest)
    note = f"why studies were refused: {quarantine}" if quarantine else ""
    print_table("From archive to shards", ("what", "why", "studies"), flow_rows(manifest), note=note)
    if manifest.part is not None:
        typer.echo(
            f"part {manifest.part} is done; when all are: vlp ingest {config} merge={manifest.part.split('/')[1]}"
        )
    elif "://" not in folder:
        typer.echo(f"look at them: vlp shards preview {folder}")


def flow(manifest: "Manifest") -> dict[str, Any]:
    """What became of every study that was read: written, refused by reason, left out by rule; the sums agree."""
    written = manifest.num_studies
    gone = sum(manifest.faults.values()) + sum(manifest.left_out.values())
    read = written + gone if manifest.read is None else manifest.read
    return {"read": read, "refused": manifest.faults, "left_out": manifest.left_out, "written": written}


def flow_rows(manifest: "Manifest") -> list[tuple[str, str, int]]:
    """The same, line by line."""
    found = flow(manifest)
    refused = sorted(found["refused"].items(), key=lambda item: -item[1])
    left_out = sorted(found["left_out"].items(), key=lambda item: -item[1])
    return [
        ("read", "", found["read"]),
        *(("refused", code, count) for code, count in refused),
        *(("left out", rule, count) for rule, count in left_out),
        ("written", "", found["written"]),
    ]
