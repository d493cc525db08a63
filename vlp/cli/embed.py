"""`vlp embed`: an archive's vectors, made once and kept for indices and comparisons."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlp.cli.console import print_facts, print_json
from vlp.errors import ConfigError

if TYPE_CHECKING:
    from vlp.ingest.partition import Part
    from vlp.retrieval.store import VectorStore


def embed(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint or a run folder.")],
    shards: Annotated[str, typer.Argument(help="A folder of shards, or the URL of one.")],
    out: Annotated[Path, typer.Argument(help="Folder of the store; one that is not complete is gone on with.")],
    *,
    kinds: Annotated[
        str, typer.Option(help="global (a study), view (an image), finding, region; separated by commas.")
    ] = "global,view",
    findings: Annotated[
        str | None,
        typer.Option(help="With the kind finding: which ones, separated by commas; all that have labels if not given."),
    ] = None,
    split: Annotated[list[str] | None, typer.Option(help="Only this split; may be repeated.")] = None,
    part: Annotated[str | None, typer.Option(help="Only these shards, e.g. 3/16: the third of sixteen parts.")] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Only see that all parts are there; without it, missing ones are made.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
    json_: Annotated[bool, typer.Option("--json", help="Print for programs.")] = False,
) -> None:
    """Bring every image of the shards through the model once and keep its vectors, going on where it was stopped.

    Example: vlp embed runs/demo runs/demo/shards runs/demo/vectors --kinds global,view,finding
    """
    from vlp.data import open_shards
    from vlp.inference.engine import load
    from vlp.retrieval.store import embed as fill
    from vlp.retrieval.store import merge as join

    named = None if findings is None else _words(findings)
    own = _part(part)
    if merge:
        if own is not None:
            raise ConfigError("--merge is for all parts; leave --part away")
        _show(join(out), as_json=json_)
        return
    store = fill(
        load(checkpoint, device=device), open_shards(shards), out,
        kinds=_words(kinds), splits=split, findings=named, part=own,  # type: ignore[arg-type]  # judged there
    )  # fmt: skip
    _show(store, as_json=json_)


def _words(text: str) -> list[str]:
    return [word for word in (part.strip() for part in text.split(",")) if word]


def _part(text: str | None) -> "Part | None":
    from vlp.ingest.partition import Part

    try:
        return None if text is None else Part.parse(text)
    except ValueError as error:
        raise ConfigError(f"--part {text}: {error}") from None


def _show(store: "VectorStore", *, as_json: bool) -> None:
    facts = store.facts
    shown: dict[str, Any] = {
        "complete": not store.missing,
        "parts": len(facts.parts),
        "parts_missing": len(store.missing),
        "studies": facts.studies,
        "images": facts.images,
        "vectors": facts.counts,
        "findings": facts.plan.findings,
        "dim": store.dim,
        "bytes": sum(sum(part.bytes.values()) for part in facts.parts),
        "checkpoint": facts.plan.checkpoint,
        "synthetic": facts.synthetic,
    }
    if as_json:
        print_json(shown)
        return
    shown["vectors"] = ", ".join(f"{count} {kind}" for kind, count in facts.counts.items())
    shown["findings"] = ", ".join(facts.plan.findings) or "none"
    shown["checkpoint"] = facts.plan.checkpoint[:12]
    print_facts(str(store.folder), shown)
