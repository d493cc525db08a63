"""`vlp prompts`: what models are asked, word for word, and whether it is asked well."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlp.cli.console import FAILED_CHECK, print_json, print_table

if TYPE_CHECKING:
    from vlp.prompts.protocols import Ask, Protocol

app = typer.Typer(help="Show, check and understand what models are asked.", no_args_is_help=True, rich_markup_mode=None)

File = Annotated[Path | None, typer.Option("--descriptors", help="A descriptor file; default: the package's.")]
Json = Annotated[bool, typer.Option("--json", help="Print for programs.")]


@app.command(name="list")
def list_(*, descriptors: File = None, json_: Json = False) -> None:
    """The protocols, the templates of paraphrases, and the findings of a descriptor set."""
    from vlp.prompts.descriptors import load_descriptors
    from vlp.prompts.protocols import PROTOCOLS
    from vlp.prompts.templates import ENSEMBLES, TEMPLATES

    known = load_descriptors(descriptors)
    counts = {name: len(known.observed.get(name, ())) for name in known.findings}
    review = f"reviewed by {known.reviewed_by}" if known.reviewed_by else known.note or "not reviewed"
    if json_:
        print_json(
            {
                "protocols": {
                    entry.name: {"reference": entry.reference, "rule": entry.rule, "differs": list(entry.differs)}
                    for entry in PROTOCOLS.values()
                },
                "templates": {name: list(pair) for name, pair in TEMPLATES.items()},
                "ensembles": {name: list(names) for name, names in ENSEMBLES.items()},
                "descriptors": {
                    "version": known.version,
                    "digest": known.digest,
                    "license": known.license,
                    "reviewed_by": known.reviewed_by,
                    "findings": counts,
                },
            }
        )
        return
    print_table("Protocols", ("name", "asks"), [(entry.name, entry.reference) for entry in PROTOCOLS.values()])
    rows = [(name, positive, negative) for name, (positive, negative) in TEMPLATES.items()]
    print_table("Templates of paraphrases", ("name", "says it is there", "says it is not"), rows)
    print_table(
        f"Descriptors, version {known.version}",
        ("finding", "descriptors"),
        list(counts.items()),
        note=f"{sum(counts.values())} descriptors, {review}. Digest {known.digest}. Licence {known.license}.\n"
        "Research use, not a medical device.",
    )


@app.command()
def show(
    protocol: Annotated[str, typer.Argument(help="A protocol's name, or: paraphrases.")],
    findings: Annotated[list[str] | None, typer.Argument(help="Findings in any spelling; default: all.")] = None,
    *,
    descriptors: File = None,
    json_: Json = False,
) -> None:
    """The very sentences a protocol asks for each finding.

    Example: vlp prompts show xplainer "pleural effusion"
    """
    from vlp.prompts.descriptors import load_descriptors
    from vlp.prompts.protocols import protocol as by_name
    from vlp.prompts.templates import paraphrases

    known = load_descriptors(descriptors)
    names = [known.resolve(name) for name in findings or known.findings]
    if protocol == "paraphrases":
        asked = {name: paraphrases(name) for name in names}
        _print_asks("Paraphrases", asked, note="Each is a question of its own.", json_=json_)
        return
    chosen = by_name(protocol)
    asked = {name: chosen.pairs(name, known) for name in names}
    _print_asks(f"Protocol {chosen.name}", asked, note=_facts(chosen), json_=json_)


def _print_asks(title: str, asked: "dict[str, tuple[Ask, ...]]", *, note: str, json_: bool) -> None:
    if json_:
        print_json({name: [_values(ask) for ask in asks] for name, asks in asked.items()})
        return
    rows = [
        (name, ask.text, "\n".join(ask.positives), "\n".join(ask.negatives) or "-")
        for name, asks in asked.items()
        for ask in asks
    ]
    rows += [(name, "1 - the highest of the others", "-", "-") for name, asks in asked.items() if not asks]
    print_table(title, ("finding", "what", "says it is there", "says it is not"), rows, note=note)


def _values(ask: "Ask") -> dict[str, object]:
    return {
        "id": ask.id,
        "text": ask.text,
        "anatomy": ask.anatomy,
        "positives": list(ask.positives),
        "negatives": list(ask.negatives),
    }


def _facts(protocol: "Protocol") -> str:
    scale = "the model's own logits" if protocol.temperature is None else f"cosines / {protocol.temperature}"
    lines = [
        protocol.reference,
        f"Rule: {protocol.rule} on {scale}; pooling: {protocol.pooling}; views: {protocol.fusion}.",
        *(f"Differs: {line}." for line in protocol.differs),
    ]
    return "\n".join(lines)


@app.command()
def lint(
    file: Annotated[Path | None, typer.Argument(help="A descriptor file; default: the package's.")] = None,
    *,
    json_: Json = False,
) -> None:
    """Check the grammar, meaning, sides, anatomy and origin of a descriptor file; exit status 1 if there are errors."""
    from vlp.prompts.lint import lint as check_file

    faults = check_file(file)
    errors = sum(fault.severity == "error" for fault in faults)
    rows = [(fault.severity, fault.where, fault.what, fault.advice) for fault in faults]
    if json_:
        print_json([dict(zip(("severity", "where", "what", "advice"), row, strict=True)) for row in rows])
    elif rows:
        print_table("Descriptors", ("severity", "where", "what", "advice"), rows)
    if not json_:
        typer.echo(f"{errors} errors, {len(faults) - errors} warnings")
    if errors:
        raise typer.Exit(FAILED_CHECK)


@app.command()
def check(
    texts: Annotated[list[str], typer.Argument(help="Prompts, as one would give them to `vlp ground`.")],
    *,
    json_: Json = False,
) -> None:
    """What is made of prompts: what they state, and what is wrong with them; exit status 1 if one would be refused.

    Length in tokens depends on a model and is judged when one is asked.
    """
    from vlp.prompts.understanding import understand

    understood = [understand(text) for text in texts]
    if json_:
        print_json([answer.to_json() for answer in understood])
    else:
        rows = [
            (
                answer.text[:60] or "(empty)",
                ", ".join(answer.findings) or "-",
                "-" if answer.certainty is None else str(answer.certainty),
                answer.side or "-",
                "\n".join(f"{note.severity}: {note.code}: {note.message}" for note in answer.notes) or "good",
            )
            for answer in understood
        ]
        print_table("Prompts", ("text", "finding", "says", "side", "remarks"), rows)
    if any(note.severity == "refuse" for answer in understood for note in answer.notes):
        raise typer.Exit(FAILED_CHECK)
