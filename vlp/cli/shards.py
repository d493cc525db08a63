"""`vlp shards`: validate, repair, count, compare and look at folders of shards."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vlp.cli.console import FAILED_CHECK, print_json, print_table

if TYPE_CHECKING:
    from vlp.data.duplicates import Found
    from vlp.data.faults import Fault
    from vlp.data.manifest import Manifest
    from vlp.data.repair import Repair
    from vlp.data.stats import DataCard

app = typer.Typer(
    help="Validate, repair, count, compare and look at folders of shards.", no_args_is_help=True, rich_markup_mode=None
)

_MAX_SHOWN = 50
_MAX_SHOWN_PLACES = 6

Folder = Annotated[Path, typer.Argument(help="A folder of shards, as vlp ingest writes it.")]
Json = Annotated[bool, typer.Option("--json", help="Print for programs.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Threads; default: one for each core.")]


@app.command()
def check(
    folder: Folder,
    *,
    repair: Annotated[
        bool, typer.Option("--repair", help="Write damaged tars anew from their whole studies and say what is lost.")
    ] = False,
    workers: Workers = None,
    json_: Json = False,
) -> None:
    """Read every byte and say what is wrong.

    Looks at sizes, checksums, members, descriptions, regions, images, figures, patients in two splits, studies that
    are there twice, and whatever a shard must not hold (links, paths, pickled files).  With --repair, damaged tars
    stay beside the new ones as .damaged.  Ends with status 0 if nothing is wrong (any more), 1 if there is a fault,
    2 if there is no readable manifest.

    Example: vlp shards check runs/demo/shards
    """
    from dataclasses import asdict

    if repair:
        from vlp.data.repair import repair as mend

        done = mend(folder, workers=workers)
        left = list(done.left)
        if json_:
            print_json({"folder": str(folder), "ok": not left, **asdict(done)})
        else:
            _show_repair(folder, done)
    else:
        from vlp.data.validate import check as find_faults

        left = find_faults(folder, workers=workers)
        if json_:
            print_json({"folder": str(folder), "ok": not left, "faults": [asdict(fault) for fault in left]})
        elif left:
            _show_faults(str(folder), left)
        else:
            typer.echo(f"{folder}: every shard is as it was written")
    if left:
        raise typer.Exit(FAILED_CHECK)


@app.command()
def stats(
    folder: Folder,
    *,
    out: Annotated[Path | None, typer.Option(help="Write the data card as a picture (.png) or a page (.md).")] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Folder with a tokenizer.json: sentence lengths in its tokens as well.")
    ] = None,
    json_: Json = False,
) -> None:
    """Count what is in it: a data card.

    Studies, images and persons per split; views, ages, sexes; findings by certainty; sentence lengths, places, what
    is present together; sources and licences; reports and images that are there twice.  No pixel is decoded.

    Example: vlp shards stats runs/demo/shards --out card.png
    """
    from vlp.data import open_shards
    from vlp.data.stats import make_card

    reader = open_shards(folder)
    count = None
    if tokenizer is not None:
        from vlp.data.tokens import Tokenizer

        count = Tokenizer.from_folder(tokenizer).count
    card = make_card(reader, count_tokens=count)
    if out is not None:
        from vlp.data.card import save

        save(card, out)
    if json_:
        print_json({"folder": str(folder), **reader.manifest.summary(), "card": card.values()})
        return
    show_counts(folder, reader.manifest)
    show_findings(reader.manifest)
    _show_card(card)
    if out is not None:
        typer.echo(f"{out}: data card")


@app.command()
def duplicates(
    folders: Annotated[list[Path], typer.Argument(help="One folder of shards or several.")],
    *,
    kind: Annotated[Literal["all", "image", "report"], typer.Option(help="What is compared.")] = "all",
    workers: Workers = None,
    json_: Json = False,
) -> None:
    """Find images and reports that are there more than once, within and across folders.

    Images are found however they were compressed, resized, padded or changed in brightness; reports if they differ in
    case, blanks and punctuation only.  An image in two splits is a leak: status 1.

    Example: vlp shards duplicates runs/nih/shards runs/rsna/shards
    """
    from dataclasses import asdict

    from vlp.data.duplicates import find_duplicates

    found = find_duplicates(folders, kinds=("image", "report") if kind == "all" else (kind,), workers=workers)
    if json_:
        groups = [asdict(group) | {"splits": sorted(group.splits), "leak": group.leak} for group in found.groups]
        print_json({"images": found.images, "reports": found.reports, "leaks": len(found.leaks), "groups": groups})
    else:
        _show_duplicates(found)
    if found.leaks:
        raise typer.Exit(FAILED_CHECK)


@app.command()
def overlap(
    train: Annotated[Path, typer.Argument(help="Shards that are trained on (their train and val splits).")],
    test: Annotated[Path, typer.Argument(help="Shards that are tested on.")],
    *,
    split: Annotated[Literal["train", "val", "test"], typer.Option(help="The split that is tested on.")] = "test",
    json_: Json = False,
) -> None:
    """Say what a test shares with training: persons, studies, image files, reports; and what is known of the sets.

    Ends with status 1 if a person, a study or an image is in both.  `vlp shards duplicates` also finds images that
    were saved anew.

    Example: vlp shards overlap runs/mimic/shards runs/ms_cxr/shards
    """
    from dataclasses import asdict

    from vlp.data import open_shards
    from vlp.data.overlap import Seen, sources, warnings

    trained, tested = open_shards(train), open_shards(test)
    same = train.resolve() == test.resolve()
    shared = Seen.of(trained, "train", "val").shared(Seen.of(tested, split))
    known = warnings({*sources(trained, "train"), *sources(trained, "val")}, sources(tested, split), same_shards=same)
    if json_:
        print_json({"shared": asdict(shared), "known": [asdict(entry) for entry in known]})
    else:
        typer.echo(shared.message)
        for entry in known:
            typer.echo(f"known: {entry.message}")
    if shared:
        raise typer.Exit(FAILED_CHECK)


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


def _show_faults(title: str, faults: "list[Fault]") -> None:
    rows = [(fault.shard, fault.key or "", fault.code, fault.message) for fault in faults[:_MAX_SHOWN]]
    note = f"{len(faults)} faults" + (f", the first {_MAX_SHOWN} shown" if len(faults) > len(rows) else "")
    print_table(title, ("file", "study", "fault", "what is wrong"), rows, note=note)


def _show_repair(folder: Path, done: "Repair") -> None:
    if not done.found:
        typer.echo(f"{folder}: every shard is as it was written; nothing to repair")
        return
    _show_faults(f"{folder}: found", list(done.found))
    if done.lost:
        rows = [(lost.shard, lost.key, lost.why) for lost in done.lost]  # all of them: this is what the person asked
        print_table(f"{folder}: lost", ("file", "study", "why"), rows, note=f"{len(rows)} studies lost")
    for name in done.rewritten:
        typer.echo(f"{name}: written anew; what was there is {name}.damaged")
    for name in done.removed:
        typer.echo(f"{name}: no study left; no longer in the manifest")
    for name, count in done.unproven.items():
        typer.echo(
            f"{name}: {count} studies kept although its checksum was wrong: they are whole and consistent, but "
            "not every changed pixel or word would show; make the shards again to be sure"
        )
    if done.left:
        _show_faults(f"{folder}: left, not to be repaired here", list(done.left))
    else:
        typer.echo(f"{folder}: every shard is whole now; {len(done.lost)} studies lost")


def _show_card(card: "DataCard") -> None:
    views = [(name, *(counts.get(name, 0) for counts in card.views.values())) for name in _names(card.views)]
    print_table("Images by view", ("view", *card.views), views)
    sexes = [(name, *(counts.get(name, 0) for counts in card.sexes.values())) for name in _names(card.sexes)]
    print_table("Studies by sex", ("sex", *card.sexes), sexes)
    ages = [(name, *(counts.get(name, 0) for counts in card.ages.values())) for name in _names(card.ages)]
    print_table("Studies by age in years", ("from", *card.ages), sorted(ages, key=lambda row: row[0].zfill(8)))
    lengths = {"sentences, words": card.words, "sentences, tokens": card.tokens, "reports, words": card.report_words}
    rows: list[tuple[Any, ...]] = [
        (name, found.count, found.median, found.p95, found.largest) for name, found in lengths.items() if found
    ]
    print_table("Lengths", ("of", "texts", "median", "95 %", "largest"), rows)
    places = list(card.locations.items())[:10]
    print_table("Commonest places", ("place", "sentences"), places)
    pairs = [(" and ".join(pair.findings), pair.studies, f"{pair.lift:g}") for pair in card.pairs[:10]]
    print_table("Present together", ("findings", "studies", "times chance"), pairs)
    same = {"reports": card.same_reports, "image files": card.same_images}
    rows = [(name, one.distinct, one.repeated, one.across_splits, one.most) for name, one in same.items() if one]
    print_table("There twice", ("of", "distinct", "repeated", "in several splits", "commonest"), rows)
    origins = {"source": card.sources, "licence": card.licenses, "language": card.languages}
    rows = [(kind, name, count) for kind, counts in origins.items() for name, count in counts.items()]
    print_table("Origins", ("of", "name", "studies"), rows)


def _names(counts: Any) -> list[str]:
    """Everything counted in any of some columns, in the order it is met."""
    return list(dict.fromkeys(name for column in counts.values() for name in column))


def _show_duplicates(found: "Found") -> None:
    for kind, looked in (("image", found.images), ("report", found.reports)):
        groups = [group for group in found.groups if group.kind == kind]
        groups.sort(key=lambda group: (not group.leak, -len(group.places)))
        if not groups:
            typer.echo(f"{looked} {kind}s looked at; none is there twice")
            continue
        rows = []
        for group in groups[:_MAX_SHOWN]:
            places = [f"{place.folder}: {place.split} {place.key}" for place in group.places[:_MAX_SHOWN_PLACES]]
            more = len(group.places) - len(places)
            rows.append(
                (len(group.places), "leak" if group.leak else "", "\n".join(places + [f"{more} more"] * bool(more)))
            )
        extra = sum(len(group.places) - 1 for group in groups)
        note = f"{looked} {kind}s looked at, {extra} of them copies of another, in {len(groups)} groups"
        print_table(f"The same {kind}", ("times", "", "where"), rows, note=note)
    if found.leaks:
        typer.echo(f"{len(found.leaks)} images are in more than one split: what is tested on was trained on")
