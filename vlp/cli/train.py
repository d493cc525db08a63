"""`vlp train`: start a run, or continue it, with the same command; what kind of run its file says."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vlp.cli.console import print_facts, print_json, print_table
from vlp.config import Config, load, read_values
from vlp.errors import ConfigError

if TYPE_CHECKING:
    from vlp.evaluate.results import Result

TrainKind = Literal["pretraining", "segmentation_head", "probe"]


def train(
    path: Annotated[Path, typer.Argument(metavar="CONFIG", help="A file like configs/train/demo.yaml.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Changes, e.g. max_steps=100 loader.workers=4")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the summary for programs.")] = False,
) -> None:
    """Pretrain on shards.  The same command starts a run and, after any interruption, continues it.

    The run folder (`output`) gets config.yaml, metrics.csv, log.txt and checkpoints/; checkpoints/final is the model.
    A run of another configuration in that folder is refused, with the keys that differ.  Ctrl+C, SIGTERM and SIGUSR1
    end the step, save, and stop with exit status 128 + the signal's number (130, 143, 138).

    A file with `kind: segmentation_head` trains masks on a finished model, one with `kind: probe` reads its vectors
    with a few labels; both compare what they get with the model's own zero-shot answers.

    Example: vlp train configs/train/demo.yaml max_minutes=2
    """
    kind = train_kind(path)
    if kind == "segmentation_head":
        _segmentation(path, overrides or [], json_=json_)
    elif kind == "probe":
        _probe(path, overrides or [], json_=json_)
    else:
        _pretraining(path, overrides or [], json_=json_)


def train_kind(path: Path) -> TrainKind:
    """What a file of configs/train is for; without a `kind` it is for pretraining.

    Raises:
        ConfigError: for a file that cannot be read, or a kind that there is not.
    """
    kind = read_values(path).get("kind", "pretraining")
    if kind in ("segmentation_head", "probe"):
        known: TrainKind = kind
        return known
    if kind == "pretraining":
        return "pretraining"
    raise ConfigError(f"{path}: kind: {kind!r} is none of segmentation_head and probe; leave it out for pretraining")


def train_config_type(path: Path) -> type[Config]:
    """The class that a file of configs/train must satisfy.

    Raises:
        ConfigError: as `train_kind` does.
    """
    kind = train_kind(path)
    if kind == "segmentation_head":
        from vlp.heads.config import SegmentationHeadConfig

        return SegmentationHeadConfig
    if kind == "probe":
        from vlp.heads.probe import ProbeConfig

        return ProbeConfig
    from vlp.train.config import TrainConfig

    return TrainConfig


def _pretraining(path: Path, overrides: list[str], *, json_: bool) -> None:
    from vlp import log
    from vlp.train.config import TrainConfig
    from vlp.train.run import train as train_run
    from vlp.train.watching.logbook import summary

    run = train_run(load(TrainConfig, path, overrides))
    if log.rank() != 0:
        return  # one process of a group answers
    facts = summary(run)
    if json_:
        print_json(facts)
    else:
        print_facts("Training", {name: value for name, value in facts.items() if value is not None})
        typer.echo(f"Try: vlp classify {facts['checkpoint']} IMAGE", err=True)


def _segmentation(path: Path, overrides: list[str], *, json_: bool) -> None:
    from vlp.heads.config import SegmentationHeadConfig
    from vlp.heads.segmentation import train_head

    config = load(SegmentationHeadConfig, path, overrides)
    run = train_head(config)
    trained = run.card.trained
    if json_:
        print_json({"head": str(run.head), "trained": trained, "results": _rows(run.results)})
        return
    columns = {
        "Dice, head": "dice",
        "Dice, zero-shot map": "dice_zero_shot",
        "head - map": "dice_difference",
        "silent if absent, head": "silent_when_absent",
        "map": "silent_when_absent_zero_shot",
    }
    note = (
        f"{trained['masks']} masks on {trained['images']} images of {trained['patients']} patients, "
        f"{trained['steps']} steps in {trained['seconds']:.0f} s. {_SAYS}\n"
        f"Dice over images of {config.split} with the class, at thresholds from {config.threshold_split}.\n"
        f"Head: {run.head}"
    )
    _table(f"Head and zero-shot map, {config.split}", run.results, columns, note=note)
    typer.echo(f'Try: vlp ground {config.encoder} IMAGE "{run.card.prompts[0]}" --head {run.head}', err=True)


def _probe(path: Path, overrides: list[str], *, json_: bool) -> None:
    from vlp.heads.probe import ProbeConfig, run_probe

    config = load(ProbeConfig, path, overrides)
    results = run_probe(config)
    if json_:
        print_json({"output": str(config.output), "results": _rows(results)})
        return
    metrics = dict.fromkeys(row.metric for row in results if not row.metric.startswith("auroc_gain"))
    columns = {metric.removeprefix("auroc_").replace("_", " "): metric for metric in metrics}
    note = f"AUROC on {config.split}; gains over zero-shot in {config.output}/results.json. {_SAYS}"
    _table("Zero-shot and linear probes", results, columns, note=note)


_SAYS = "Intervals by resampling patients. Research use, not a medical device."


def _table(title: str, results: "list[Result]", columns: dict[str, str], *, note: str) -> None:
    cells = {(row.metric, row.finding): row.text for row in results}
    findings = dict.fromkeys(row.finding for row in results)
    rows = [(finding, *(cells.get((metric, finding), "") for metric in columns.values())) for finding in findings]
    print_table(title, ("finding", *columns), rows, note=note)


def _rows(results: "list[Result]") -> list[dict[str, Any]]:
    from dataclasses import asdict

    return [asdict(row) for row in results]
