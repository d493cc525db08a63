"""`vlp index search`: the cases most like an image, a part of it, a sentence or a study, and what they say together."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlp.cli.console import print_json, print_table
from vlp.errors import ConfigError

if TYPE_CHECKING:
    from vlp.data import ShardReader
    from vlp.inference.engine import Engine
    from vlp.records import Box
    from vlp.retrieval import Filter, Hit, Hits, Index

NOTE = "Research use, not a medical device."
_REPORT_CHARACTERS = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What the command line says is searched by."""

    index: "Index"
    engine: "Engine | None"
    reader: "ShardReader | None"
    image: Any
    text: str | None
    key: str | None
    box: "Box | None"
    finding: str | None
    text_weight: float
    exclude_person: str | None
    only: "Filter | None"
    keep_duplicates: bool

    def hits(self, k: int) -> "Hits":
        """The k studies."""
        from vlp.retrieval import query

        parts: dict[str, Any] = {
            "box": self.box, "text": self.text, "text_weight": self.text_weight, "finding": self.finding,
        }  # fmt: skip
        if self.key is not None:
            return query.by_key(
                self.index, self.key, k=k, engine=self.engine, reader=self.reader, only=self.only, **parts
            )
        assert self.engine is not None
        if self.image is None:
            assert self.text is not None
            return query.by_text(
                self.index, self.engine, self.text, k=k, exclude_person=self.exclude_person, only=self.only
            )
        return query.by_image(
            self.index, self.engine, self.image, k=k, exclude_person=self.exclude_person, only=self.only,
            keep_duplicates=self.keep_duplicates, **parts,
        )  # fmt: skip

    def shown(self) -> Any:
        """The same for a contact sheet."""
        from vlp.retrieval import query
        from vlp.retrieval.why import Asked

        vector = None
        if self.key is not None:
            assert self.reader is not None
            asked = Asked.of_study(self.reader, self.key, engine=self.engine)
        else:
            asked = Asked(pixels=self.image, text=self.text)
        if self.box is not None:
            assert self.engine is not None
            picture: Any = asked.seen if asked.seen is not None else asked.pixels
            vector = query.vector_of(self.index, self.engine, picture, box=self.box)
        return replace(asked, text=self.text, finding=self.finding, box=self.box, vector=vector)


def search(
    index: Annotated[Path, typer.Argument(help="An index folder.")],
    *,
    checkpoint: Annotated[
        Path | None, typer.Option(help="The checkpoint that built it; a stored study needs none.")
    ] = None,
    image: Annotated[Path | None, typer.Option(help="Search by this image: PNG, JPEG or DICOM.")] = None,
    text: Annotated[
        str | None, typer.Option(help='Search by this sentence, e.g. "There is a nodule."; with an image, by both.')
    ] = None,
    key: Annotated[str | None, typer.Option(help="Search by the study with this shard key.")] = None,
    box: Annotated[str | None, typer.Option(help="Only by this part of the image: x0,y0,x1,y1 in its pixels.")] = None,
    like_finding: Annotated[
        str | None, typer.Option(help='By what is seen of a finding, e.g. "pleural effusion": "a similar effusion".')
    ] = None,
    text_weight: Annotated[float, typer.Option(help="Of the text, where image and text are searched by.")] = 0.5,
    shards: Annotated[
        Path | None, typer.Option(help="Shards the study lies in, where the index does not hold it; for sheets, too.")
    ] = None,
    filter_: Annotated[
        list[str] | None,
        typer.Option("--filter", help='Only such cases, e.g. "finding=mass", "not view=lateral", "age=40..60".'),
    ] = None,
    exclude_person: Annotated[
        str | None, typer.Option(help="Pseudonym of the person whose studies are left out.")
    ] = None,
    keep_duplicates: Annotated[
        bool, typer.Option("--keep-duplicates", help="Also find cases that hold this very image; they are marked.")
    ] = False,
    k: Annotated[int, typer.Option("-k", help="How many studies.")] = 5,
    vote: Annotated[bool, typer.Option("--vote", help="Also let the neighbours vote on findings.")] = False,
    draft: Annotated[
        bool, typer.Option("--draft", help="Also a draft of findings in the neighbours' own sentences.")
    ] = False,
    neighbours: Annotated[int, typer.Option(help="How many vote.")] = 50,
    sheet: Annotated[
        Path | None, typer.Option(help="Also a contact sheet, .png or .html; needs --shards, for maps --checkpoint.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
    json_: Annotated[bool, typer.Option("--json", help="Print for programs.")] = False,
) -> None:
    """The studies closest to an image, a sentence or another study, with their findings and reports.

    Example: vlp index search runs/demo/index --checkpoint runs/demo --image chest.png -k 5
    """
    _refuse_unclear(image=image, text=text, key=key, checkpoint=checkpoint, box=box, finding=like_finding)
    if sheet is not None and shards is None:
        raise ConfigError("a sheet shows the cases' images: give the shards they lie in with --shards")
    asked = _asked(
        index, checkpoint=checkpoint, image=image, text=text, key=key, box=box, finding=like_finding,
        text_weight=text_weight, shards=shards, filters=filter_ or [], exclude_person=exclude_person,
        keep_duplicates=keep_duplicates, device=device,
    )  # fmt: skip
    every = asked.hits(max(k, neighbours) if vote or draft else k)
    found = replace(every, hits=every.hits[:k])
    if sheet is not None:
        _write_sheet(sheet, asked, found)
    evidence = _evidence(every, vote=vote, draft=draft, k=neighbours)
    if json_:
        print_json(found.to_json() | {name: one for name, (one, _) in evidence.items()})
        return
    rows = [(hit.score, _study(hit), hit.view, ", ".join(hit.present) or "none", _opening(hit)) for hit in found]
    columns = ("score", "study", "view", "findings present", "report")
    print_table(str(index), columns, rows, note=_note(found, asked))
    for _, words in evidence.values():
        typer.echo(f"\n{words}")


def _refuse_unclear(
    *, image: Path | None, text: str | None, key: str | None, checkpoint: Path | None, box: str | None,
    finding: str | None,
) -> None:  # fmt: skip
    if (image is not None and key is not None) or not any(value is not None for value in (image, text, key)):
        raise ConfigError("give exactly one of --image, --text and --key; a text may also go with one of the others")
    if key is None and checkpoint is None:
        raise ConfigError("searching by image or text needs --checkpoint, the one that built the index")
    if image is None and key is None and (box is not None or finding is not None):
        raise ConfigError("--box and --like-finding are of an image: give it with --image or --key")


def _asked(
    folder: Path, *, checkpoint: Path | None, image: Path | None, shards: Path | None, filters: list[str],
    box: str | None, finding: str | None, device: str, **rest: Any,
) -> _Asked:  # fmt: skip
    from vlp.data import open_shards
    from vlp.inference.engine import load
    from vlp.ingest import read_image
    from vlp.retrieval import Filter, open_index
    from vlp.retrieval.query import finding_name

    opened = open_index(folder)
    return _Asked(
        index=opened,
        image=read_image(image)[1] if image is not None else None,
        reader=open_shards(shards) if shards is not None else None,
        engine=load(checkpoint, device=device) if checkpoint is not None else None,
        only=Filter.parse(*filters) if filters else None,
        box=_box(box) if box is not None else None,
        finding=finding_name(finding) if finding is not None else None,
        **rest,
    )


def _box(text: str) -> "Box":
    try:
        x0, y0, x1, y1 = (float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--box {text[:40]!r}: expected x0,y0,x1,y1 in pixels of the image") from None
    return x0, y0, x1, y1


def _write_sheet(path: Path, asked: _Asked, found: "Hits") -> None:
    from vlp.retrieval.sheet import write_sheet

    assert asked.reader is not None
    # It counts those who were left out itself.
    write_sheet(path, asked.shown(), found, reader=asked.reader, engine=asked.engine, remarks=_filtered(found, asked))


def _evidence(hits: "Hits", *, vote: bool, draft: bool, k: int) -> dict[str, tuple[Any, str]]:
    """What was asked for beside the cases: for programs, and in words."""
    from vlp.retrieval.draft import draft as compose
    from vlp.retrieval.vote import ballots

    found: dict[str, tuple[Any, str]] = {}
    if vote:
        votes = ballots(hits, k=k)
        lines = [
            f"{one.finding}: {one.share:.0%} of the {one.known} neighbours who say anything of it, by weight"
            for one in votes
            if one.share is not None
        ]
        words = "\n".join((f"Vote of the nearest {min(k, len(hits))}; no probability of disease. {NOTE}", *lines))
        found["votes"] = [one.to_json() for one in votes], words
    if draft:
        composed = compose(hits, k=k)
        found["draft"] = composed.to_json(), composed.text
    return found


def _study(hit: "Hit") -> str:
    return f"{hit.study}\n(the same image)" if hit.same_image else hit.study


def _note(found: "Hits", asked: _Asked) -> str:
    """What the scores are, who was left out, and what to do where the query met itself."""
    weights = f" Weights of image and text: {found.weights[0]:g}, {found.weights[1]:g}." if found.weights else ""
    lines = [f"Score: cosine of {found.query} and {found.with_what}.{weights}", *_counts(found, asked)]
    person = asked.exclude_person
    if person is not None and not found.excluded:
        lines.append("The index holds no study of the person given with --exclude-person: is the pseudonym right?")
    if asked.key is None and "near duplicate" in found.excluded_why:
        lines.append(
            "The archive holds the very image searched by, or a copy of it: its person is left out. "
            "--keep-duplicates shows it."
        )
    itself = next((hit for hit in found if hit.same_image), None)
    if itself is not None:
        lines.append(
            "The same image: the archive holds the very image searched by (or one the model cannot tell from it).\n"
            f"To leave its person out: --exclude-person {itself.person}, or no --keep-duplicates"
        )
    return "\n".join((*lines, NOTE))


def _counts(found: "Hits", asked: _Asked) -> list[str]:
    why = ", ".join(f"{count} {reason}" for reason, count in found.excluded_why.items())
    searched = f"{found.studies} studies searched, {found.excluded} left out{f' ({why})' if why else ''}."
    return [searched, *_filtered(found, asked)]


def _filtered(found: "Hits", asked: _Asked) -> list[str]:
    if asked.only is None:
        return []
    return [f"Only {asked.only}: {found.filtered} other studies were not searched."]


def _opening(hit: "Hit") -> str:
    """The beginning of the impression, or of the whole report where it has none."""
    from vlp.reports.sections import find_sections

    if hit.report is None:
        return "(no report)"
    impressions = [part for part in find_sections(hit.report) if part.name == "impression"]
    start, end = (impressions[0].start, impressions[0].end) if impressions else (0, len(hit.report))
    words = " ".join(hit.report[start:end].split())
    return words if len(words) <= _REPORT_CHARACTERS else words[: _REPORT_CHARACTERS - 3] + "..."
