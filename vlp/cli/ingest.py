"""`vlp ingest`: an archive of studies to shards."""

from pathlib import Path
from typing import Annotated

import typer

from vlp.cli.console import print_facts, print_json


def ingest(
    config: Annotated[Path, typer.Argument(help="Configuration, e.g. configs/ingest/shared_sample.yaml.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key.path=value ...")] = None,
    *,
    output: Annotated[Path | None, typer.Option(help="Folder of the shards, instead of the configuration's.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Make the shards again even if they are there.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the manifest, without its index, as JSON.")] = False,
) -> None:
    """Read studies from an archive, turn reports into sentences, and write shards with a manifest.

    Running the same configuration again finds the finished shards and returns at once.  Damaged studies are counted,
    and stop the run when there are more of them than error_budget allows; nothing half-written is left.

    Example: vlp ingest configs/ingest/shared_sample.yaml max_side_px=320 --output runs/small/shards
    """
    from vlp.cli.shards import show_counts
    from vlp.config import load
    from vlp.ingest.pipeline import IngestConfig
    from vlp.ingest.pipeline import ingest as run

    settings = load(IngestConfig, config, overrides or [])
    manifest = run(settings, output=output, again=again)
    folder = output or settings.output
    if json_:
        print_json({"folder": str(folder), **manifest.summary()})
        return
    show_counts(folder, manifest)
    if manifest.faults:
        print_facts("Left out", manifest.faults)
    typer.echo(f"look at them: vlp shards preview {folder}")
