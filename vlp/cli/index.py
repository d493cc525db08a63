"""`vlp index`: build an index of cases, search it, let cases come and go."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlp.cli.console import print_facts, print_json
from vlp.cli.index_search import search
from vlp.errors import ConfigError

if TYPE_CHECKING:
    from vlp.retrieval import Index

app = typer.Typer(
    help="Build an index of cases, search it, let cases come and go.", no_args_is_help=True, rich_markup_mode=None
)
app.command()(search)

_Folder = Annotated[Path, typer.Argument(help="An index folder.")]
_Kind = Annotated[
    str, typer.Option(help="auto (by the count of vectors), flat (exact), ivf_fastscan, ivf_sq8, or hnsw.")
]
_Recall = Annotated[float, typer.Option(help="Share of the true 10 nearest to be found; measured and stored.")]
_Memory = Annotated[float | None, typer.Option(help="GB that the vectors' searcher may take.")]
_Split = Annotated[list[str] | None, typer.Option(help="Only this split; may be repeated.")]
_Device = Annotated[str, typer.Option(help="auto, cpu, cuda ...")]
_Json = Annotated[bool, typer.Option("--json", help="Print for programs.")]


@app.command()
def build(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint or a run folder.")],
    shards: Annotated[Path, typer.Argument(help="A folder of shards.")],
    out: Annotated[Path, typer.Argument(help="Folder of the index; an index that stands there is replaced.")],
    *,
    split: _Split = None,
    kind: _Kind = "auto",
    recall: _Recall = 0.99,
    memory_gb: _Memory = None,
    device: _Device = "auto",
    json_: _Json = False,
) -> None:
    """Embed every image of the shards and write the index, whole or not at all.

    Example: vlp index build runs/demo runs/demo/shards runs/demo/index --split train
    """
    from vlp.data import open_shards
    from vlp.inference.engine import load
    from vlp.retrieval import index

    plan = _plan(kind, recall, memory_gb)
    reader = open_shards(shards)
    _show(index.build(load(checkpoint, device=device), reader, out, splits=split, **plan), as_json=json_)


@app.command()
def from_store(
    store: Annotated[Path, typer.Argument(help="A complete store of vectors, from vlp embed.")],
    out: Annotated[Path, typer.Argument(help="Folder of the index; an index that stands there is replaced.")],
    *,
    split: _Split = None,
    kind: _Kind = "auto",
    recall: _Recall = 0.99,
    memory_gb: _Memory = None,
    json_: _Json = False,
) -> None:
    """Write the index of vectors that vlp embed has made, with all kinds of them: of images, findings, regions.

    Example: vlp index from-store runs/demo/vectors runs/demo/index
    """
    from vlp.retrieval import index
    from vlp.retrieval.store import VectorStore

    plan = _plan(kind, recall, memory_gb)
    _show(index.from_store(VectorStore.open(store), out, splits=split, **plan), as_json=json_)


@app.command()
def add(
    index: _Folder,
    checkpoint: Annotated[Path, typer.Argument(help="The checkpoint that built the index.")],
    shards: Annotated[Path, typer.Argument(help="A folder of shards.")],
    *,
    split: _Split = None,
    update: Annotated[
        bool, typer.Option("--update", help="Also embed the studies that the index holds, and replace them.")
    ] = False,
    device: _Device = "auto",
    json_: _Json = False,
) -> None:
    """Embed the studies that the index does not hold yet and add them; interrupted, it goes on where it was.

    Example: vlp index add runs/demo/index runs/demo runs/new/shards
    """
    from vlp.data import open_shards
    from vlp.inference.engine import load
    from vlp.retrieval import open_index

    opened = open_index(index)
    engine, reader = load(checkpoint, device=device), open_shards(shards)
    taken = (opened.update if update else opened.add)(engine, reader, splits=split)
    _show(opened, as_json=json_, said={"updated or added" if update else "added": f"{taken} studies"})


@app.command()
def remove(
    index: _Folder,
    *,
    person: Annotated[str | None, typer.Option(help="Pseudonym of the person whose cases go.")] = None,
    key: Annotated[str | None, typer.Option(help="Shard key of the study that goes.")] = None,
    json_: _Json = False,
) -> None:
    """Never find the cases of a person, or a study, again; vlp index compact then removes them from the disk.

    Example: vlp index remove runs/demo/index --person 6a2f
    """
    from vlp.retrieval import open_index

    if (person is None) == (key is None):
        raise ConfigError("give exactly one of --person and --key")
    opened = open_index(index)
    removed = opened.remove(person=person, key=key)
    said = {"removed": f"{removed} images", "still on the disk": "until vlp index compact is run"}
    _show(opened, as_json=json_, said=said)


@app.command()
def compact(
    index: _Folder,
    *,
    kind: Annotated[str | None, typer.Option(help="Change the kind; auto chooses by the count of vectors.")] = None,
    recall: Annotated[float | None, typer.Option(help="Change the recall that is tuned for.")] = None,
    memory_gb: Annotated[float | None, typer.Option(help="Change the memory, in GB.")] = None,
    json_: _Json = False,
) -> None:
    """Build the searchers anew of what is there; what was removed leaves the disk.

    Example: vlp index compact runs/demo/index
    """
    from vlp.retrieval import open_index
    from vlp.retrieval.index import planned

    opened = open_index(index)
    plan = opened.facts.plan
    asked = _plan(kind or plan.kind, recall or plan.recall, memory_gb)
    memory = asked["memory_bytes"] or plan.memory_bytes
    opened.compact(plan=planned(asked["kind"], recall=asked["recall"], memory_bytes=memory))
    _show(opened, as_json=json_)


@app.command()
def merge(
    indexes: Annotated[list[Path], typer.Argument(help="Index folders that one checkpoint built.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder of the new index.")],
    json_: _Json = False,
) -> None:
    """One index of the cases of several, without embedding anything again.

    Example: vlp index merge runs/a/index runs/b/index --out runs/both
    """
    from vlp.retrieval import index

    _show(index.merge(indexes, out), as_json=json_)


@app.command()
def info(index: _Folder, *, json_: _Json = False) -> None:
    """What an index holds, how its vectors are searched, and what was last written to it.

    Example: vlp index info runs/demo/index
    """
    from vlp.retrieval import open_index

    _show(open_index(index), as_json=json_)


def _show(index: "Index", *, as_json: bool, said: dict[str, Any] | None = None) -> None:
    from vlp.retrieval.writing import read_journal

    facts = index.facts.model_dump(mode="json")
    vectors = [
        {"of": f"{space.kind}: {space.what}" if space.what else space.kind, **searcher.facts.model_dump(mode="json")}
        for space, searcher in index.snapshot.searchers()
    ]
    journal = [line.model_dump(mode="json") for line in read_journal(index.folder)[-5:]]
    if as_json:
        print_json(facts | (said or {}) | {"searchers": vectors, "journal": journal})
        return
    shown = ("images", "studies", "persons", "splits", "dim", "synthetic", "generation")
    lines = {name: facts[name] for name in shown} | (said or {})
    lines["checkpoint"] = facts["checkpoint"][:12]
    for number, one in enumerate(vectors, start=1):
        lines[f"searcher {number}"] = _searcher(one)
    if journal:
        lines["last write"] = f"{journal[-1]['what']}, {journal[-1]['state']}"
    print_facts(str(index.folder), lines)


def _searcher(one: dict[str, Any]) -> str:
    recall = one["recall"]
    measured = f", recall at {recall['k']} measured {recall['found']:.3f}" if recall is not None else ""
    size = one["bytes"] / 1e6
    return f"{one['count']} vectors of {one['of']}, {one['parameters']['kind']}, {size:.1f} MB{measured}"


def _plan(kind: str, recall: float, memory_gb: float | None) -> dict[str, Any]:
    return {
        "kind": kind,
        "recall": recall,
        "memory_bytes": None if memory_gb is None else max(1, round(memory_gb * 1e9)),
    }
