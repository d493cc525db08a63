"""`vlp index`: build an index of cases and search it by image, by text or by study."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlp.cli.console import print_facts, print_json, print_table
from vlp.errors import ConfigError

if TYPE_CHECKING:
    from vlp.retrieval.index import Index
    from vlp.retrieval.search import Hit, Hits

app = typer.Typer(help="Build an index of cases and search it.", no_args_is_help=True, rich_markup_mode=None)

_NOTE = "Research use, not a medical device."
_REPORT_CHARACTERS = 160


@app.command()
def build(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint or a run folder.")],
    shards: Annotated[Path, typer.Argument(help="A folder of shards.")],
    out: Annotated[Path, typer.Argument(help="Folder of the index; an index that stands there is replaced.")],
    *,
    split: Annotated[list[str] | None, typer.Option(help="Only this split; may be repeated.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
    json_: Annotated[bool, typer.Option("--json", help="Print for programs.")] = False,
) -> None:
    """Embed every image of the shards and write the index, whole or not at all.

    Example: vlp index build runs/demo runs/demo/shards runs/demo/index --split train
    """
    from vlp.data import open_shards
    from vlp.inference.engine import load
    from vlp.retrieval import index

    reader = open_shards(shards)
    built = index.build(load(checkpoint, device=device), reader, out, splits=split)
    facts = built.facts.model_dump(mode="json")
    if json_:
        print_json(facts)
        return
    shown = ("images", "studies", "persons", "splits", "dim", "synthetic")
    print_facts(str(out), {name: facts[name] for name in shown})


@app.command()
def search(
    index: Annotated[Path, typer.Argument(help="An index folder.")],
    *,
    checkpoint: Annotated[
        Path | None, typer.Option(help="The checkpoint that built it; a stored study needs none.")
    ] = None,
    image: Annotated[Path | None, typer.Option(help="Search by this image, PNG or JPEG.")] = None,
    text: Annotated[str | None, typer.Option(help='Search by this sentence, e.g. "There is a nodule."')] = None,
    key: Annotated[str | None, typer.Option(help="Search by the study with this shard key.")] = None,
    shards: Annotated[
        Path | None, typer.Option(help="Shards the study lies in, where the index does not hold it.")
    ] = None,
    exclude_person: Annotated[
        str | None, typer.Option(help="Pseudonym of the person whose studies are left out.")
    ] = None,
    k: Annotated[int, typer.Option("-k", help="How many studies.")] = 5,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
    json_: Annotated[bool, typer.Option("--json", help="Print for programs.")] = False,
) -> None:
    """The studies closest to an image, a sentence or another study, with their findings and reports.

    Example: vlp index search runs/demo/index --checkpoint runs/demo --image chest.png -k 5
    """
    from vlp.retrieval import open_index

    if sum(query is not None for query in (image, text, key)) != 1:
        raise ConfigError("give exactly one of --image, --text and --key")
    if key is None and checkpoint is None:
        raise ConfigError("searching by image or text needs --checkpoint, the one that built the index")
    found = _search(
        open_index(index), checkpoint=checkpoint, image=image, text=text, key=key, shards=shards,
        exclude_person=exclude_person, k=k, device=device,
    )  # fmt: skip
    if json_:
        print_json(found.to_json())
        return
    rows = [(hit.score, _study(hit), hit.view, ", ".join(hit.present) or "none", _opening(hit)) for hit in found]
    columns = ("score", "study", "view", "findings present", "report")
    print_table(str(index), columns, rows, note=_note(found, exclude_person=exclude_person))


def _search(
    index: "Index",
    *,
    checkpoint: Path | None,
    image: Path | None,
    text: str | None,
    key: str | None,
    shards: Path | None,
    exclude_person: str | None,
    k: int,
    device: str,
) -> "Hits":
    from vlp.data import open_shards
    from vlp.inference.engine import load
    from vlp.ingest import read_image
    from vlp.retrieval import query

    pixels = read_image(image)[1] if image is not None else None
    reader = open_shards(shards) if shards is not None else None
    engine: Any = load(checkpoint, device=device) if checkpoint is not None else None
    if pixels is not None:
        return query.by_image(index, engine, pixels, k=k, exclude_person=exclude_person)
    if text is not None:
        return query.by_text(index, engine, text, k=k, exclude_person=exclude_person)
    assert key is not None
    return query.by_key(index, key, k=k, engine=engine, reader=reader)


def _study(hit: "Hit") -> str:
    return f"{hit.study}\n(the same image)" if hit.same_image else hit.study


def _note(found: "Hits", *, exclude_person: str | None) -> str:
    """What the scores are, who was left out, and what to do where the query met itself."""
    lines = [f"Score: cosine of {found.query} and image. {found.studies} studies searched, {found.excluded} left out."]
    if exclude_person is not None and not found.excluded:
        lines.append("The index holds no study of the person given with --exclude-person: is the pseudonym right?")
    itself = next((hit for hit in found if hit.same_image), None)
    if itself is not None:
        lines.append(
            "The same image: the archive holds the very image searched by (or one the model cannot tell from it).\n"
            f"To leave its person out: --exclude-person {itself.person}"
        )
    return "\n".join((*lines, _NOTE))


def _opening(hit: "Hit") -> str:
    """The beginning of the impression, or of the whole report where it has none."""
    from vlp.reports.sections import find_sections

    if hit.report is None:
        return "(no report)"
    impressions = [part for part in find_sections(hit.report) if part.name == "impression"]
    start, end = (impressions[0].start, impressions[0].end) if impressions else (0, len(hit.report))
    words = " ".join(hit.report[start:end].split())
    return words if len(words) <= _REPORT_CHARACTERS else words[: _REPORT_CHARACTERS - 3] + "..."
